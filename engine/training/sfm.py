"""retrieval-SfM-120k and -30k as published: pairs of photos out of 3D reconstructions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidOption
from engine.evaluation.datasets.base import shown
from engine.evaluation.datasets.pickles import read_pickle
from engine.training.components import connected

LOOKS_FOR = "retrieval-SfM-120k.pkl and ims/ (retrieval-SfM)"
SPLITS = ("train", "val", "whiten")

_PATTERN = "retrieval-SfM-*.pkl"
_WHITEN = "-whiten.pkl"
_CID = re.compile(r"[0-9a-fA-F]{6,64}")
_LOOKED_AT = 3
"""Images that are sought at once; of all 90,000 that would take minutes on a network disk."""


@dataclass(frozen=True, eq=False)
class SfmSplit:
    """One split; see `engine.training.training_set.TrainingSet` for what the fields are."""

    source: Path
    names: tuple[str, ...]
    files: tuple[Path, ...]
    clusters: NDArray[np.int64]
    queries: NDArray[np.int64]
    positives: NDArray[np.int64]


def is_in(folder: Path) -> bool:
    """Whether `folder` holds one of the published files."""
    return any(folder.glob(_PATTERN))


def read_split(folder: Path, split: str) -> SfmSplit:
    """One split of the data set in `folder`.

    `train` and `val` are in `retrieval-SfM-120k.pkl`, each with `cids` (names of photos),
    `cluster` (the reconstruction of each), `qidxs` and `pidxs` (the pairs); its boxes are not
    used. `whiten`, for learned whitening, is `retrieval-SfM-120k-whiten.pkl`, which names no
    clusters: there, photos are of one cluster if pairs link them.

    That the files exist is looked up for the first few only.

    Raises: InvalidOption naming the file and the value that is wrong.
    """
    if split not in SPLITS:
        raise InvalidOption(f"split is {split!r}; retrieval-SfM has {', '.join(SPLITS)}")
    file = _file(folder, split)
    content = read_pickle(file)
    where = str(file)
    if split != "whiten":
        content = _field(content, split, where)
        where += f": {split}"
    names = _names(_field(content, "cids", where), where)
    queries, positives = (
        _integers(_field(content, key, where), f"{where}: {key}", below=len(names))
        for key in ("qidxs", "pidxs")
    )
    if len(queries) != len(positives):
        raise InvalidOption(f"{where}: {len(queries)} qidxs for {len(positives)} pidxs")
    if split == "whiten":
        pairs = zip(queries.tolist(), positives.tolist(), strict=True)
        clusters = connected(len(names), pairs)
    else:
        clusters = _integers(_field(content, "cluster", where), f"{where}: cluster")
    if len(clusters) != len(names):
        raise InvalidOption(f"{where}: {len(clusters)} entries of cluster for {len(names)} cids")
    files = tuple(image_file(folder / "ims", name) for name in names)
    _check_images(folder / "ims", files)
    return SfmSplit(file, names, files, clusters, queries, positives)


def image_file(images: Path, cid: str) -> Path:
    """The file of a photo: `ims/<cid[-2:]>/<cid[-4:-2]>/<cid[-6:-4]>/<cid>`, without a suffix."""
    return images / cid[-2:] / cid[-4:-2] / cid[-6:-4] / cid


def _file(folder: Path, split: str) -> Path:
    whiten = split == "whiten"
    files = [
        file for file in sorted(folder.glob(_PATTERN)) if file.name.endswith(_WHITEN) == whiten
    ]
    if not files:
        name = f"retrieval-SfM-120k{_WHITEN if whiten else '.pkl'}"
        raise InvalidOption(f"{folder} has no {name}, where the split {split!r} is; add it")
    if len(files) > 1:
        listed = ", ".join(file.name for file in files)
        raise InvalidOption(f"{folder} has several lists of pairs: {listed}; leave one of them")
    return files[0]


def _field(content: object, key: str, where: str) -> object:
    if not isinstance(content, dict) or key not in content:
        raise InvalidOption(f"{where} has no {key!r}; is it the published retrieval-SfM file?")
    return content[key]


def _names(values: object, where: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not values:
        raise InvalidOption(f"{where}: cids is no list of names, or an empty one")
    names = []
    for value in values:
        # Text of Python 2 in a NumPy array is stored as bytes.
        name = value.decode("latin-1") if isinstance(value, bytes) else value
        # A part of a path, so nothing but digits.
        if not isinstance(name, str) or not _CID.fullmatch(name):
            raise InvalidOption(f"{where}: cids has {shown(value)}; expected hexadecimal digits")
        names.append(name)
    return tuple(names)


def _integers(values: object, where: str, *, below: int | None = None) -> NDArray[np.int64]:
    """Raises: InvalidOption for what is no list of whole numbers, or not in [0, below)."""
    try:
        numbers = np.array(values if isinstance(values, list) else None, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        numbers = np.array(np.nan)
    if numbers.ndim != 1 or not (np.abs(numbers) < 2**53).all() or (numbers % 1).any():
        raise InvalidOption(f"{where} is no list of whole numbers")
    if below is not None and len(numbers) and not 0 <= numbers.min() <= numbers.max() < below:
        wrong = numbers.min() if numbers.min() < 0 else numbers.max()
        raise InvalidOption(f"{where} has {int(wrong)}; the {below} cids go from 0 to {below - 1}")
    return numbers.astype(np.int64)


def _check_images(images: Path, files: Sequence[Path]) -> None:
    if not images.is_dir():
        raise InvalidOption(f"there is no folder {images}; unpack ims.tar.gz of retrieval-SfM here")
    missing = [file for file in files[:_LOOKED_AT] if not file.is_file()]
    if missing:
        raise InvalidOption(
            f"{missing[0]} is missing; unpack ims.tar.gz of retrieval-SfM in {images.parent}"
        )
