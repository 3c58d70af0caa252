"""Whether an answer is one that the service says it gives."""

from __future__ import annotations

from typing import Any

import httpx

from benchmarks.fuzzing.cases import Case

PROBLEM = {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}


def judge(case: Case, answer: httpx.Response, documented: dict[str, Any]) -> str | None:
    """What is wrong with an answer; None if nothing is.

    Args:
        documented: `paths` of the service's own OpenAPI document.
    """
    told = f"case {case.number}, {case.method} {case.path} with {case.what}"
    status = answer.status_code
    if status >= 500:
        return f"{told}: {status} {answer.text[:300]}"
    path = "/images/{image_id}" if case.path.startswith("/images/") else case.path
    answers = documented[path][case.method.lower()]["responses"]
    if not {str(status), f"{status // 100}XX"} & set(answers):
        return f"{told}: {status} is not documented for {path}"
    try:
        body = answer.json()
    except ValueError:
        return f"{told}: {status}, but no JSON: {answer.text[:100]!r}"
    if status < 400:
        return None
    if answer.headers["content-type"] != "application/problem+json" or set(body) != PROBLEM:
        return f"{told}: {status} is no problem document: {answer.text[:300]}"
    if body["status"] != status or body["request_id"] != answer.headers["x-request-id"]:
        return f"{told}: the problem document belongs to another answer: {answer.text[:300]}"
    return None
