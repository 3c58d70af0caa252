"""The calls of the service."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from cooc_client.errors import Problem, problem_of
from cooc_client.images import Example, File, Region, Stored, read, source
from cooc_client.models import Comparison, Image, Job, JobError, Json, Result, SearchAnswer, known
from cooc_client.transport import Transport

LARGEST_PAGE = 100
FURTHEST = 10_000
"""The largest offset of a page."""
BATCH_FILES, BATCH_BYTES = 200, 100 << 20
"""Of one upload of `add_all`."""
POLL_S = 0.5

OnProgress = Callable[[Job], None]
"""Told each state of a job while it is waited for."""


class Client:
    """A service at an address. Use it in a `with`, or `close` it.

    Options of searches are those of the HTTP API, by the same names: `limit`, `offset`,
    `score_threshold`, `max_fpr`, `filter`, `query_expansion`, `exact`, `exclude_self`, `include`,
    `min_generation`, `negative_weight` and so on.
    All calls raise `Problem` and `Unreachable`; for 429, 502 and 503 only after having tried again.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        timeout_s: float = 180.0,
        retries: int = 4,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """
        Args:
            key: API key; default the environment variable `COOC_API_KEY`, if it is set.
            retries: how often a request is sent again.
            transport: of httpx, for proxies and tests.
        """
        self._transport = Transport(
            url, key=key, timeout_s=timeout_s, retries=retries, transport=transport
        )

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- searching ------------------------------------------------------------------------

    def search(
        self,
        image: File | Stored | None = None,
        *,
        id: str | None = None,
        region: Region | None = None,
        positives: Sequence[File | Stored | Example] = (),
        negatives: Sequence[File | Stored | Example] = (),
        **options: Any,
    ) -> SearchAnswer:
        """Similar images, best first: to a file, a stored image, or several `positives`.

        Raises: ValueError unless exactly one of these is given.
        """
        if (image is not None) + (id is not None) + bool(positives) != 1:
            raise ValueError("give exactly one of an image, an id, and positives")
        if id is not None:
            image = Stored(id)
        if image is not None and negatives:
            positives, image, region = [Example(image, region)], None, None
        if image is None:
            query: Json = {
                "positives": [source(one) for one in positives],
                "negatives": [source(one) for one in negatives],
            }
        elif isinstance(image, Stored):
            query = source(image)
        else:
            return self._search_file(read(image), {**_given(region), **options})
        content = {"query": query, **_given(region), **_set(options)}
        return SearchAnswer.of(self._transport.json("POST", "/search", json=content))

    def _search_file(self, data: bytes, fields: Json) -> SearchAnswer:
        files = {"image": data}
        found = self._transport.json("POST", "/search", files=files, data=_texts(fields))
        return SearchAnswer.of(found)

    def search_batch(
        self, images: Sequence[File | Stored], **options: Any
    ) -> list[SearchAnswer | Problem]:
        """Up to 16 searches at once: for each image its answer, or what is wrong with it."""
        content = {"queries": [{"query": source(image)} for image in images], **_set(options)}
        answers = self._transport.json("POST", "/search/batch", json=content)["answers"]
        return [
            SearchAnswer.of(item["answer"]) if item["answer"] else problem_of(item["problem"])
            for item in answers
        ]

    def results(self, image: File | Stored | None = None, **query: Any) -> Iterator[Result]:
        """All results of a search, a page of `limit` at a time; arguments as of `search`.

        They end where the service stops paging, at about 10,000. Each page is a search: a stored
        image costs least.
        """
        page = min(query.pop("limit", LARGEST_PAGE), LARGEST_PAGE)
        offset = query.pop("offset", 0)
        # Once, as an open file can be read only once.
        image = None if image is None else _kept(image)
        for several in {"positives", "negatives"} & query.keys():
            query[several] = [_kept(one) for one in query[several]]
        while offset <= FURTHEST:
            found = self.search(image, limit=page, offset=offset, **query).results
            yield from found
            if len(found) < page:
                return
            offset += page

    def similar(self, image_id: str, **options: Any) -> SearchAnswer:
        """Images like a stored one, without itself."""
        found = self._transport.json("GET", _path(image_id, "/similar"), params=_texts(options))
        return SearchAnswer.of(found)

    def compare(self, a: File | Stored, b: File | Stored) -> Comparison:
        """Two images against each other."""
        content = {"a": source(a), "b": source(b)}
        return known(Comparison, self._transport.json("POST", "/compare", json=content))

    # --- single images --------------------------------------------------------------------

    def put(self, image_id: str, image: File, metadata: Mapping[str, Any] | None = None) -> Image:
        """Add or replace one image; it is found by every search after this."""
        files = {"image": read(image)}
        data = {"metadata": json.dumps(metadata or {})}
        return known(Image, self._transport.json("PUT", _path(image_id), files=files, data=data))

    def get(self, image_id: str) -> Image:
        return known(Image, self._transport.json("GET", _path(image_id)))

    def patch(self, image_id: str, change: Mapping[str, Any]) -> Image:
        """Change metadata: entries are set, or removed where None."""
        return known(Image, self._transport.json("PATCH", _path(image_id), json=dict(change)))

    def delete(self, image_id: str) -> None:
        self._transport.send("DELETE", _path(image_id), removes=True)

    def images(
        self, *, filter: Mapping[str, Any] | None = None, page: int = 1000
    ) -> Iterator[Image]:
        """All stored images in the order of their ids, a page at a time."""
        for found in self._pages("/images", _texts({"limit": page, "filter": filter})):
            yield from (known(Image, image) for image in found["images"])

    def thumbnail(self, image_id: str) -> bytes:
        """A JPEG of at most 256 pixels a side."""
        return self._transport.send("GET", _path(image_id, "/thumbnail")).content

    def original(self, image_id: str) -> bytes:
        """The file that was added, where the service keeps them."""
        return self._transport.send("GET", _path(image_id, "/original")).content

    # --- many images ----------------------------------------------------------------------

    def add(
        self,
        files: Mapping[str, File] | Iterable[Path],
        *,
        metadata: Mapping[str, Any] | None = None,
        wait: bool = True,
        progress: OnProgress | None = None,
    ) -> Job:
        """Add images, or .zip and .tar archives of them, as one upload.

        Args:
            files: by the ids they shall have, or paths, whose names become the ids: of several
                with one name all but the first get part of their digest added.
            metadata: all of them get it.
            wait: return when the job has ended; else at once.
            progress: told each state of the job meanwhile.
        """
        named: list[tuple[str, File]] = (
            list(files.items())
            if isinstance(files, Mapping)
            else [(file.name, file) for file in files]
        )
        data = {"metadata": json.dumps(metadata or {})}

        def content(stack: ExitStack) -> Json:
            opened = [("files", (name, _opened(file, stack))) for name, file in named]
            return {"files": opened, "data": data}

        job = Job.of(self._transport.json("POST", "/index/add", content))
        return self.wait(job, progress) if wait else job

    def add_all(
        self,
        files: Mapping[str, Path],
        *,
        metadata: Mapping[str, Any] | None = None,
        progress: OnProgress | None = None,
    ) -> list[Job]:
        """Add any number of files in uploads of at most 200 files and 100 MB; waits for all."""
        jobs = [self.add(part, metadata=metadata, wait=False) for part in _parts(files)]
        return [self.wait(job, progress) for job in jobs]

    # --- jobs -----------------------------------------------------------------------------

    def job(self, job_id: str) -> Job:
        return Job.of(self._transport.json("GET", f"/jobs/{quote(job_id)}"))

    def jobs(self, **options: Any) -> list[Job]:
        """The newest first; `limit`, `state` and `type` choose."""
        found = self._transport.json("GET", "/jobs", params=_texts(options))["jobs"]
        return [Job.of(job) for job in found]

    def wait(self, job: Job | str, progress: OnProgress | None = None) -> Job:
        """The job once it has ended, however: look at its `state`."""
        current = self.job(job) if isinstance(job, str) else job
        while True:
            if progress is not None:
                progress(current)
            if current.ended:
                return current
            time.sleep(POLL_S)
            current = self.job(current.id)

    def job_errors(self, job_id: str) -> Iterator[JobError]:
        """Images that were not added or were skipped, a page at a time."""
        for found in self._pages(f"/jobs/{quote(job_id)}/errors", {}):
            yield from (known(JobError, entry) for entry in found["errors"])

    def cancel(self, job_id: str) -> Job:
        """Stop a job; what was added stays."""
        return Job.of(self._transport.json("DELETE", f"/jobs/{quote(job_id)}"))

    # --- the index ------------------------------------------------------------------------

    def build(self, *, wait: bool = True, progress: OnProgress | None = None) -> Job:
        """Fit the projection to the collection and publish a new generation."""
        job = Job.of(self._transport.json("POST", "/admin/index/build"))
        return self.wait(job, progress) if wait else job

    def index(self) -> Json:
        """Size, generation, recipe and quality of the index."""
        found: Json = self._transport.json("GET", "/admin/index")
        return found

    def version(self) -> Json:
        """Versions, weights and recipe of the service."""
        found: Json = self._transport.json("GET", "/version")
        return found

    def _pages(self, path: str, given: dict[str, str]) -> Iterator[Json]:
        cursor: str | None = None
        while True:
            place = {} if cursor is None else {"cursor": cursor}
            page: Json = self._transport.json("GET", path, params={**given, **place})
            yield page
            cursor = page["next_cursor"]
            if cursor is None:
                return


