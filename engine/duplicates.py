"""Near-duplicates of a whole collection: which images show the same picture, group by group."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.background import NEAR, NEAR_WITHOUT_BACKGROUND, SAMPLE, Background
from engine.catalog import Catalog
from engine.catalog.reader import CatalogReader
from engine.errors import InvalidOption
from engine.types import ImageRecord, Json, Rows, Vectors

BLOCK = 512
"""Images whose neighbours are looked up together."""
FIRST_NEIGHBOURS, MOST_NEIGHBOURS = 17, 4096
"""Of each image, itself included: more are asked for while all of them are near."""
FOUND_AT_ONCE = 1 << 18
"""Bounds the memory of one lookup."""
MAX_MEMBERS, MAX_LISTED = 1000, 100_000
"""Images listed of one group, and of all groups together."""
MAX_GROUPS = 10_000

Positions = NDArray[np.int64]
Mask = NDArray[np.bool_]
Progress = Callable[[int, int], None]


class Neighbours(Protocol):
    """What is asked of an index; see `engine.vector_index.VectorIndex`."""

    def rows(self) -> Rows: ...
    def vectors(self, rows: Rows) -> Vectors: ...
    def search_many(self, queries: Vectors, k: int) -> tuple[Rows, Vectors]: ...


class Calibrated(Protocol):
    """What is asked of a calibration of scores; see `engine.calibration.Calibration`."""

    @property
    def near(self) -> float: ...
    def probability(self, scores: Vectors) -> Vectors: ...


@dataclass(frozen=True)
class DuplicateOptions:
    """Images are near from `min_score` (a cosine) or from `min_probability` (of the same origin)
    on; without either from where a search calls them near. The `limit` largest groups are listed.
    """

    min_score: float | None = None
    min_probability: float | None = None
    limit: int = 1000


@dataclass(frozen=True)
class Bound:
    """From which score on two images are near. `source` says where that comes from: `option`,
    `calibration`, or `collection`, for the similarity of its random pairs."""

    min_score: float
    min_probability: float | None
    source: str


@dataclass(frozen=True)
class Member:
    """One image of a group.

    Attributes:
        score: cosine with the image to keep.
        p_same_origin: what the calibration makes of it; 1 for the same bytes, None without one.
        direct: whether that is near by itself; else other members stand between the two.
        kind: `exact` for the same bytes as the image to keep, else `near`.
    """

    id: str
    score: float
    p_same_origin: float | None
    width: int
    height: int
    kind: str
    direct: bool


@dataclass(frozen=True)
class Group:
    """Images that are near to each other, the one to keep first, the others by score.

    `size` counts all of them, also those beyond the `MAX_MEMBERS` that are listed.
    """

    size: int
    keep: str
    members: tuple[Member, ...]


@dataclass(frozen=True)
class DuplicateReport:
    """Groups by size, largest first.

    Attributes:
        images: how many were compared.
        group_count, grouped: groups in all, and images in them.
        truncated: whether groups or members were left out of `groups`.
    """

    bound: Bound
    images: int
    group_count: int
    grouped: int
    truncated: bool
    groups: tuple[Group, ...]

    def to_json(self) -> Json:
        return asdict(self) | {"redundant": self.grouped - self.group_count}


def find_duplicates(
    catalog: Catalog,
    index: Neighbours,
    options: DuplicateOptions,
    *,
    calibration: Calibrated | None = None,
    progress: Progress = lambda done, total: None,
) -> DuplicateReport:
    """Group images with the same bytes, and images that are near, over the whole collection.

    A group is a connected component: of three images it is enough that the first is near to the
    second and that to the third. So that such a chain is seen for what it is, each member has its
    own similarity to the image that the group suggests to keep, the one with the most pixels, and
    `direct` tells whether that alone would have brought it here.

    Takes memory for a few numbers per image, not for pairs. Images that are added meanwhile are
    left out, those that are deleted drop out. Raises InvalidOption; what `progress` raises ends it.
    """
    check_options(options, calibration)
    rows = np.sort(index.rows())
    bound = _bound(index, rows, options, calibration)
    links = Links(len(rows))
    copies = _link_exact(catalog, rows, links)
    _link_near(index, rows, np.flatnonzero(~copies), bound.min_score, links, progress)
    groups, listed_all = [], True
    found = links.groups()
    room = MAX_LISTED
    for positions in found[: options.limit]:
        listed = rows[positions[: min(MAX_MEMBERS, room)]]
        group = _group(catalog, index, listed, len(positions), bound, calibration)
        listed_all &= len(listed) == len(positions)
        room -= len(listed)
        if group is not None:
            groups.append(group)
    return DuplicateReport(
        bound=bound,
        images=len(rows),
        group_count=len(found),
        grouped=sum(map(len, found)),
        truncated=not listed_all or len(found) > options.limit,
        groups=tuple(groups),
    )


def check_options(options: DuplicateOptions, calibration: Calibrated | None) -> None:
    """Raises InvalidOption."""
    score, probability = options.min_score, options.min_probability
    if score is not None and probability is not None:
        raise InvalidOption("give one of min_score and min_probability, not both")
    if score is not None and not -1.0 <= score <= 1.0:
        raise InvalidOption(f"min_score is {score}; it is a cosine, from -1 to 1")
    if probability is not None and not 0.0 < probability <= 1.0:
        raise InvalidOption(f"min_probability is {probability}; it is above 0 and at most 1")
    if probability is not None and calibration is None:
        raise InvalidOption(
            "min_probability needs calibrated scores: build the index of a collection that is "
            "large enough, or give min_score"
        )
    if not 1 <= options.limit <= MAX_GROUPS:
        raise InvalidOption(f"limit is {options.limit}; it is from 1 to {MAX_GROUPS:,}")


class Links:
    """Which of `count` things hang together; pairs are forgotten as soon as they are joined."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count)

    def join(self, left: Positions, right: Positions) -> None:
        """Join left[i] with right[i], for all i."""
        while len(left):
            left, right = self._roots(left), self._roots(right)
            apart = left != right
            left, right = left[apart], right[apart]
            # Of several wishes for the same root the smallest wins; the others come again.
            np.minimum.at(self._parent, np.maximum(left, right), np.minimum(left, right))

    def groups(self) -> list[Positions]:
        """Those of two and more, ascending in themselves, largest first, then by first member."""
        roots = self._roots(np.arange(len(self._parent)))
        sizes = np.bincount(roots, minlength=len(roots))
        members = np.flatnonzero(sizes[roots] > 1)
        members = members[np.argsort(roots[members], kind="stable")]
        parts = np.split(members, np.flatnonzero(np.diff(roots[members])) + 1)
        return sorted((part for part in parts if len(part)), key=lambda part: -len(part))

    def _roots(self, places: Positions) -> Positions:
        roots = self._parent[places]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                self._parent[places] = roots
                return roots
            roots = above


