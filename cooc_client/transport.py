"""Requests that are tried again when the service asks for it."""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx

from cooc_client.errors import Unreachable, problem_of

LATER = (429, 502, 503)
"""Busy; 502 is what proxies say while the service starts."""
LONGEST_WAIT_S = 60.0
Content = Callable[[ExitStack], dict[str, Any]]
"""Makes what a request carries, anew for each time it is sent; files are closed by the stack."""


class Transport:
    """One service, with the key to it."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None,
        timeout_s: float,
        retries: int,
        transport: httpx.BaseTransport | None,
    ) -> None:
        key = key if key is not None else os.environ.get("COOC_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._retries = retries
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=5.0),
            transport=transport,
        )

    def close(self) -> None:
        self._http.close()

    def json(self, method: str, path: str, content: Content | None = None, **more: Any) -> Any:
        """The JSON of an answer. Raises as `send` does."""
        answer = self.send(method, path, content, **more)
        try:
            return answer.json()
        except ValueError as error:
            raise Unreachable(
                f"{method} {self.url}{path} answered no JSON; is that the address of the service?"
            ) from error

    def send(
        self,
        method: str,
        path: str,
        content: Content | None = None,
        *,
        removes: bool = False,
        **more: Any,
    ) -> httpx.Response:
        """Send, and send again when the service is busy or the connection broke.

        Every request is safe to send twice: writes that are not so by themselves carry a key.

        Args:
            removes: after a connection that broke, 404 says that it was done, and is no error.

        Raises: a Problem, or Unreachable.
        """
        headers = {}
        if method == "POST" and path.startswith(("/index/", "/admin/")):
            headers["Idempotency-Key"] = uuid.uuid4().hex
        attempt, broke = 0, False
        while True:
            last = attempt >= self._retries
            try:
                with ExitStack() as stack:
                    carried = {} if content is None else content(stack)
                    answer = self._http.request(method, path, headers=headers, **carried, **more)
            except httpx.ReadTimeout as error:
                # Who has waited for an answer in vain once would wait as long again.
                raise Unreachable(
                    f"{method} {self.url}{path} was not answered within {self._timeout_s:g} s; it "
                    "may still be done: look, or give the client a larger timeout_s"
                ) from error
            except httpx.RequestError as error:
                if last or isinstance(error, _FOR_GOOD):
                    raise Unreachable(f"no service answers at {self.url}: {error}") from error
                wait_s, broke = _backoff_s(attempt), True
            else:
                busy = answer.status_code in LATER or _in_flight(answer)
                if last or not busy:
                    done = removes and broke and answer.status_code == 404
                    return answer if done else _checked(answer)
                wait_s = _retry_after_s(answer, attempt)
            time.sleep(wait_s)
            attempt += 1


_FOR_GOOD = (
    httpx.DecodingError,
    httpx.LocalProtocolError,
    httpx.TooManyRedirects,
    httpx.UnsupportedProtocol,
)
"""What would be the same the next time."""


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_success:
        return answer
    if not answer.is_error:
        # Nothing was done, and a key is not sent after it to another address.
        where = answer.headers.get("Location", "nowhere")
        raise Unreachable(
            f"{answer.request.method} {answer.request.url} is redirected to {where}; give the "
            "client the address of the service itself"
        )
    try:
        content = answer.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        words = f"{answer.request.method} {answer.request.url} answered {answer.status_code}"
        content = {"detail": words}
    raise problem_of({**content, "status": answer.status_code})


def _in_flight(answer: httpx.Response) -> bool:
    """Whether our own earlier attempt is still being answered."""
    return answer.status_code == 409 and b"idempotency_conflict" in answer.content


def _retry_after_s(answer: httpx.Response, attempt: int) -> float:
    given = answer.headers.get("Retry-After", "")
    return min(LONGEST_WAIT_S, float(given)) if given.isdecimal() else _backoff_s(attempt)


def _backoff_s(attempt: int) -> float:
    """0.5 s, then twice as long each time; never two clients at the same moment."""
    return float(min(LONGEST_WAIT_S, 0.5 * 2**attempt) * random.uniform(0.75, 1.25))
