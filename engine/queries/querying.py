"""From the images that somebody asks with to the query that is searched."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np

from engine.catalog import Catalog, stored_descriptor
from engine.errors import (
    BadImage,
    BadRegion,
    CorruptIndex,
    EngineError,
    ImageTooLarge,
    RegionNeedsOriginal,
    UnknownImage,
    UnsupportedImage,
)
from engine.generations import project
from engine.images import Cut, DecodedImage, digest
from engine.originals import Originals
from engine.passes.calls import Call, current_call
from engine.passes.stages import stage
from engine.passes.waiting_line import Waiting
from engine.postprocess import LinearProjection
from engine.queries.answering import Query
from engine.queries.examples import NEGATIVE_WEIGHT, combine
from engine.queries.region import Region
from engine.types import ImageRecord, Pixels, Vectors

One = TypeVar("One")
Result = TypeVar("Result")
P = ParamSpec("P")

NAMED = (BadImage, UnsupportedImage, ImageTooLarge, BadRegion, UnknownImage, RegionNeedsOriginal)
"""What can be wrong with one of several examples."""


@dataclass(frozen=True)
class Queue:
    """The way to the model.

    Attributes:
        decode: begins to decode a file, or a part of it, in its turn.
        submit: queues pixels before the model, to be described by a deadline (monotonic).
        expecting: within, what is in the queue waits a little for more.
    """

    decode: Callable[[bytes, Cut | None], Future[DecodedImage]]
    submit: Callable[[Pixels, float], Waiting[Vectors]]
    expecting: Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Example:
    """One image of a query: the bytes of a file or the id of a stored image; `region` is the part
    that is meant, None for the whole."""

    image: bytes | str
    region: Region | None = None


@dataclass(frozen=True)
class ImageQuery:
    """What is asked with: images to be like, and images to be unlike."""

    positives: tuple[Example, ...]
    negatives: tuple[Example, ...] = ()
    negative_weight: float = NEGATIVE_WEIGHT

    @property
    def examples(self) -> tuple[Example, ...]:
        return self.positives + self.negatives


@dataclass(frozen=True)
class DescribedExample:
    """An example as it is compared.

    Attributes:
        raw: (D,) raw descriptor.
        digest: of the file.
        own_id: its id, if it was named by that.
        part: whether it is a region: then it is not the same as its file.
        decode_s, queue_s, describe_s: seconds that this took; `queue_s` until the model began.
    """

    raw: Vectors
    digest: str
    own_id: str | None = None
    part: bool = False
    decode_s: float = 0.0
    queue_s: float = 0.0
    describe_s: float = 0.0


@dataclass(frozen=True)
class _File:
    """A file that is being decoded: `future` gives its pixels, or those of the region."""

    data: bytes
    region: Region | None
    own_id: str | None
    future: Future[DecodedImage]
    since: float


@dataclass(frozen=True)
class _Waiting:
    """An example whose pixels wait for the model; `example` lacks its descriptor."""

    example: DescribedExample
    future: Waiting[Vectors]
    since: float


class Examples:
    """Describes examples; those of one call are decoded side by side and share forward passes."""

    def __init__(
        self, catalog: Catalog, originals: Originals | None, queue: Queue, deadline_s: float
    ) -> None:
        """`deadline_s` is for calls that say nothing else; see `engine.passes.calls`."""
        self._catalog = catalog
        self._originals = originals
        self._queue = queue
        self._deadline_s = deadline_s

    def describe(self, examples: Sequence[Example]) -> list[DescribedExample | EngineError]:
        """Each described, or the error that it alone met, in order."""
        call = current_call(self._deadline_s)
        steps: list[_File | _Waiting | DescribedExample | EngineError] = []
        try:
            with self._queue.expecting():
                for example in examples:
                    steps.append(_or_error(self._begun, example))
                for number, step in enumerate(steps):
                    if isinstance(step, _File):
                        steps[number] = _or_error(self._queued, step, call)
            return [
                _or_error(_ended, step, call) if isinstance(step, _Waiting) else step
                for step in steps
                if not isinstance(step, _File)
            ]
        finally:
            # Nobody waits for the others, if one ended the call.
            for step in steps:
                if isinstance(step, _File | _Waiting):
                    step.future.cancel()

    def _begun(self, example: Example) -> _File | DescribedExample:
        if isinstance(example.image, bytes):
            return self._file(example.image, example.region, None)
        image_id, region = example.image, example.region
        if region is not None:
            record = self._catalog.get(image_id)
            if not region.is_whole(record.width, record.height):
                return self._file(self._original(record), region, image_id)
        raw, file_digest = self.stored(image_id)
        return DescribedExample(raw, file_digest, own_id=image_id)

    def _file(
        self, data: bytes, region: Region | None, own_id: str | None
    ) -> _File | DescribedExample:
        started = time.perf_counter()
        if region is None and data:
            file_digest = digest(data)
            known = self._catalog.by_digest(file_digest)
            raw = self._stored_vector(known[0].row) if known else None
            if raw is not None:
                return DescribedExample(raw, file_digest)
        future = self._queue.decode(data, None if region is None else region.box)
        return _File(data, region, own_id, future, started)

    def _queued(self, file: _File, call: Call) -> _Waiting | DescribedExample:
        with stage("decode"):
            image = call.wait(file.future)
        region = file.region
        if region is not None and region.is_whole(image.width, image.height):
            # A region of all is no region: it may be stored, and is decoded in another way.
            whole = self._file(file.data, None, file.own_id)
            return self._queued(whole, call) if isinstance(whole, _File) else whole
        now = time.perf_counter()
        example = DescribedExample(
            raw=np.zeros(0, np.float32),
            digest=image.digest,
            own_id=file.own_id,
            part=region is not None,
            decode_s=now - file.since,
        )
        return _Waiting(example, self._queue.submit(image.pixels, call.deadline), now)

    def _original(self, record: ImageRecord) -> bytes:
        data = None if self._originals is None else self._originals.read(record.digest)
        if data is None:
            raise RegionNeedsOriginal(
                f"a region of {record.id!r} has to be described from its original, which was not "
                "kept: send the image itself with the region, or start the service with "
                "COOC_KEEP_ORIGINALS=true and add the image again"
            )
        return data

    def stored(self, image_id: str) -> tuple[Vectors, str]:
        """Raw descriptor and digest of a stored image. Raises UnknownImage, CorruptIndex."""
        while True:
            record = self._catalog.get(image_id)
            raw = self._stored_vector(record.row)
            if raw is not None:
                return raw, record.digest
            # Replaced or deleted between the two reads, unless the row is still there.
            if self._catalog.by_rows([record.row]):
                raise CorruptIndex(f"the image {image_id!r} has no descriptor; add it again")

    def _stored_vector(self, row: int) -> Vectors | None:
        for _, vectors in self._catalog.descriptors([row]):
            first: Vectors = vectors[0]
            return first
        return None


def _ended(waiting: _Waiting, call: Call) -> DescribedExample:
    raw = stored_descriptor(call.wait_in_line(waiting.future))
    began = waiting.future.began or waiting.since
    return replace(
        waiting.example,
        raw=raw,
        queue_s=began - waiting.since,
        describe_s=time.perf_counter() - began,
    )


def _or_error(
    step: Callable[Concatenate[One, P], Result], one: One, *args: P.args, **kwargs: P.kwargs
) -> Result | EngineError:
    """What the step gives, or the error that it raises."""
    try:
        return step(one, *args, **kwargs)
    except EngineError as error:
        return error


def query_of(
    positives: Sequence[DescribedExample],
    negatives: Sequence[DescribedExample],
    *,
    negative_weight: float,
    projection: LinearProjection | None,
) -> Query:
    """The query that described examples make.

    One whole image is searched as itself, with the images that have its bytes first. Of several,
    and of a region, no stored image is an exact copy; `exclude_self` then leaves out the images
    that the examples are, or are parts of.
    """
    examples = [*positives, *negatives]
    vectors = project(projection, np.stack([example.raw for example in examples]))  # (n, D)
    alone = len(examples) == 1
    if alone and not examples[0].part:
        return Query(vectors[0], examples[0].digest, examples[0].own_id)
    split = len(positives)
    vector = (
        vectors[0]
        if alone
        else combine(vectors[:split], vectors[split:], negative_weight=negative_weight)
    )
    return Query(vector, "", left_out=frozenset(example.digest for example in examples))


def of_example(error: EngineError, number: int, query: ImageQuery) -> EngineError:
    """The error, which says which of several examples met it. Counted from 1, positives first."""
    if len(query.examples) == 1 or type(error) not in NAMED:
        return error
    positives = len(query.positives)
    if number <= positives:
        where = f"positive example {number}"
    else:
        where = f"negative example {number - positives}"
    named = type(error)(f"{where}: {error}")
    named.__cause__ = error
    return named
