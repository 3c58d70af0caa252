from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.backbones.weights import load_weights
from engine.cooccurrence import direct_filter
from engine.describer import Describer, DescriberOptions
from engine.errors import InvalidOption
from engine.evaluation import run
from engine.evaluation.datasets import Dataset, Query, load_dataset
from engine.evaluation.descriptors import Progress
from engine.evaluation.methods import Method, Projection, QueryExpansion
from engine.evaluation.protocols import evaluate_similarities
from engine.evaluation.published import (
    AQE,
    OXFORD,
    ROXFORD,
    PublishedRow,
    PublishedTable,
    published_tables,
)
from engine.evaluation.reproduce import Setting, kinds_of, reproduce
from engine.evaluation.run import Evaluated, evaluate_methods, fit_projection, matched_pairs
from engine.postprocess import LearnedWhitening, PCAProjection
from engine.types import Expansion, Vectors
from tests.drawing import encode, scene, view


def write(folder: Path, content: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "gt.json").write_text(json.dumps(content))
    return folder


def nobody(label: str) -> Progress:
    """Nobody looks at the progress."""
    return lambda done, total: None


def evaluate(
    dataset: Dataset,
    describer: Describer,
    methods: list[Method],
    folder: Path,
    fit_on: Dataset | None = None,
) -> list[Evaluated]:
    """In the order of the methods."""
    found = evaluate_methods(
        dataset, describer, methods, cache_dir=folder, progress=nobody, fit_on=fit_on
    )
    by_method = {entry.method: entry for entry in found}
    return [by_method[method] for method in methods]


def scenes(folder: Path) -> Path:
    """Five scenes and a cropped view of each; views are the queries, one inside a larger page."""
    (folder / "images").mkdir(parents=True)
    queries: dict[str, dict[str, Any]] = {}
    for seed in range(5):
        drawn = scene(seed, (128, 96))
        (folder / "images" / f"{seed}.png").write_bytes(encode(drawn, "png"))
        (folder / "images" / f"view{seed}.jpg").write_bytes(view(drawn, keep=0.9, quality=90))
        queries[f"view{seed}.jpg"] = {"pos": [f"{seed}.png"], "kind": f"kind {seed % 2}"}
    page = scene(77, (300, 200))
    page.paste(scene(0, (128, 96)), (60, 50))
    (folder / "images" / "page.png").write_bytes(encode(page, "png"))
    queries["page.png"] = {"pos": ["0.png"], "kind": "box", "bbox": [60, 50, 188, 146]}
    return write(folder, {"database": [f"{seed}.png" for seed in range(5)], "queries": queries})


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return load_dataset(scenes(tmp_path / "scenes"))


def test_views_of_drawn_scenes_find_their_scene(
    tmp_path: Path, dataset: Dataset, describer: Describer
) -> None:
    reported: dict[str, list[tuple[int, int]]] = {}

    def progress(label: str) -> Progress:
        reported[label] = []
        return lambda done, total: reported[label].append((done, total))

    methods = [
        Method(pooling, Projection(kind, dim=64))
        for pooling in ("gem", "cbp_ac")
        for kind in ("none", "fitted")
    ]
    found = evaluate_methods(
        dataset, describer, methods, cache_dir=tmp_path / "cache", progress=progress
    )
    rows = {entry.method: entry for entry in found}
    assert list(rows) == methods
    raw = rows[methods[2]]
    assert raw.dim == 8192
    assert raw.fitted_on is None
    assert raw.scores.queries == 6
    assert raw.scores.kinds.keys() == {"kind 0", "kind 1", "box"}
    assert raw.scores.kinds["box"] == 100
    assert raw.scores.map > 60
    fitted = rows[methods[3]]
    assert fitted.dim <= 4  # of five images
    assert fitted.fitted_on == "scenes"
    assert reported["describing"][-1] == (11, 11)


def descriptors(dataset: Dataset, describer: Describer, spec: str) -> tuple[Vectors, Vectors]:
    """Database and queries, one by one, without any cache."""
    pooling = describer.build_pooling(spec)

    def describe(name: str, box: Any) -> Vectors:
        pixels = describer.decode(dataset.path(name).read_bytes(), box=box).pixels
        ((vector,),) = describer.describe_with([pixels], [pooling])
        return np.asarray(vector)

    database = np.stack([describe(name, None) for name in dataset.database])
    return database, np.stack([describe(query.name, query.bbox) for query in dataset.queries])


def unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def test_expansion_and_augmentation_are_the_published_ones(
    tmp_path: Path, dataset: Dataset, describer: Describer
) -> None:
    database, queries = descriptors(dataset, describer, "spoc")
    augmented = []
    for vector in database:
        order = np.argsort(-(database @ vector), kind="stable")
        nearest = [row for row in order if not np.array_equal(database[row], vector)][:2]
        weights = [1, 1, 1 / 2]  # itself, then (k - i) / k
        total = sum(w * v for w, v in zip(weights, [vector, *database[nearest]], strict=True))
        augmented.append(total / sum(weights))
    grown = np.stack(augmented)
    expanded = []
    for query in queries:
        first = np.argsort(-(grown @ query), kind="stable")[:2]
        expanded.append(query + sum(max(grown[n] @ query, 0) ** 2 * grown[n] for n in first))
    expected = unit(np.stack(expanded)) @ grown.T
    method = Method(
        "spoc",
        expansion=QueryExpansion(Expansion.ALPHA, neighbours=2, exponent=2.0),
        augmentation=2,
    )
    (ours,) = evaluate(dataset, describer, [method], tmp_path / "cache")
    np.testing.assert_allclose(ours.similarities, expected, atol=1e-5)
    assert ours.scores.map == evaluate_similarities(dataset, ours.similarities).map


def test_a_query_of_the_database_does_not_expand_itself(
    tmp_path: Path, dataset: Dataset, describer: Describer
) -> None:
    own = replace(dataset.queries[0], name="0.png", positives=frozenset({"1.png"}))
    method = Method("spoc", expansion=QueryExpansion(Expansion.AVERAGE, neighbours=1))
    database, _ = descriptors(dataset, describer, "spoc")
    others = database[1:] @ database[0]
    nearest = database[1 + int(np.argmax(others))]
    for keeps, expected in ((False, unit(database[0] + nearest)), (True, database[0])):
        asked = replace(dataset, queries=(replace(own, keeps_itself=keeps),))
        (ours,) = evaluate(asked, describer, [method], tmp_path / "cache")
        np.testing.assert_allclose(ours.similarities[0], expected @ database.T, atol=1e-5)


def test_a_projection_is_fitted_on_another_data_set(
    tmp_path: Path, dataset: Dataset, describer: Describer
) -> None:
    folder = tmp_path / "other"
    (folder / "images").mkdir(parents=True)
    names = [f"{seed}.jpg" for seed in range(20, 40)]
    for seed, name in enumerate(names):
        drawn = scene(20 + seed // 2, (128, 96))
        (folder / "images" / name).write_bytes(view(drawn, keep=0.95 - 0.1 * (seed % 2)))
    pairs = {names[2 * n]: {"pos": [names[2 * n + 1]]} for n in range(10)}
    other = load_dataset(write(folder, {"database": names, "queries": pairs}))
    fitted, learned = Method("spoc", Projection("fitted", dim=6)), Method("spoc", Projection("lw"))
    ours, lw = evaluate(dataset, describer, [fitted, learned], tmp_path / "cache", other)
    assert ours.fitted_on == lw.fitted_on == "other"
    assert ours.dim == 6  # more than the five images of the database itself would allow
    rows, matches = matched_pairs(other)
    assert rows.tolist() == [20 + n for n in range(10)]
    assert matches.tolist() == [2 * n + 1 for n in range(10)]
    with pytest.raises(InvalidOption, match="name it with --fit-on"):
        evaluate(dataset, describer, [learned], tmp_path / "cache")
    lonely = replace(other, queries=(replace(other.queries[0], positives=frozenset()),))
    with pytest.raises(InvalidOption, match="no matches to learn from"):
        matched_pairs(lonely)


def test_a_projection_is_unbounded_where_asked_and_lw_chooses_its_shrinkage() -> None:
    names = tuple(f"{number}.jpg" for number in range(30))
    queries = tuple(Query(name, frozenset([names[0]]), frozenset(), "all") for name in names[1:11])
    content = Dataset("made", Path(), names, queries)
    vectors = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    database = vectors[:30]
    for bounded, dim in ((True, 18), (False, 29)):
        projection = Projection("fitted", dim=100, bounded=bounded)
        project, _ = fit_projection(projection, content, database, None, None)
        assert project(database).shape == (30, dim)
    asked, matches = matched_pairs(content)
    for given, meant in ((0.0, None), (None, None), (0.3, 0.3)):
        projection = Projection("lw", shrinkage=given)
        project, _ = fit_projection(projection, content, database, content, vectors)
        learned = LearnedWhitening.fit(
            torch.from_numpy(vectors), asked, matches, 512, shrinkage=meant
        )
        np.testing.assert_array_equal(
            project(database), learned(torch.from_numpy(database)).numpy()
        )
        assert learned.shrinkage == (meant or 0.5)  # 10 pairs in 39 dimensions


def test_all_images_are_fitted_on_where_it_is_not_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "MAX_FIT_IMAGES", 10)
    vectors = np.random.default_rng(0).normal(size=(25, 8)).astype(np.float32)
    content = Dataset("made", Path(), tuple(f"{number}.jpg" for number in range(25)), ())
    for bounded, rows in ((True, np.linspace(0, 24, 10).astype(int)), (False, np.arange(25))):
        project, _ = fit_projection(
            Projection("fitted", dim=4, bounded=bounded), content, vectors, None, None
        )
        expected = PCAProjection.fit(torch.from_numpy(vectors[rows]), 4, 0.25)
        np.testing.assert_array_equal(project(vectors), expected(torch.from_numpy(vectors)).numpy())