def _path(image_id: str, below: str = "") -> str:
    return f"/images/{quote(image_id)}{below}"


def _given(region: Region | None) -> Json:
    return {} if region is None else {"region": asdict(region)}


def _set(options: Mapping[str, Any]) -> Json:
    """What is None is left out, as in forms and addresses."""
    return {name: value for name, value in options.items() if value is not None}


def _kept(image: Any) -> Any:
    """A file as its bytes, alone or in an example; a stored image as it is."""
    if isinstance(image, Example):
        return replace(image, image=_kept(image.image))
    return image if isinstance(image, Stored) else read(image)


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as the text that forms and addresses have; what is None is left out."""
    return {name: _text(value) for name, value in values.items() if value is not None}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return ",".join(str(part) for part in value)
    return json.dumps(value)


def _opened(file: File, stack: ExitStack) -> Any:
    if isinstance(file, bytes):
        return file
    if isinstance(file, str | Path):
        return stack.enter_context(Path(file).open("rb"))
    file.seek(0)
    return file


def _parts(files: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    part: dict[str, Path] = {}
    size = 0
    for name, path in files.items():
        length = path.stat().st_size
        if part and (len(part) >= BATCH_FILES or size + length > BATCH_BYTES):
            yield part
            part, size = {}, 0
        part[name] = path
        size += length
    if part:
        yield part
