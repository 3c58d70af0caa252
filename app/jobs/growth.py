"""When a collection has outgrown its last build."""

from __future__ import annotations

import threading

MIN_IMAGES, GROWTH = 100, 4
"""Projected vectors are smaller and rank better: worth it whenever a set has grown so much."""
MIN_FRESH, FRESH_SHARE = 20_000, 0.1
"""Images added since the last build are searched one by one: more of them than this, or than this
share of the others, slow down every search."""


class Growth:
    """Counts writes, so that nobody has to look at the index after each of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = 0
        self._tried_count = 0
        self._tried_fresh = 0

    def wrote(self, images: int) -> bool:
        """Count images; whether it is time to look at the index again."""
        with self._lock:
            self._left -= images
            return self._left <= 0

    def outgrown(self, count: int, fitted: int, fresh: int) -> bool:
        """Whether to build, for a collection of `count` images of which `fitted` were there at
        the last build and `fresh` came later."""
        with self._lock:
            if fresh < self._tried_fresh:  # there was a build since
                self._tried_count = self._tried_fresh = 0
            base = max(fitted, self._tried_count)
            least = max(MIN_IMAGES, GROWTH * base)
            most = self._tried_fresh + max(MIN_FRESH, int(FRESH_SHARE * fitted))
            # Fewer writes than this cannot change the answer.
            self._left = max(1, min(least - count, most + 1 - fresh))
            return count >= least or fresh > most

    def tried(self, count: int, fresh: int) -> None:
        """Do not build again before there is as much growth from here on.

        For a build that was queued, which may fail, and for going back to an earlier generation,
        which is not to be undone by the next write.
        """
        with self._lock:
            self._tried_count, self._tried_fresh = count, fresh