def test_regions_are_whitened_on_the_database(
    tmp_path: Path, dataset: Dataset, describer: Describer
) -> None:
    method = Method("rmac:levels=2,whiten=yes")
    (ours,) = evaluate(dataset, describer, [method], tmp_path / "cache")
    assert ours.dim < 512  # what the regions of five images support
    assert ours.scores.queries == 6


def test_several_layers_are_evaluated_together(
    tmp_path: Path, dataset: Dataset, describer: Describer
) -> None:
    deep = Describer(replace(describer.options, layer="fire5+fire9"), describer.weights)
    plain, whitened = evaluate(
        dataset, deep, [Method("rmac"), Method("rmac:whiten=yes")], tmp_path / "cache"
    )
    assert plain.dim == 256 + 512
    assert 2 < whitened.dim < plain.dim
    assert plain.scores.queries == 6


def test_images_that_are_missing_are_named_before_any_work(
    tmp_path: Path, dataset: Dataset, describer: Describer
) -> None:
    dataset.path("3.png").unlink()
    dataset.path("page.png").unlink()
    with pytest.raises(InvalidOption, match=r"2 images of scenes are missing.*3\.png"):
        evaluate(dataset, describer, [Method("gem")], tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_an_image_that_cannot_be_read_is_named(
    tmp_path: Path, dataset: Dataset, describer: Describer
) -> None:
    dataset.path("3.png").write_bytes(b"no image")
    with pytest.raises(InvalidOption, match=r"images/3\.png: not an image"):
        evaluate(dataset, describer, [Method("gem")], tmp_path / "cache")


def test_a_box_outside_its_image_is_named_with_the_query(
    tmp_path: Path, dataset: Dataset, describer: Describer
) -> None:
    wrong = replace(dataset.queries[0], bbox=(900.0, 0.0, 950.0, 40.0))
    with pytest.raises(InvalidOption, match=r"view0\.jpg \(box 900, 0, 950, 40\).*box"):
        evaluate(replace(dataset, queries=(wrong,)), describer, [Method("gem")], tmp_path / "cache")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Projection("psychic"), "'psychic'; choose from none, fitted, lw"),
        (lambda: QueryExpansion(Expansion.AUTO), "'auto'; evaluation knows none"),
        (lambda: QueryExpansion(Expansion.AVERAGE, neighbours=0), "neighbours is 0"),
        (lambda: Method("gem", augmentation=-1), "augmentation is -1"),
    ],
)
def test_a_method_that_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        make()


# Published tables


def test_every_published_row_can_be_built() -> None:
    tables = published_tables()
    assert list(tables) == ["table1", "table2", "table3", "table4", "dir"]
    assert [len(table.rows) for table in tables.values()] == [10, 6, 8, 6, 13]
    for table in tables.values():
        labels = [row.label for row in table.rows]
        assert len(set(labels)) == len(labels)
        assert all(0 < figure < 100 for row in table.rows for figure in row.figures.values())
    # Single figures of the paper, typed in again.
    printed = {
        ("table1", "ChCO-SC_T + SpTD"): (("roxford5k", "hard"), 21.96),
        ("table2", "BP(AC_T) + AQE"): (("rparis6k", "medium"), 67.06),
        ("table3", "BP(AC_T) + SpTD, 4096"): (("holidays", "all"), 81.75),
        ("table4", "BP(AC_T)_learn + aQE + ms"): (("roxford5k", "hard"), 42.23),
        ("dir", "R-MAC, three resolutions"): (("paris6k", "all"), 94.53),
    }
    for (name, label), (column, figure) in printed.items():
        (row,) = [row for row in tables[name].rows if row.label == label]
        assert row.figures[column] == figure


