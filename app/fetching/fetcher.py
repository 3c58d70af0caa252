"""Fetching an image from a URL that a client sent."""

from __future__ import annotations

import logging
import math
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from functools import cached_property

from app.errors import UrlFetchFailed, UrlNotAllowed
from app.fetching.addresses import Address
from app.fetching.budget import Budget
from app.fetching.failures import Failed, Refused
from app.fetching.lookup import Lookup, checked_addresses, system_lookup
from app.fetching.parsing import BadUrl, Target, parse_url, redirected, without_secrets
from app.fetching.policy import Policy
from engine.errors import ImageTooLarge, Overloaded
from engine.passes.calls import current_call
from engine.passes.stages import stage

log = logging.getLogger(__name__)

MAX_REDIRECTS = 5
MAX_QUERIES = 16
"""URLs of searches that are fetched at a time: each holds a thread for as long as it takes."""
LOOKUPS = 32
OVERHEAD = 1 << 20
"""Bytes of headers and framing besides the image."""
SHOWN = 200
"""Characters of a URL that messages quote."""


class Fetcher:
    """Fetches what its policy allows; methods may be called from several threads."""

    def __init__(
        self,
        policy: Policy,
        *,
        max_bytes: int,
        timeout_s: float,
        lookup: Lookup = system_lookup,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """`max_bytes` and `timeout_s` are of one image, with all redirects to it.

        `context` says whose certificates are trusted; by default those of the system variables
        SSL_CERT_FILE and SSL_CERT_DIR, else those of the package certifi.
        """
        self._policy = policy
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._lookup = lookup
        self._given_context = context
        self._queries = threading.BoundedSemaphore(MAX_QUERIES)
        # Looking up a name cannot be given up, so it is done aside.
        self._lookups = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="lookup")

    def close(self) -> None:
        self._lookups.shutdown(wait=False, cancel_futures=True)

    def check_on(self) -> None:
        """Raises UrlNotAllowed where nothing may be fetched at all."""
        if self._policy.off:
            raise UrlNotAllowed(
                "this service fetches nothing from URLs; its operator may allow hosts with "
                "COOC_URL_ALLOW"
            )

    def query(self, url: str) -> bytes:
        """The image of somebody who waits for it. Raises as `fetch` does, Overloaded, and what ends
        the current call."""
        self.check_on()
        call = current_call(math.inf)
        call.check()
        if not self._queries.acquire(blocking=False):
            raise Overloaded(
                f"{MAX_QUERIES} URLs are being fetched already; try again", retry_after_s=2
            )
        try:
            with stage("fetch"):
                return self.fetch(url, lambda: call.over)
        except InterruptedError:
            call.check()
            raise
        finally:
            self._queries.release()

    def fetch(self, url: str, stopped: Callable[[], bool] = lambda: False) -> bytes:
        """The bytes that a URL leads to.

        Args:
            stopped: asked twice a second; once true, InterruptedError is raised.

        Raises: UrlNotAllowed, UrlFetchFailed, ImageTooLarge.
        """
        self.check_on()
        name = f"the URL {shown(url)}"
        budget = Budget(self._timeout_s, 2 * self._max_bytes + OVERHEAD, stopped)
        try:
            return self._follow(url, budget)
        except (BadUrl, Refused) as error:
            if isinstance(error, Refused) and error.told:
                # Without the URL itself: there may be a key in it.
                log.warning("a URL is not fetched: %s", error.told)
            raise UrlNotAllowed(f"{name} {error}") from error
        except Failed as error:
            raise UrlFetchFailed(
                f"{name} {error}",
                transient=error.transient,
                busy=error.busy,
                wait_s=error.wait_s,
                answered=error.answered,
            ) from error
        except ImageTooLarge as error:
            raise ImageTooLarge(f"{name} {error}") from error

    def _follow(self, url: str, budget: Budget) -> bytes:
        from app.fetching.request import Redirect, get  # HTTP libraries take a while to load

        target = parse_url(url)
        answer = get(target, self._allowed(target, budget), budget, self._context, self._max_bytes)
        for number in range(1, MAX_REDIRECTS + 1):
            if isinstance(answer, bytes):
                return answer
            assert isinstance(answer, Redirect)
            try:
                target = redirected(target, answer.location)
                addresses = self._allowed(target, budget)
            except (BadUrl, Refused) as error:
                # Where to is not said: the other side's private names are none of the caller's.
                told = error.told if isinstance(error, Refused) else ""
                raise Refused(f"redirects (number {number}) to one that {error}", told) from error
            answer = get(target, addresses, budget, self._context, self._max_bytes)
        if isinstance(answer, bytes):
            return answer
        raise Failed(f"redirects more than {MAX_REDIRECTS} times")

    def _allowed(self, target: Target, budget: Budget) -> list[Address]:
        """Raises Refused unless host, port and all addresses are allowed."""
        if not self._policy.permits(target):
            raise Refused("leads to a host or port that is not on the list of this service")
        future = self._lookups.submit(checked_addresses, target, self._policy, self._lookup)
        try:
            return future.result(budget.seconds())
        except FutureTimeout as error:
            future.cancel()
            raise Failed("has a host that was not found in time", transient=True) from error

    @cached_property
    def _context(self) -> ssl.SSLContext:
        if self._given_context is not None:
            return self._given_context
        import httpx

        return httpx.create_ssl_context()


def shown(url: str) -> str:
    """A URL for messages: as it was sent, but for what may be a secret, unless it is long."""
    text = repr(without_secrets(url))
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
