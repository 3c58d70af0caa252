"""Why a fetch came to nothing, in words that may be sent to whoever asked for it."""

from __future__ import annotations


class Refused(Exception):
    """What is not fetched. `told` goes into the log only: it may name addresses."""

    def __init__(self, reason: str, told: str = "") -> None:
        super().__init__(reason)
        self.told = told


class Failed(Exception):
    """What was tried; all else is that of `app.errors.UrlFetchFailed`."""

    def __init__(
        self,
        reason: str,
        *,
        transient: bool = False,
        busy: bool = False,
        wait_s: float | None = None,
        answered: bool = False,
    ) -> None:
        super().__init__(reason)
        self.transient = transient
        self.answered = answered
        self.busy = busy
        self.wait_s = wait_s
