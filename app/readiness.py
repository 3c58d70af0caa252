"""Whether index and model can be used, however often strangers ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from engine.errors import CorruptIndex, DeviceLost

FRESH_S = 1.0


class Readiness:
    """Looks at most once in `FRESH_S`: it takes a while where there are millions of images."""

    def __init__(
        self, look: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look, self._clock = look, clock
        self._lock = threading.Lock()
        self._until: float | None = None
        self._wrong: CorruptIndex | DeviceLost | None = None

    def check(self) -> None:
        """Raises CorruptIndex, DeviceLost."""
        with self._lock:
            if self._until is None or self._clock() >= self._until:
                self._wrong = None
                try:
                    self._look()
                except (CorruptIndex, DeviceLost) as error:
                    self._wrong = error
                self._until = self._clock() + FRESH_S
            wrong = self._wrong
        if wrong is not None:
            raise type(wrong)(str(wrong))
