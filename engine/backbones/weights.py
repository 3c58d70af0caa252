"""Where the parameters of a trunk come from, and the preprocessing that belongs to them."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import torch
from torch import Tensor

from engine.backbones import TRUNKS
from engine.backbones.untrained import untrained_state
from engine.backbones.weight_files import Preprocessing, read_state
from engine.errors import InvalidOption, WeightsUnavailable

__all__ = [
    "AUTO",
    "BUNDLED",
    "NAMED",
    "PUBLISHED",
    "Preprocessing",
    "Progress",
    "Published",
    "Weights",
    "choose_trunk",
    "default_cache_dir",
    "download",
    "load_weights",
    "state_digest",
]

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (bytes so far, bytes in all or 0) while a file is downloaded."""


@dataclass(frozen=True)
class Weights:
    """Parameters of one trunk.

    Attributes:
        name: how to ask for them again: `imagenet`, `bundled`, `untrained`, or the path of a file.
        digest: SHA-256 over names, shapes and values, and over `preprocessing` where it is not
            the usual one; the same for every file format.
        trained: False for seeded parameters, which only find copies and near-duplicates.
        notice: one sentence for people, shown in the log, on `/version` and on the page.
        fallback: whether `auto` had to make do with them; `notice` says why.
    """

    name: str
    digest: str
    state: dict[str, Tensor]
    preprocessing: Preprocessing
    trained: bool
    notice: str
    fallback: bool = False


@dataclass(frozen=True)
class Published:
    """A file of torchvision's model zoo; `sha256` is the beginning of its digest."""

    url: str
    sha256: str

    @property
    def file_name(self) -> str:
        return self.url.rsplit("/", 1)[1]


PUBLISHED = {
    "vgg16": Published("https://download.pytorch.org/models/vgg16-397923af.pth", "397923af"),
    "squeezenet1_1": Published(
        "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth", "b8a52dc0"
    ),
    "resnet101": Published(
        "https://download.pytorch.org/models/resnet101-63fe2227.pth", "63fe2227"
    ),
}


BUNDLED = {"vgg_lite": Path(__file__).parent / "bundled" / "vgg_lite.safetensors"}
"""Weights that ship with the package, by trunk; see `docs/bundled-weights.md`."""

AUTO = "auto"
NAMED = (AUTO, "imagenet", "bundled", "untrained")
"""Specs of weights that are no files."""
PREFERRED = "vgg16"
"""The paper's trunk: what `auto` means where its ImageNet weights can be had."""


def default_cache_dir() -> Path:
    """`~/.cache/cooc`: where downloaded weights are kept."""
    return Path.home() / ".cache" / "cooc"


def load_weights(
    backbone: str,
    spec: str = "auto",
    *,
    cache_dir: Path | None = None,
    connect_timeout_s: float = 3.0,
    progress: Progress | None = None,
) -> Weights:
    """Find the weights that `spec` names for `backbone`.

    Args:
        backbone: name of the trunk.
        spec: `imagenet` (published torchvision weights, cached or downloaded), `bundled` (shipped
            with the package, of `vgg_lite`), `untrained` (seeded), a path to a .safetensors, .pth
            or .pt file, or `auto`: bundled if there are any, else imagenet.
        connect_timeout_s: seconds until a missing network is taken for granted.

    Raises: WeightsUnavailable with the remedy, InvalidOption for a spec that is none of these.
    """
    folder = cache_dir or default_cache_dir()
    if spec == "imagenet":
        return _imagenet(backbone, folder, connect_timeout_s, progress)
    if spec == "untrained":
        return _untrained(backbone)
    if spec == "bundled" or (spec == AUTO and backbone in BUNDLED):
        return _bundled(backbone)
    if spec == AUTO:
        return _imagenet(backbone, folder, connect_timeout_s, progress)
    path = Path(spec).expanduser()
    if not path.is_file():
        raise InvalidOption(
            f"weights {spec!r} are neither 'auto', 'imagenet', 'bundled', 'untrained' nor an "
            "existing file"
        )
    return _from_file(path.resolve())


def choose_trunk(
    backbone: str,
    spec: str,
    *,
    layer: str | None = None,
    cache_dir: Path | None = None,
    connect_timeout_s: float = 3.0,
    progress: Progress | None = None,
) -> tuple[str, Weights]:
    """Trunk and weights where either may be left to us.

    Args:
        backbone: a trunk, or `auto`: the one that a file given as `spec` fits. With `auto` weights
            that is the paper's VGG16 with ImageNet weights if they are cached or can be
            downloaded, else the trunk whose weights ship with the package.
        spec: as for `load_weights`.
        layer: as `build_trunk` takes it; one that the bundled trunk does not have rules it out.

    Raises: WeightsUnavailable, InvalidOption.
    """
    fallback = next(iter(BUNDLED))
    chosen = backbone
    if backbone == AUTO:
        chosen = fallback if spec == "bundled" else PREFERRED
        if spec not in NAMED:
            weights = load_weights(chosen, spec)
            return _fitting(weights), weights
    try:
        weights = load_weights(
            chosen,
            spec,
            cache_dir=cache_dir,
            connect_timeout_s=connect_timeout_s,
            progress=progress,
        )
    except WeightsUnavailable as error:
        if spec not in (AUTO, "imagenet"):
            raise
        if backbone != AUTO or spec != AUTO:
            raise WeightsUnavailable(
                f"{error}; or leave COOC_BACKBONE and COOC_WEIGHTS at auto: then the bundled "
                f"{fallback} is used"
            ) from error
        if layer is not None and not set(layer.split("+")) <= set(TRUNKS[fallback].layers):
            raise WeightsUnavailable(
                f"{error}; or leave COOC_LAYER out: then the bundled {fallback} is used, which "
                f"has no layer {layer!r}"
            ) from error
        bundled = _bundled(fallback)
        notice = (
            f"In use are {bundled.notice}, as ImageNet weights of {chosen} could not be had "
            f"({error})"
        )
        return fallback, replace(bundled, notice=notice, fallback=True)
    return chosen, weights


