"""How searches turn out, counted."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

from engine.types import Hit, SearchOptions

NOTHING = "none"


@dataclass(frozen=True)
class Outcome:
    """One way in which a search may turn out.

    Attributes:
        match_type: of its best hit; `none` if nothing was found.
        expansion: the kind of query expansion that was asked for.
        expanded: whether any image joined the query.
    """

    match_type: str
    expansion: str
    expanded: bool


class Tally:
    """Counts searches by their outcome. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[Outcome] = Counter()

    def count(self, hits: tuple[Hit, ...], options: SearchOptions, joined: int) -> None:
        """`joined`: how many images joined the query."""
        best = hits[0].match_type.value if hits else NOTHING
        with self._lock:
            self._counts[Outcome(best, options.expansion.value, joined > 0)] += 1

    def counts(self) -> dict[Outcome, int]:
        with self._lock:
            return dict(self._counts)
