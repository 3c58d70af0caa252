"""Errors."""

from __future__ import annotations

from app.schemas.base import Out


class FieldErrorOut(Out):
    """One thing that is wrong with a request."""

    pointer: str
    """The field, as a JSON pointer (RFC 6901); empty for the whole body."""
    detail: str
    """What is wrong with it, with the value that was given."""


class ProblemOut(Out):
    """RFC 9457 problem document."""

    type: str
    """The code as a URI."""
    title: str
    """The words of the status."""
    status: int
    """As of the response."""
    detail: str
    """For people: names the value and the remedy."""
    instance: str
    """The path that was asked for."""
    code: str
    """For programs: does not change between versions."""
    request_id: str
    """As in the header `X-Request-ID` and in the log."""
    errors: list[FieldErrorOut]
    """The fields that are wrong, if that is what is wrong."""
