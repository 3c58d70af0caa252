"""Raw descriptors of many image files under several poolings, from the cache where they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
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
from engine.evaluation.cache import DescriptorCache, description_digest, file_key
from engine.images import Box
from engine.pooling import Pooling
from engine.pooling.layered import Layered
from engine.pooling.regions import RMac
from engine.storage import write_atomically
from engine.types import Vectors

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""

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
) -> Iterator[Vectors]:
    """Raw descriptors of `parts`, for one pooling after the other.

    All that is missing in the cache is computed first, with one pass of the trunk for all
    poolings. What has been computed is kept at once: an interrupted run goes on from there.

    Yields: (N, D) for each pooling, row i for part i.
    Raises: InvalidOption naming the file, if one cannot be read, and where the descriptors of
        one pooling do not fit into memory.
    """
    for pooling in poolings:
        _check_memory(pooling, len(parts))
    keys = [part.key for part in parts]
    unique = dict(zip(keys, parts, strict=True))
    with ExitStack() as stack:
        caches = [
            stack.enter_context(closing(DescriptorCache(cache_dir, describer, pooling)))
            for pooling in poolings
        ]
        missing = [set(cache.missing(list(unique))) for cache in caches]
        wanted = set().union(*missing)
        # Only the poolings that miss something; all of them for every image that any misses.
        active = [number for number, keys_ in enumerate(missing) if keys_]
        chosen = [poolings[number] for number in active]
        done = len(unique) - len(wanted)
        progress(done, len(unique))
        items = ((key, part) for key, part in unique.items() if key in wanted)
        fresh: dict[str, list[Vectors]] = {}
        for key, result in describer.stream(items, poolings=chosen):
            if isinstance(result, EngineError):
                raise InvalidOption(f"{_named(unique[key])}: {result}") from result
            fresh[key] = result
            done += 1
            progress(done, len(unique))
            if len(fresh) == 32:
                _keep(fresh, [caches[number] for number in active])
                fresh = {}
        _keep(fresh, [caches[number] for number in active])
        for cache in caches:
            yield cache.get(keys)


def _keep(fresh: dict[str, list[Vectors]], caches: Sequence[DescriptorCache]) -> None:
    for position, cache in enumerate(caches):
        cache.put({key: vectors[position] for key, vectors in fresh.items()})


def _named(part: ImagePart) -> str:
    if part.box is None:
        return str(part.path)
    return f"{part.path} (box {', '.join(f'{value:g}' for value in part.box)})"


def _check_memory(pooling: Pooling, count: int) -> None:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # The descriptors, and their projection's copy in double precision.
    needed = 3 * 4 * count * pooling.dim
    if needed > free:
        raise InvalidOption(
            f"{count} descriptors of {pooling.dim} values need {needed / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free; use a compact pooling (cbp_aa, cbp_ac)"
        )


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
    Raises: InvalidOption naming the file, if one cannot be read.
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
        return load_file(file)
    except (OSError, SafetensorError):
        return None


def _fitted(
    describer: Describer, pooling: Pooling, parts: Sequence[ImagePart], progress: Progress
) -> dict[str, Tensor]:
    branches = pooling.branches if isinstance(pooling, Layered) else [pooling]
    samples: list[list[Tensor]] = [[] for _ in branches]
    done = 0
    for window in describer.load((part, part) for part in parts):
        for part, pixels in window:
            if isinstance(pixels, EngineError):
                raise InvalidOption(f"{_named(part)}: {pixels}") from pixels
            with torch.inference_mode():
                for maps in describer.maps(torch.from_numpy(np.stack([pixels]))):
                    for branch, features, own in zip(branches, maps, samples, strict=True):
                        assert isinstance(branch, RMac), "only R-MAC is fitted on regions"
                        own.append(branch.samples(features)[0].cpu())
            done += 1
            progress(done, len(parts))
    for branch, own in zip(branches, samples, strict=True):
        assert isinstance(branch, RMac)
        branch.fit(torch.cat(own))
    return {name: value.cpu().contiguous() for name, value in pooling.state_dict().items()}
