"""The command line's way to a service that owns the data folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from engine.errors import EngineError

BATCH_FILES, BATCH_BYTES = 200, 100 << 20


class ServiceProblem(EngineError):
    """The service answered with a problem document, or not at all."""


class Client:
    """Calls a running service."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(180.0, connect=5.0),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )

    def close(self) -> None:
        self._http.close()

    def call(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        """Raises ServiceProblem with the service's own words."""
        answer = self._request(method, path, **content)
        try:
            body = answer.json() if answer.content else {}
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ServiceProblem(f"{answer.request.url} is no address of this service; check --url")
        return body

    def fetch(self, path: str) -> bytes:
        """What an address answers, as it is. Raises as `call` does."""
        return self._request("GET", path).content

    def _request(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **content)
        except httpx.HTTPError as error:
            raise ServiceProblem(
                f"no service answers at {self.url} ({error}); start one with `cooc serve`"
            ) from error
        if answer.is_error:
            raise ServiceProblem(_detail(answer))
        return answer

    def search(self, data: bytes, name: str, **fields: Any) -> dict[str, Any]:
        if "filter" in fields:
            fields["filter"] = json.dumps(fields["filter"])
        return self.call("POST", "/search", files={"image": (name, data)}, data=fields)

    def compare(self, a: tuple[str, bytes], b: tuple[str, bytes]) -> dict[str, Any]:
        """Two images, each with the name of its file."""
        return self.call("POST", "/compare", files={"image_a": a, "image_b": b})

    def add(self, files: list[tuple[str, Path]]) -> Iterator[dict[str, Any]]:
        """Upload files in parts; yields the job of each part."""
        for part in _parts(files):
            handles = [(name, path.open("rb")) for name, path in part]
            try:
                yield self.call("POST", "/index/add", files=[("files", h) for h in handles])
            finally:
                for _, handle in handles:
                    handle.close()

    def follow(
        self, job: dict[str, Any], report: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Wait for the end of a job; `report` gets each state. Raises ServiceProblem on failure."""
        while job["state"] in ("queued", "running"):
            report(job)
            time.sleep(0.3)
            job = self.call("GET", f"/jobs/{job['id']}")
        report(job)
        return job


def _parts(files: list[tuple[str, Path]]) -> Iterator[list[tuple[str, Path]]]:
    part: list[tuple[str, Path]] = []
    size = 0
    for name, path in files:
        bytes_ = path.stat().st_size
        if part and (len(part) >= BATCH_FILES or size + bytes_ > BATCH_BYTES):
            yield part
            part, size = [], 0
        part.append((name, path))
        size += bytes_
    if part:
        yield part


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.request.method} {answer.request.url} answered {answer.status_code}"
