"""Filters inside the search, deletions and pages included, against brute force."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.describer import Describer
from engine.errors import UnknownImage
from engine.filters import parse_filter
from engine.searcher import Searcher
from engine.types import SearchOptions, Vectors
from engine.vector_index import BuildOptions
from tests.filter_cases import documents, filters, passes
from tests.stored import an_image, unit_vectors

IDS = [f"image {number}" for number in range(40)]


class Model:
    """The collection as plain dictionaries: what a search has to answer, by looking at all."""

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher
        self.documents: dict[str, dict[str, Any]] = {}
        self.vectors: dict[str, Vectors] = {}
        self.dim = searcher.recipe.raw_dim
        self.written = 0

    def put(self, image_id: str, document: dict[str, Any]) -> None:
        self.written += 1
        image = an_image(image_id, seed=self.written, dim=self.dim, metadata=document)
        self.searcher.store([image])
        self.documents[image_id] = document
        self.vectors[image_id] = image.descriptor.astype(np.float16).astype(np.float64)

    def delete(self, image_id: str) -> None:
        if self.documents.pop(image_id, None) is None:
            with pytest.raises(UnknownImage):
                self.searcher.delete(image_id)
            return
        self.searcher.delete(image_id)

    def patch(self, image_id: str, change: dict[str, Any]) -> None:
        if image_id in self.documents:
            # What the patch makes of it is tested elsewhere.
            self.documents[image_id] = self.searcher.patch(image_id, change).metadata

    def ranking(self, query: Vectors, where: dict[str, Any]) -> list[tuple[str, float]]:
        found = [
            (image_id, float(self.vectors[image_id] @ query))
            for image_id, document in self.documents.items()
            if passes(where, document)
        ]
        return sorted(found, key=lambda entry: -entry[1])


@pytest.fixture(scope="module", params=["flat", "ivf_sq8"])
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, describer: Describer
) -> Iterator[Model]:
    folder = tmp_path_factory.mktemp("filtered")
    options = BuildOptions(index_type=request.param, min_recall=0.0)
    with closing(Searcher(folder, describer, build_options=options)) as searcher:
        made = Model(searcher)
        for image_id in IDS[:30]:
            made.put(image_id, {"a": image_id})
        # Fewer than a projection is fitted on: what is searched are the raw descriptors.
        searcher.build()
        yield made


writes = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(IDS), documents),
        st.tuples(st.just("delete"), st.sampled_from(IDS), st.none()),
        st.tuples(st.just("patch"), st.sampled_from(IDS), documents),
    ),
    max_size=2,
)


@pytest.mark.slow
@settings(
    max_examples=1000,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    changes=writes,
    where=filters,
    seed=st.integers(0, 999),
    page=st.tuples(st.integers(1, 12), st.integers(0, 8)),
)
def test_a_filtered_page_is_that_of_brute_force(
    model: Model, changes: list[Any], where: dict[str, Any], seed: int, page: tuple[int, int]
) -> None:
    for kind, image_id, document in changes:
        if kind == "delete":
            model.delete(image_id)
        else:
            getattr(model, kind)(image_id, json.loads(json.dumps(document)))
    query = unit_vectors(1, model.dim, 10_000 + seed)[0]
    limit, offset = page
    options = SearchOptions(limit=limit, offset=offset, filter=parse_filter(where))
    hits = model.searcher.search_described(query, "", options).hits
    expected = model.ranking(query.astype(np.float64), where)[offset : offset + limit]
    np.testing.assert_allclose(
        [hit.score for hit in hits], [score for _, score in expected], atol=1e-4
    )
    # Scores of float16 vectors may tie where those of float64 do not: compare as sets, then.
    scores = [score for _, score in expected]
    if len(scores) < 2 or np.min(-np.diff(scores)) > 2e-4:
        assert [hit.id for hit in hits] == [image_id for image_id, _ in expected]
    assert all(passes(where, model.documents[hit.id]) for hit in hits)
    assert len({hit.id for hit in hits}) == len(hits)
