"""Where a query and its best hits are alike, from what is kept of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from engine.catalog import Catalog
from engine.describer import Describer
from engine.errors import (
    BadImage,
    CorruptIndex,
    DeadlineExceeded,
    ImageTooLarge,
    OutOfMemory,
    Overloaded,
    UnknownImage,
    UnsupportedImage,
)
from engine.images import DecodedImage
from engine.originals import Originals
from engine.passes.calls import Call, current_call
from engine.passes.cores import cores
from engine.passes.devices import is_out_of_memory
from engine.queries.querying import Example
from engine.queries.region import Region
from engine.types import Pixels

if TYPE_CHECKING:
    from engine.explaining import Grid, PairExplanation

log = logging.getLogger(__name__)

Origin = Literal["upload", "original", "thumbnail"]
"""What a picture was explained from."""

EXPLAINED = 3
"""Hits of one search that are explained, the best: each costs about as much as describing it."""
CELLS = 24
"""Most rows and columns of a grid that is sent."""
LOOK_S = 0.2
"""How often somebody who waits for their turn is looked after."""
WAITING = 8
"""Searches that are explained or wait for it: each holds a thread and its pictures."""
RETRY_S = 5
UNREADABLE = (BadImage, UnsupportedImage, ImageTooLarge, CorruptIndex)
"""What may be wrong with an original: damage, a smaller limit or a missing decoder since."""


@dataclass(frozen=True)
class HitExplanation:
    """What each position of the query and of one hit adds to their score.

    The grids of `pair` have at most `CELLS` rows and columns; their sums are the score.
    """

    pair: PairExplanation
    query_from: Origin
    hit_from: Origin


class HitExplainer:
    """Explains hits, one search after the other: it is work beside that of the searches."""

    def __init__(
        self,
        describer: Describer,
        catalog: Catalog,
        originals: Originals | None,
        deadline_s: float,
        *,
        waiting: int = WAITING,
    ) -> None:
        self._describer = describer
        self._catalog = catalog
        self._originals = originals
        self._deadline_s = deadline_s
        self._waiting = waiting
        self._places = threading.BoundedSemaphore(waiting)
        self._turn = threading.Lock()

    def explain(self, query: Example, hit_ids: Sequence[str]) -> dict[str, HitExplanation]:
        """The best `EXPLAINED` of the hits, by id.

        Those that cannot be are left out: deleted meanwhile, or so thin that nothing is left of
        their thumbnail; all of them if that is so of the query. Raises: the errors of decoding a
            query that was sent, UnknownImage, Overloaded, DeadlineExceeded, OutOfMemory,
            InvalidOption for a pooling that cannot be explained.
        """
        if not self._places.acquire(blocking=False):
            raise Overloaded(
                f"{self._waiting} searches wait for their explanations already; leave `explain` "
                f"out of `include`, or try again in {RETRY_S} s",
                retry_after_s=RETRY_S,
            )
        try:
            return self._explained(query, hit_ids, current_call(self._deadline_s))
        finally:
            self._places.release()

    def _explained(
        self, query: Example, hit_ids: Sequence[str], call: Call
    ) -> dict[str, HitExplanation]:
        from engine.explaining import explain_pairs  # a start does without

        asked = self._query(query)
        if asked is None:
            return {}
        query_pixels, query_from = asked
        found = {
            image_id: picture
            for image_id in hit_ids[:EXPLAINED]
            if (picture := self._hit(image_id)) is not None
        }
        with self._turn_of(call):
            hits = [pixels for pixels, _ in found.values()]
            pairs = cores().run(partial(explain_pairs, self._describer, query_pixels, hits))
        return {
            image_id: HitExplanation(_coarse(pair), query_from, hit_from)
            for (image_id, (_, hit_from)), pair in zip(found.items(), pairs, strict=True)
        }

    @contextmanager
    def _turn_of(self, call: Call) -> Iterator[None]:
        """Raises DeadlineExceeded, why nobody waits any more, and OutOfMemory."""
        while not self._turn.acquire(timeout=min(LOOK_S, call.remaining)):
            if not call.remaining:
                raise DeadlineExceeded(
                    "the explanation could not begin in time; leave `explain` out of `include`, or "
                    "try again later"
                )
            call.check()
        try:
            call.check()
            yield
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).split("\n", 1)[0]
            raise OutOfMemory(
                f"the explanation does not fit in the memory of {self._describer.device} "
                f"({reason}); leave `explain` out of `include`, or free memory there"
            ) from None
        finally:
            self._turn.release()

    def _query(self, query: Example) -> tuple[Pixels, Origin] | None:
        if isinstance(query.image, bytes):
            return self._decode(query.image, query.region).pixels, "upload"
        # A region of a stored image was found from its original, so that is there.
        return self._stored(query.image, query.region)

    def _hit(self, image_id: str) -> tuple[Pixels, Origin] | None:
        try:
            return self._stored(image_id, None)
        except UnknownImage:
            return None

    def _stored(self, image_id: str, region: Region | None) -> tuple[Pixels, Origin] | None:
        """None if the thumbnail, where that is all there is, is too thin."""
        digest = self._catalog.get(image_id).digest
        try:
            data = None if self._originals is None else self._originals.read(digest)
            if data is not None:
                return self._decode(data, region).pixels, "original"
        except UNREADABLE as error:
            if region is not None:  # a thumbnail has too little of it
                raise
            log.warning("%r is explained from its thumbnail: %s", image_id, error)
        try:
            return self._decode(self._catalog.thumbnail(image_id), None).pixels, "thumbnail"
        except BadImage:
            return None

    def _decode(self, data: bytes, region: Region | None) -> DecodedImage:
        return self._describer.decode(data, box=None if region is None else region.box)


def _coarse(pair: PairExplanation) -> PairExplanation:
    return replace(pair, first=_at_most(pair.first), second=_at_most(pair.second))


def _at_most(parts: Grid) -> Grid:
    from engine.explaining import spread

    height, width = (min(side, CELLS) for side in parts.shape)
    return parts if parts.shape == (height, width) else spread(parts, height, width)
