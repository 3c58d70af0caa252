"""Photos to learn from, of which it is known what shows the same thing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidOption
from engine.evaluation.datasets import Dataset, missing_files
from engine.evaluation.datasets import folder as own
from engine.training import sfm
from engine.training.components import connected

Rows = NDArray[np.int64]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MAX_PARTNERS = 50
"""Pairs of a photo in a folder of one thing: of 1000 photos all pairs would be a million."""

_GROUPS_LOOK_FOR = f"sub-folders, one for each thing, with its photos ({' '.join(SUFFIXES)})"


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """N photos in clusters, and P pairs of photos that match. The arrays are not to be changed.

    Attributes:
        names: of the photos, for messages.
        files: of the photos.
        clusters: (N,) int64; photos of one cluster show the same thing, all others count as
            different.
        queries: (P,) int64 rows.
        positives: (P,) int64 rows, the match of the query beside it: another photo of its cluster.
    """

    names: tuple[str, ...]
    files: tuple[Path, ...]
    clusters: Rows
    queries: Rows
    positives: Rows

    def __post_init__(self) -> None:
        """Raises: ValueError naming what contradicts what."""
        count = len(self.names)
        if len(self.files) != count or self.clusters.shape != (count,):
            raise ValueError(
                f"{count} names, {len(self.files)} files and clusters of shape "
                f"{self.clusters.shape}; expected as many of each"
            )
        if self.queries.ndim != 1 or self.queries.shape != self.positives.shape:
            raise ValueError(
                f"queries and positives have shapes {self.queries.shape} and "
                f"{self.positives.shape}; expected (P,) both"
            )
        for name in ("clusters", "queries", "positives"):
            values = getattr(self, name)
            if values.dtype != np.int64:
                raise ValueError(f"{name} is {values.dtype}; expected int64")
        for name, rows in (("queries", self.queries), ("positives", self.positives)):
            if len(rows) and not 0 <= rows.min() <= rows.max() < count:
                raise ValueError(
                    f"{name} has rows {rows.min()} to {rows.max()}; expected 0 to {count - 1}"
                )
        self._check_pairs()

    def _check_pairs(self) -> None:
        same = self.clusters[self.queries] == self.clusters[self.positives]
        for wrong, reason in (
            (self.queries == self.positives, "the same photo twice"),
            (~same, "of two clusters"),
        ):
            if wrong.any():
                place = int(wrong.argmax())
                query, positive = (self.names[r[place]] for r in (self.queries, self.positives))
                raise ValueError(f"pair {place}, {query} and {positive}, is {reason}")

    @property
    def things(self) -> int:
        """Clusters of two photos or more: what there is something to learn from."""
        return int((self._sizes() > 1).sum())

    @property
    def singles(self) -> int:
        """Photos that are alone in their cluster; they serve as negatives."""
        return int((self._sizes() == 1).sum())

    def subset(self, rows: Rows | Sequence[int]) -> TrainingSet:
        """Some photos, in this order, with the pairs of which both are among them.

        Raises: ValueError for rows that are none, or named twice.
        """
        chosen = np.asarray(rows, dtype=np.int64)
        count = len(self.names)
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < count:
            raise ValueError(
                f"rows go from {chosen.min()} to {chosen.max()}; expected 0 to {count - 1}"
            )
        if len(np.unique(chosen)) < len(chosen):
            raise ValueError("rows names a photo twice")
        place = np.full(count, -1, dtype=np.int64)
        place[chosen] = np.arange(len(chosen))
        queries, positives = place[self.queries], place[self.positives]
        kept = (queries >= 0) & (positives >= 0)
        return TrainingSet(
            names=tuple(self.names[row] for row in chosen),
            files=tuple(self.files[row] for row in chosen),
            clusters=self.clusters[chosen],
            queries=queries[kept],
            positives=positives[kept],
        )

    def split_by_cluster(self, share: float, seed: int) -> tuple[TrainingSet, TrainingSet]:
        """Two parts without a common cluster: to train on, and held out.

        `share` of the things, at least one and not all, is held out, and `share` of the photos that
        are alone: those make it harder to find something, in both parts. Photos keep their order.

        Raises: InvalidOption for a share outside (0, 1), or fewer than two things.
        """
        if not 0 < share < 1:
            raise InvalidOption(f"the share to hold out is {share}; it must be between 0 and 1")
        if self.things < 2:
            raise InvalidOption(
                f"things with two photos or more: {self.things}; to hold some out the training set "
                "must have at least 2"
            )
        labels, places, sizes = np.unique(self.clusters, return_inverse=True, return_counts=True)
        draw = np.random.default_rng(seed)
        several = draw.permutation(np.flatnonzero(sizes > 1))
        alone = draw.permutation(np.flatnonzero(sizes == 1))
        things = min(max(1, round(share * len(several))), len(several) - 1)
        out = np.zeros(len(labels), dtype=bool)
        out[several[:things]] = True
        out[alone[: round(share * len(alone))]] = True
        return (
            self.subset(np.flatnonzero(~out[places])),
            self.subset(np.flatnonzero(out[places])),
        )

    def _sizes(self) -> Rows:
        return np.unique(self.clusters, return_counts=True)[1].astype(np.int64)


def read_training_set(folder: Path, *, split: str | None = None) -> TrainingSet:
    """The training set in a folder, of the first of these forms that it has:

    - retrieval-SfM-120k or -30k as published (`sfm.read_split`).
    - `gt.json` and `images/`, as for `cooc evaluate`. The pairs are those of queries and positives;
      photos that pairs link, directly or over others, are of one cluster. Photos that are junk and
      nothing else are left out.
    - One sub-folder for each thing. Photos further below belong to the first level; photos right in
      `folder` are alone. Every photo is paired with the others of its thing, with `MAX_PARTNERS` at
      most.

    Args:
        split: of retrieval-SfM, "train" (if none is named), "val" or "whiten"; the other forms have
            none.

    Raises: InvalidOption where the folder has none of these forms, contradicts itself, names photos
        that are missing, or has no two photos of a thing.
    """
    if not folder.is_dir():
        raise InvalidOption(f"there is no folder {folder}")
    try:
        if sfm.is_in(folder):
            return _published(sfm.read_split(folder, split or "train"))
        if split is not None:
            raise InvalidOption(
                f"split is {split!r}, but {folder} is no retrieval-SfM, which alone has splits; "
                "leave it out"
            )
        judged = own.read(folder)
        return _of_judged(judged) if judged is not None else _of_sub_folders(folder)
    except OSError as error:
        raise InvalidOption(f"cannot read {folder}: {error}") from error


def check_apart(learned_from: TrainingSet, held_out: TrainingSet) -> None:
    """Raises InvalidOption for a photo that is in both: it would be found too easily."""
    ours = {file.resolve() for file in learned_from.files}
    shared = [file for file in held_out.files if file.resolve() in ours]
    if shared:
        raise InvalidOption(
            f"{len(shared)} photos, e.g. {shared[0]}, are both to learn from and to validate on; "
            "choose other ones with --validate, or leave it out"
        )


def _published(split: sfm.SfmSplit) -> TrainingSet:
    if not len(split.queries):
        raise InvalidOption(f"{split.source} has no pair; training needs at least one")
    try:
        return TrainingSet(split.names, split.files, split.clusters, split.queries, split.positives)
    except ValueError as error:
        raise InvalidOption(f"{split.source}: {error}") from error


def _of_judged(dataset: Dataset) -> TrainingSet:
    missing = [path.name for path in missing_files(dataset)]
    source = dataset.folder / "gt.json"
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InvalidOption(
            f"{source} names photos that are not in {dataset.folder / dataset.images}: "
            f"{', '.join(missing[:3])}{more}; add them, or take them out of gt.json"
        )
    # What is junk to a query may show its thing after all: it is nobody's negative.
    junk = frozenset[str]().union(*(query.junk for query in dataset.queries))
    named = frozenset(query.name for query in dataset.queries).union(
        *(query.counted() for query in dataset.queries)
    )
    every = dict.fromkeys((*dataset.database, *(query.name for query in dataset.queries)))
    names = tuple(name for name in every if name in named or name not in junk)
    rows = {name: row for row, name in enumerate(names)}
    pairs = [
        (rows[query.name], rows[positive])
        for query in dataset.queries
        for positive in sorted(query.counted(), key=rows.__getitem__)
    ]
    if not pairs:
        raise InvalidOption(
            f"{source} has no query with a positive; training needs at least two photos of a thing"
        )
    return _made(names, map(dataset.path, names), connected(len(names), pairs), pairs)


def _of_sub_folders(folder: Path) -> TrainingSet:
    parts = sorted(part for part in folder.iterdir() if not part.name.startswith("."))
    photos = {
        file.relative_to(folder).as_posix(): part.name for part in parts for file in _photos(part)
    }
    names = tuple(sorted(photos))
    if not names:
        below = sum(part.is_dir() for part in parts)
        if below:
            raise InvalidOption(
                f"no photo is in {folder} or its {below} sub-folders; "
                f"expected files ending in {' '.join(SUFFIXES)}"
            )
        looked_for = "; ".join((sfm.LOOKS_FOR, own.LOOKS_FOR, _GROUPS_LOOK_FOR))
        raise InvalidOption(f"{folder} is no training set. Looked for: {looked_for}")
    members: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        members.setdefault(photos[name], []).append(row)
    pairs = [pair for rows in members.values() for pair in _pairs(rows)]
    if not pairs:
        raise InvalidOption(
            f"each of the {len(names)} photos in {folder} is alone in its folder; training needs "
            "at least two of a thing: put the photos of one thing into one sub-folder"
        )
    number = {part: place for place, part in enumerate(members)}
    clusters = np.array([number[photos[name]] for name in names], dtype=np.int64)
    return _made(names, (folder / name for name in names), clusters, pairs)


def _photos(part: Path) -> list[Path]:
    """A photo itself, or those in a folder and below."""
    if part.is_file():
        return [part] if part.suffix.lower() in SUFFIXES else []
    return [
        file
        for file in part.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and not any(name.startswith(".") for name in file.relative_to(part).parts)
        and file.is_file()
    ]


def _pairs(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Each of a thing's photos with the others, or with `MAX_PARTNERS` at even steps around."""
    others = len(rows) - 1
    partners = min(others, MAX_PARTNERS)
    steps = [1 + place * others // partners for place in range(partners)]
    return [
        (row, rows[(place + step) % len(rows)]) for place, row in enumerate(rows) for step in steps
    ]


def _made(
    names: tuple[str, ...],
    files: Iterable[Path],
    clusters: Rows,
    pairs: Sequence[tuple[int, int]],
) -> TrainingSet:
    queries, positives = np.array(pairs, dtype=np.int64).T
    return TrainingSet(names, tuple(files), clusters, queries.copy(), positives.copy())
