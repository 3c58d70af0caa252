"""What a call may raise: the problem documents of the service, as exceptions by kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class CoocError(Exception):
    """Base of all errors of this package."""


class Unreachable(CoocError):
    """No service answered, or something that is not this service."""


class Problem(CoocError):
    """The service refused. `code` is for programs, `detail` names the value and the remedy.

    `errors` has the fields that are wrong, each with `pointer` and `detail`.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.status = int(content.get("status", 500))
        self.code = str(content.get("code", "unknown"))
        self.detail = str(content.get("detail", ""))
        self.request_id = str(content.get("request_id", ""))
        self.errors: list[dict[str, str]] = list(content.get("errors") or [])
        super().__init__(f"{self.status} {self.code}: {self.detail}")


class NotPermitted(Problem):
    """401, 403: the key is missing, wrong, or not for this."""


class NotFound(Problem):
    """404: no such image, job or report."""


class Conflict(Problem):
    """409: the index is not in the state that this needs."""


class TooLarge(Problem):
    """413: send it in parts, or a smaller version."""


class InvalidRequest(Problem):
    """400, 415, 422: the request or its image cannot be used."""


class Unavailable(Problem):
    """429, 502, 503, 504, 507: not now; the first three were tried again as often as allowed."""


_BY_STATUS: dict[int, type[Problem]] = {
    400: InvalidRequest,
    401: NotPermitted,
    403: NotPermitted,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: InvalidRequest,
    422: InvalidRequest,
    429: Unavailable,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
    507: Unavailable,
}


def problem_of(content: Mapping[str, Any]) -> Problem:
    """The exception for a problem document."""
    return _BY_STATUS.get(int(content.get("status", 500)), Problem)(content)