def _bound(
    index: Neighbours, rows: Rows, options: DuplicateOptions, calibration: Calibrated | None
) -> Bound:
    if options.min_probability is not None and calibration is not None:
        score = _score_of(calibration, options.min_probability)
        return Bound(score, options.min_probability, "option")
    if options.min_score is not None:
        return Bound(options.min_score, None, "option")
    if calibration is not None:
        return Bound(calibration.near, None, "calibration")
    sample = _present(index, rows[:: max(1, len(rows) // SAMPLE)])[1]
    background = Background.of(sample)
    score = background.score(NEAR) if background else NEAR_WITHOUT_BACKGROUND
    return Bound(score, None, "collection")


def _score_of(calibration: Calibrated, probability: float) -> float:
    """The lowest score of at least this probability; above 1 if there is none."""
    low, high = -1.0, 1.0 + 1e-6
    for _ in range(40):
        middle = (low + high) / 2
        enough = float(calibration.probability(np.array([middle], np.float32))[0]) >= probability
        low, high = (low, middle) if enough else (middle, high)
    return high


def _link_exact(catalog: Catalog, rows: Rows, links: Links) -> Mask:
    """Join images with the same bytes; says which have those of an older one."""
    stored = np.empty(len(rows), np.int64)
    # A part of the digest: of a million images, two share it by chance once in 40 million times.
    digests = np.empty(len(rows), np.uint64)
    count = 0
    with closing(CatalogReader(catalog.path)) as reader:
        for image in reader.images():
            place = np.searchsorted(rows, image.row)
            if place < len(rows) and rows[place] == image.row:
                stored[count], digests[count] = place, int(image.digest[:16], 16)
                count += 1
    stored, digests = stored[:count], digests[:count]
    _, firsts, kinds = np.unique(digests, return_index=True, return_inverse=True)
    originals = stored[firsts][kinds]
    links.join(stored, originals)
    copies = np.zeros(len(rows), bool)
    copies[stored[stored != originals]] = True
    return copies


def _link_near(
    index: Neighbours, rows: Rows, wanted: Positions, bound: float, links: Links, progress: Progress
) -> None:
    """Join each image at the positions `wanted` with all that are near to it."""
    for start in range(0, len(wanted), BLOCK):
        progress(start, len(wanted))
        present, vectors = _present(index, rows[wanted[start : start + BLOCK]])
        count = FIRST_NEIGHBOURS
        while len(present):
            more = np.zeros(len(present), bool)
            step = max(1, FOUND_AT_ONCE // count)
            for low in range(0, len(present), step):
                part = slice(low, low + step)
                found, scores = index.search_many(vectors[part], count)
                near = scores >= bound
                _join(rows, present[part], found, near, links)
                # All of a list are near: it may have been cut among those that are.
                more[part] = near.all(axis=1) & (found.shape[1] == count)
            if count == MOST_NEIGHBOURS:
                break
            present, vectors = present[more], vectors[more]
            count = min(8 * count, MOST_NEIGHBOURS)
    progress(len(wanted), len(wanted))


def _join(rows: Rows, queries: Rows, found: Rows, near: Mask, links: Links) -> None:
    number, _ = np.nonzero(near)
    neighbours = found[near]
    right = np.minimum(np.searchsorted(rows, neighbours), len(rows) - 1)
    known = rows[right] == neighbours
    links.join(np.searchsorted(rows, queries[number[known]]), right[known])


def _present(index: Neighbours, rows: Rows) -> tuple[Rows, Vectors]:
    """Those of `rows` that are still indexed, and their vectors."""
    while True:
        try:
            return rows, index.vectors(rows)
        except KeyError:
            rows = rows[np.isin(rows, index.rows())]


def _group(
    catalog: Catalog,
    index: Neighbours,
    rows: Rows,
    size: int,
    bound: Bound,
    calibration: Calibrated | None,
) -> Group | None:
    """A group as it is reported; None if less than two of its images are left."""
    present, vectors = _present(index, rows)
    records = catalog.by_rows(present.tolist())
    left = np.array([row in records for row in present.tolist()], bool)
    present, vectors = present[left], vectors[left]
    if len(present) < 2:
        return None
    images = [records[row] for row in present.tolist()]
    best = max(range(len(images)), key=lambda number: (_pixels(images[number]), -number))
    scores = np.clip(vectors @ vectors[best], -1.0, 1.0)
    exact = np.array([image.digest == images[best].digest for image in images])
    scores[exact] = 1.0
    # Of the same bytes is of the same origin, whatever scores say.
    chances = None if calibration is None else np.where(exact, 1.0, calibration.probability(scores))
    order = np.lexsort((present, -scores, np.arange(len(images)) != best))
    members = tuple(
        Member(
            id=images[number].id,
            score=round(float(scores[number]), 6),
            p_same_origin=None if chances is None else round(float(chances[number]), 6),
            width=images[number].width,
            height=images[number].height,
            kind="exact" if exact[number] else "near",
            direct=bool(exact[number] or scores[number] >= bound.min_score),
        )
        for number in order.tolist()
    )
    return Group(size=size, keep=images[best].id, members=members)


def _pixels(image: ImageRecord) -> int:
    return image.width * image.height
