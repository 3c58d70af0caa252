"""Raw descriptors of many image files under several poolings, from the cache where they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from engine.describer import Describer
from engine.errors import EngineError, InvalidOption
from engine.evaluation.cache import DescriptorCache
from engine.evaluation.cache_keys import description_digest, file_key
from engine.files.storage import write_atomically
from engine.images import Box
from engine.pooling import Pooling
from engine.pooling.layered import Layered
from engine.pooling.regions import RMac
from engine.types import Vectors

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""

HOLDING_BYTES = 12
FITTING_BYTES = 40
"""Memory for each value of the descriptors: float32, and a copy of what is compared. Fitting a
projection makes copies in double precision: a peak of 39 to 41 bytes was measured."""

NAMED_BESIDES = 5
"""Bad images that an error names besides the first."""

FIT_IMAGES = 1000
"""Images whose regions a whitening of regions is fitted on: 20 regions each are plenty."""


@dataclass(frozen=True)
class ImagePart:
    """A file, and what part of it is meant; see `engine.describer.Source`."""

    path: Path
    box: Box | None = None
    upright: bool = True

    def read(self) -> bytes:
        return self.path.read_bytes()

    @property
    def key(self) -> str:
        """Raises InvalidOption where the file is not."""
        try:
            return file_key(self.path, self.box, self.upright)
        except OSError as error:
            raise InvalidOption(f"cannot read {self.path}: {error.strerror}") from error


def describe_files(
    describer: Describer,
    poolings: Sequence[Pooling],
    parts: Sequence[ImagePart],
    *,
    cache_dir: Path,
    progress: Progress,
    fitting: bool = False,
) -> Iterator[Vectors]:
    """Raw descriptors of `parts`, for one pooling after the other.

    All that is missing in the cache is computed first, with one pass of the trunk for all
    poolings. What has been computed is kept at once: an interrupted run goes on from there.

    Args:
        fitting: a projection is fitted on the descriptors, which takes more memory.

    Yields: (N, D) for each pooling, row i for part i.
    Raises: InvalidOption naming the files that cannot be read or whose descriptors are not finite,
        once all others are described; and where the descriptors of one pooling do not fit into
        memory.
    """
    for pooling in poolings:
        _check_memory(pooling, len(parts), FITTING_BYTES if fitting else HOLDING_BYTES)
    keys = [part.key for part in parts]
    unique = dict(zip(keys, parts, strict=True))
    with ExitStack() as stack:
        caches = [
            stack.enter_context(closing(DescriptorCache(cache_dir, describer, pooling)))
            for pooling in poolings
        ]
        _describe_missing(describer, poolings, unique, caches, progress)
        for cache in caches:
            try:
                vectors = cache.get(keys)
            except KeyError:
                # The disk failed meanwhile: what is computed now stays in memory.
                _describe_missing(describer, poolings, unique, caches, progress)
                vectors = cache.get(keys)
            yield vectors


def _describe_missing(
    describer: Describer,
    poolings: Sequence[Pooling],
    parts: Mapping[str, ImagePart],
    caches: Sequence[DescriptorCache],
    progress: Progress,
) -> None:
    missing = [set(cache.missing(list(parts))) for cache in caches]
    wanted = set().union(*missing)
    # Only the poolings that miss something; all of them for every image that any misses.
    active = [number for number, keys in enumerate(missing) if keys]
    chosen = [poolings[number] for number in active]
    kept = [caches[number] for number in active]
    done = len(parts) - len(wanted)
    progress(done, len(parts))
    items = ((key, part) for key, part in parts.items() if key in wanted)
    fresh: dict[str, list[Vectors]] = {}
    bad: dict[str, EngineError] = {}
    try:
        for key, result in describer.stream(items, poolings=chosen):
            problem = _problem(result, chosen)
            if problem is not None:
                bad[key] = problem
            elif not isinstance(result, EngineError):
                fresh[key] = result
            done += 1
            progress(done, len(parts))
            if len(fresh) == 32:
                _keep(fresh, kept)
                fresh = {}
    finally:
        _keep(fresh, kept)
    _refuse([(part, bad[key]) for key, part in parts.items() if key in bad])


def _problem(
    result: list[Vectors] | EngineError, poolings: Sequence[Pooling]
) -> EngineError | None:
    if isinstance(result, EngineError):
        return result
    for pooling, vector in zip(poolings, result, strict=True):
        if not np.isfinite(vector).all():
            return InvalidOption(f"its descriptor by {pooling.kind} is not finite")
    return None


def _refuse(bad: Sequence[tuple[ImagePart, EngineError]]) -> None:
    """Raises InvalidOption for the first, naming some of the others, unless there are none."""
    if not bad:
        return
    part, error = bad[0]
    text = f"{_named(part)}: {error}"
    if len(bad) > 1:
        shown = bad[1 : 1 + NAMED_BESIDES]
        names = ", ".join(_named(other) for other, _ in shown)
        more = "" if len(bad) == 1 + len(shown) else ", ..."
        text += f" ({len(bad)} images cannot be used; the others are {names}{more})"
    raise InvalidOption(text) from error


def _keep(fresh: dict[str, list[Vectors]], caches: Sequence[DescriptorCache]) -> None:
    for position, cache in enumerate(caches):
        cache.put({key: vectors[position] for key, vectors in fresh.items()})


def _named(part: ImagePart) -> str:
    if part.box is None:
        return str(part.path)
    return f"{part.path} (box {', '.join(f'{value:g}' for value in part.box)})"


def _check_memory(pooling: Pooling, count: int, bytes_per_value: int) -> None:
    free = free_memory()
    needed = bytes_per_value * count * pooling.dim
    if free is not None and needed > free:
        raise InvalidOption(
            f"{count} descriptors of {pooling.dim} values need {needed / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free; use a compact pooling (cbp_aa, cbp_ac)"
        )


def free_memory(
    *, meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Bytes that may still be taken, of the machine and of a container; None where not known."""
    free = []
    with suppress(OSError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(1024 * int(line.split()[1]))
    # A container without a limit says "max" there.
    with suppress(OSError, ValueError):
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        free.append(max(0, limit - used + _file_cache(cgroup / "memory.stat")))
    return min(free, default=None)


def _file_cache(stat: Path) -> int:
    """Bytes of files read before, which count as used and are given up when memory is short."""
    with suppress(OSError):
        for line in stat.read_text().splitlines():
            if line.startswith("inactive_file "):
                return int(line.split()[1])
    return 0


def fit_regions(
    describer: Describer,
    pooling: Pooling,
    parts: Sequence[ImagePart],
    *,
    cache_dir: Path,
    progress: Progress,
) -> None:
    """Fit the whitenings inside `pooling` on the regions of an even sample of `parts`.

    The result is kept in the cache, under all that it depends on.
    Raises: InvalidOption naming the files that cannot be read.
    """
    step = np.unique(np.linspace(0, len(parts) - 1, min(len(parts), FIT_IMAGES)).astype(int))
    chosen = [parts[int(row)] for row in step]
    content = [description_digest(describer, pooling), *(part.key for part in chosen)]
    name = hashlib.sha256("\n".join(content).encode()).hexdigest()[:32]
    file = cache_dir / f"{name}.safetensors"
    state = _stored(file)
    if state is None:
        state = _fitted(describer, pooling, chosen, progress)
        with suppress(OSError, SafetensorError):
            cache_dir.mkdir(parents=True, exist_ok=True)
            write_atomically(file, save(state))
    pooling.restore(state)
    pooling.to(describer.device)


def _stored(file: Path) -> dict[str, Tensor] | None:
    try:
        state = load_file(file)
        with suppress(OSError):
            os.utime(file)  # `prune` keeps what was used last
        return state
    except (OSError, SafetensorError):
        return None


def _fitted(
    describer: Describer, pooling: Pooling, parts: Sequence[ImagePart], progress: Progress
) -> dict[str, Tensor]:
    branches = pooling.branches if isinstance(pooling, Layered) else [pooling]
    samples: list[list[Tensor]] = [[] for _ in branches]
    done = 0
    bad: list[tuple[ImagePart, EngineError]] = []
    for window in describer.load((part, part) for part in parts):
        for part, pixels in window:
            done += 1
            progress(done, len(parts))
            if isinstance(pixels, EngineError):
                bad.append((part, pixels))
                continue
            if bad:
                continue  # there will be no fit, only more to name
            with torch.inference_mode():
                for maps in describer.maps(torch.from_numpy(np.stack([pixels]))):
                    for branch, features, own in zip(branches, maps, samples, strict=True):
                        assert isinstance(branch, RMac), "only R-MAC is fitted on regions"
                        own.append(branch.samples(features)[0].cpu())
    _refuse(bad)
    for branch, own in zip(branches, samples, strict=True):
        assert isinstance(branch, RMac)
        branch.fit(torch.cat(own))
    return {name: value.cpu().contiguous() for name, value in pooling.state_dict().items()}