def test_rows_are_reproduced_beside_the_printed_figures(
    tmp_path: Path, dataset: Dataset, describer: Describer
) -> None:
    oxford = replace(dataset, benchmark="oxford5k")
    rows = [
        PublishedRow("plain", Method("spoc"), {OXFORD: 66.0, ROXFORD[0]: 60.5}),
        PublishedRow("whole", Method("spoc"), {OXFORD: 60.0}, crop=False),
        PublishedRow("learned", Method("cbp_ac:cooccurrence=learned"), {}, needs_filter=True),
        PublishedRow("expanded", Method("spoc", Projection("lw"), AQE), {}, layer="fire8"),
    ]
    settings: list[Setting] = []

    def describe(setting: Setting) -> Describer:
        settings.append(setting)
        options = replace(describer.options, layer=setting.layer, max_side=128)
        return Describer(options, describer.weights)

    plain, whole, learned, expanded = reproduce(
        PublishedTable("made", "squeezenet1_1", rows),
        oxford,
        describe,
        cache_dir=tmp_path / "cache",
        progress=nobody,
        fit_on=None,
        has_filter=False,
    )
    assert plain.theirs == {"all": 66.0}
    assert plain.ours.keys() == {"kind 0", "kind 1", "box"}
    assert plain.ours["box"] == 100
    assert plain.ours["box"] > whole.ours["box"]  # the whole page is not the scene on it
    assert learned.evaluated is None
    assert "--cooccurrence" in learned.reason
    assert expanded.evaluated is not None
    assert expanded.evaluated.method.projection.kind == "none"  # no matches to learn from
    assert [(setting.layer, setting.crop) for setting in settings] == [
        (None, True),
        (None, False),
        ("fire8", True),
    ]
    assert kinds_of([plain, whole]) == ["kind 0", "kind 1", "box", "all"]


def test_a_learned_filter_is_used_where_it_is_given(
    tmp_path: Path, dataset: Dataset, describer: Describer
) -> None:
    method = Method("cbp_ac:dim=256,cooccurrence=learned,radius=2")
    with pytest.raises(InvalidOption, match="give one with --cooccurrence"):
        evaluate(dataset, describer, [method], tmp_path / "cache")
    direct = Method("cbp_ac:dim=256,radius=2")
    same = Describer(
        describer.options, describer.weights, cooccurrence_filter=direct_filter(512, 2)
    )
    learned, plain = evaluate(dataset, same, [method, direct], tmp_path / "cache")
    np.testing.assert_allclose(learned.similarities, plain.similarities, atol=1e-3)
    noise = torch.randn(512, 512, 5, 5, generator=torch.Generator().manual_seed(0))
    other = Describer(describer.options, describer.weights, cooccurrence_filter=noise)
    (random,) = evaluate(dataset, other, [method], tmp_path / "cache")
    assert np.abs(random.similarities - plain.similarities).max() > 0.01
    with pytest.raises(InvalidOption, match=r"shape \(512, 512, 5, 5\).*\(512, 512, 9, 9\)"):
        evaluate(dataset, other, [Method("cbp_ac:cooccurrence=learned")], tmp_path / "cache")


@pytest.mark.slow
@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.7071, 0.5)])
def test_grocery_photos_score_as_published(
    tmp_path: Path, shared_data: Path, scales: tuple[float, ...]
) -> None:
    weights = shared_data / "squeezenet1_1" / "squeezenet1_1-imagenet-features.safetensors"
    describer = Describer(
        DescriberOptions(backbone="squeezenet1_1", scales=scales),
        load_weights("squeezenet1_1", str(weights)),
    )
    # Of an independent implementation: raw, fitted, three scales raw.
    reference = {
        "spoc": (36.2, 40.3, 37.6),
        "gem": (41.7, 42.9, 42.8),
        "crow": (40.4, 43.6, 42.5),
        "chco_sct": (39.9, 43.4, 41.8),
        "cbp_aa": (48.7, 44.7, 51.1),
        "cbp_ac": (47.0, 45.4, 49.0),
    }
    raw = {
        Method(spec): figures[0 if len(scales) == 1 else 2] for spec, figures in reference.items()
    }
    expected = raw
    if len(scales) == 1:
        fitted = {Method(s, Projection("fitted")): figures[1] for s, figures in reference.items()}
        expected = raw | fitted
    dataset = load_dataset(shared_data / "grocery")
    for entry in evaluate(dataset, describer, list(expected), tmp_path / "cache"):
        within = 1.5 if entry.method.pooling.startswith("cbp") else 1.0
        assert entry.scores.queries == 186
        assert entry.scores.map == pytest.approx(expected[entry.method], abs=within), entry.method