def _fitting(weights: Weights) -> str:
    """The trunk that parameters of these names and shapes are of, or are the beginning of.

    Raises: WeightsUnavailable if there is none.
    """
    for name, trunk in TRUNKS.items():
        own = trunk.shapes()
        with torch.device("meta"):
            first = trunk(trunk.layers[0]).state_dict()
        needed = {key for key in first if not key.endswith(".num_batches_tracked")}
        if needed <= weights.state.keys() and all(
            own.get(key) == value.shape for key, value in weights.state.items()
        ):
            return name
    raise WeightsUnavailable(
        f"weights {weights.name!r} fit none of {', '.join(TRUNKS)}; choose --backbone to see what "
        "does not fit"
    )


def _bundled(backbone: str) -> Weights:
    if backbone not in BUNDLED:
        raise WeightsUnavailable(
            f"no weights of {backbone} are bundled, only of {', '.join(BUNDLED)}; use 'imagenet' "
            "or a file, or choose that backbone"
        )
    weights = _from_file(BUNDLED[backbone])
    return replace(
        weights,
        name="bundled",
        notice=f"the weights of {backbone} that ship with the package",
    )


def _from_file(path: Path) -> Weights:
    state, preprocessing = read_state(path)
    digest = state_digest(state)
    if preprocessing != Preprocessing():
        digest = hashlib.sha256(f"{digest} {preprocessing}".encode()).hexdigest()
    return Weights(
        name=str(path),
        digest=digest,
        state=state,
        preprocessing=preprocessing,
        trained=True,
        notice=f"weights from {path.name}",
    )


def _untrained(backbone: str) -> Weights:
    state = untrained_state(backbone)
    return Weights(
        name="untrained",
        digest=state_digest(state),
        state=state,
        preprocessing=Preprocessing(),
        trained=False,
        notice=(
            f"The {backbone} trunk is untrained: it finds copies, crops and near-duplicates, "
            "not other photos of the same object. For those, leave COOC_WEIGHTS and "
            "COOC_BACKBONE at auto, or set COOC_WEIGHTS to a file."
        ),
    )


def cached(backbone: str, cache_dir: Path | None = None) -> Path | None:
    """The published weights of `backbone` where they were downloaded to or copied; None if they are
    in none of those places, or damaged."""
    published = PUBLISHED[backbone]
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    for folder in (cache_dir or default_cache_dir(), hub):
        path = folder / published.file_name
        if _file_digest(path).startswith(published.sha256):
            return path
    return None


def _imagenet(
    backbone: str, folder: Path, connect_timeout_s: float, progress: Progress | None
) -> Weights:
    if backbone not in PUBLISHED:
        raise WeightsUnavailable(f"no published ImageNet weights are known for {backbone}")
    published = PUBLISHED[backbone]
    path = cached(backbone, folder)
    if path is None:
        path = folder / published.file_name
        download(published, path, connect_timeout_s=connect_timeout_s, progress=progress)
    state, preprocessing = read_state(path)
    return Weights(
        name="imagenet",
        digest=state_digest(state),
        state=state,
        preprocessing=preprocessing,
        trained=True,
        notice=f"ImageNet weights of {backbone} (torchvision)",
    )


def download(
    published: Published,
    path: Path,
    *,
    connect_timeout_s: float = 3.0,
    progress: Progress | None = None,
) -> None:
    """Fetch a published file to `path`; it appears there only complete and with its digest.

    Raises: WeightsUnavailable within seconds where there is no network.
    """
    timeout = httpx.Timeout(30.0, connect=connect_timeout_s)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    content = hashlib.sha256()
    log.info("downloading %s", published.url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            httpx.stream("GET", published.url, timeout=timeout, follow_redirects=True) as answer,
            partial.open("wb") as out,
        ):
            answer.raise_for_status()
            total, received = int(answer.headers.get("content-length", 0)), 0
            for chunk in answer.iter_bytes(1 << 20):
                out.write(chunk)
                content.update(chunk)
                received += len(chunk)
                if progress:
                    progress(received, total)
        if not content.hexdigest().startswith(published.sha256):
            raise WeightsUnavailable(
                f"{published.url} has digest {content.hexdigest()[:8]}, not {published.sha256}: "
                "the download is damaged; try again"
            )
        partial.replace(path)
    except (httpx.HTTPError, OSError) as error:
        raise WeightsUnavailable(
            f"cannot download {published.url} ({type(error).__name__}: {error}); "
            f"copy the file to {path}, or set COOC_WEIGHTS to a file you have"
        ) from error
    finally:
        # Not even its folder may exist; that is no second error.
        with contextlib.suppress(OSError):
            partial.unlink()


def state_digest(state: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values of a state dict, as 64 hexadecimal digits."""
    content = hashlib.sha256()
    for name, value in sorted(state.items()):
        content.update(f"{name}:{tuple(value.shape)}".encode())
        content.update(value.contiguous().cpu().numpy().tobytes())
    return content.hexdigest()


def _file_digest(path: Path) -> str:
    """SHA-256 of a file; empty where none can be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
