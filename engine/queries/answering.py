"""From the descriptor of a query to an answer: one search of one view."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from engine.catalog import Catalog
from engine.catalog.metadata_columns import MetadataColumns
from engine.errors import GenerationNotReached
from engine.live.journal import Leaving
from engine.live.view import View
from engine.passes.stages import note
from engine.queries.candidates import expand_query, rank_rows
from engine.queries.ranking import judge, least_similarity, rank, select_hits
from engine.tally import Tally
from engine.types import Expansion, SearchAnswer, SearchOptions, Vectors
from engine.vector_index import SearchKnobs

LEAST_JUDGED = 100
GENERATION_RETRY_S = 5
ATTEMPTS = 20
"""A search starts over when an image is deleted while its vectors are compared."""


@dataclass(frozen=True)
class Query:
    """What is searched for: a descriptor as it is searched, the digest of its file (empty if it is
    no whole image), and, if it is a stored image, its id.

    `left_out`: digests of further images that `exclude_self` leaves out, and that never join an
    expanded query: those that the query was made of.
    """

    vector: Vectors
    digest: str
    own_id: str | None = None
    left_out: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Answering:
    """Where answers come from, besides the view."""

    catalog: Catalog
    columns: MetadataColumns
    leaving: Leaving
    fingerprint: str
    tally: Tally = field(default_factory=Tally)

    def answer(self, view: View, query: Query, options: SearchOptions) -> SearchAnswer:
        """The stored images most similar to the query, best first.

        No lock is held meanwhile. What the vectors say is of one moment; an image that was replaced
        since is answered as it was. Raises GenerationNotReached, and as `least_similarity` does.
        """
        problem = generation_problem(view.generation, options)
        if problem is not None:
            raise problem
        for _ in range(ATTEMPTS - 1):
            try:
                return self._answer(view, query, options)
            except KeyError:
                continue
        return self._answer(view, query, options)

    def _answer(self, view: View, query: Query, options: SearchOptions) -> SearchAnswer:
        started = time.perf_counter()
        # First, as it may be refused.
        least = least_similarity(view.calibration, options)
        allowed = self.columns.allowed(options.filter) if options.filter else None
        knobs = SearchKnobs(options.nprobe, options.exact)
        background = view.measured_background()
        exact = self._rows_of({query.digest} - {""})
        own = self._rows_of(query.left_out)
        if allowed and exact:
            rows = np.array(sorted(exact), np.int64)
            exact = set(rows[allowed(rows)].tolist())
        wanted = options.offset + options.limit
        changed = options.expansion is not Expansion.NONE or options.augmentation
        if least is not None and changed:
            # What is left out is told by the plain similarity, in another order.
            wanted = max(wanted, LEAST_JUDGED)
        expanded, joined = expand_query(
            view.index, query.vector, exact | own, options, background, knobs, allowed
        )
        rows, scores = rank_rows(
            view.index, expanded, wanted + len(own), exact, options.augmentation, knobs, allowed
        )
        ranked = rank(rows, scores, exact)
        as_found = not joined and not options.augmentation
        plain = scores if as_found else view.index.vectors(rows) @ query.vector
        records = self.catalog.by_rows(row for row, _ in ranked)
        records |= self.leaving.find(row for row, _ in ranked if row not in records)
        judged = judge(rows, plain, exact, background, view.calibration)
        hits = select_hits(ranked, records, judged, exact, query.own_id, options, least, own)
        ended = time.perf_counter()
        note("search", started, ended)
        self.tally.count(hits, options, joined)
        return SearchAnswer(
            hits=hits,
            fingerprint=self.fingerprint,
            generation=view.generation,
            count=len(view.index),
            expanded_with=joined,
            timing_ms={"search": 1000 * (ended - started)},
        )

    def _rows_of(self, digests: Iterable[str]) -> set[int]:
        return {record.row for digest in digests for record in self.catalog.by_digest(digest)}


def generation_problem(live: int, options: SearchOptions) -> GenerationNotReached | None:
    """Why the live generation is not the one that was asked for; None if it will do."""
    if live >= options.min_generation:
        return None
    return GenerationNotReached(
        f"generation {options.min_generation} was asked for, but {live} is live; follow the job "
        "that builds it, or ask again",
        retry_after_s=GENERATION_RETRY_S,
    )
