"""What a request met, noted where its answer is made."""

from __future__ import annotations

from http import HTTPStatus

from starlette.types import Scope

_KEY = "observed.problem"


class Problem:
    """The code of the problem that a request was answered with, once it is known."""

    code: str | None = None


def expect_problem(scope: Scope) -> Problem:
    """To be asked after the answer. An object, as parts of the application copy the scope."""
    problem: Problem = scope.setdefault(_KEY, Problem())
    return problem


def note_problem(scope: Scope, code: str) -> None:
    """For whoever counts: this is what the request is answered with."""
    noted = scope.get(_KEY)
    if noted is not None:
        noted.code = code


def code_of_status(status: int) -> str:
    """`not_found`: the code of a problem that nobody described better."""
    return HTTPStatus(status).phrase.lower().replace(" ", "_").replace("'", "")
