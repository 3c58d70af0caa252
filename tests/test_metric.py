from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.backbones import build_trunk
from engine.backbones.weights import load_weights
from engine.errors import InvalidOption
from engine.pooling import build_pooling
from engine.postprocess import PCAProjection
from engine.training.adjusted import AdjustedTrunk
from engine.training.device import Compute
from engine.training.metric import (
    Batches,
    Head,
    HeadLearning,
    HeldOut,
    MetricOptions,
    TrunkAndHead,
    TrunkLearning,
    start_pca,
)
from engine.training.training_set import Rows
from tests import training_loops as loops

CPU = torch.device("cpu")
FLOAT32 = Compute(CPU, torch.float32)
DIM = 24


def descriptors(count: int, *, dim: int = DIM, seed: int = 0) -> Tensor:
    """(count, dim) of unit length, with a mean and a spread that differs by direction."""
    draw = torch.Generator().manual_seed(seed)
    spread = torch.linspace(1.0, 0.1, dim)
    rows = torch.randn(count, dim, generator=draw) * spread + 0.5
    return torch.nn.functional.normalize(rows, dim=1)


def options(**changes: Any) -> MetricOptions:
    small: dict[str, Any] = {"dim": 5, "basis": 12, "things": 3, "photos_each": 2, "steps": 4}
    return MetricOptions(**{**small, **changes})


def a_head(chosen: MetricOptions, count: int = 40) -> Head:
    return Head(start_pca(descriptors(count), chosen), chosen.dim)


def photos(things: int, each: int) -> Rows:
    return np.repeat(np.arange(things, dtype=np.int64) + 3, each)


def held_out(things: int = 4, each: int = 3) -> HeldOut:
    clusters = photos(things, each)
    rows = np.arange(len(clusters), dtype=np.int64)
    return HeldOut(descriptors(len(clusters), seed=9), clusters, rows)


def head_task(chosen: MetricOptions, *, views: int = 2, seed: int = 0) -> HeadLearning:
    clusters = photos(6, 4)
    raw = descriptors(len(clusters) * (views + 1), seed=3).reshape(len(clusters), views + 1, DIM)
    head = Head(start_pca(raw.flatten(0, 1), chosen), chosen.dim)
    batches = Batches(clusters, chosen, views=views, instances=False)
    coordinates = head.coordinates(raw)
    return HeadLearning(head, coordinates, batches, held_out(), chosen, seed=seed, device=CPU)


# The head


@pytest.mark.parametrize("power", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("dim", [1, 5, 12])
def test_a_head_begins_as_the_pca_of_its_descriptors(power: float, dim: int) -> None:
    raw = descriptors(40)
    head = Head(start_pca(raw, options(dim=dim, power=power)), dim)
    pca = PCAProjection.fit(raw, dim, power, bounded=False)
    new = descriptors(7, seed=1)
    torch.testing.assert_close(head(head.coordinates(new)), pca(new), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.projection()(new), pca(new), rtol=1e-4, atol=1e-5)


def test_a_head_that_has_learned_is_the_projection_that_is_saved() -> None:
    head = a_head(options())
    with torch.no_grad():
        head.change.copy_(torch.randn(5, 12, generator=torch.Generator().manual_seed(0)))
    new = descriptors(7, seed=1)
    saved = head.projection()
    assert (saved.mean.shape, saved.directions.shape) == ((DIM,), (5, DIM))
    torch.testing.assert_close(head(head.coordinates(new)), saved(new), rtol=1e-4, atol=1e-5)
    by_hand = (torch.eye(5, 12) + head.change.detach()) @ head.basis @ (new - head.mean).T
    expected = torch.nn.functional.normalize(by_hand.T, dim=1)
    torch.testing.assert_close(saved(new), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("power", [0.0, 0.25, 0.5])
def test_coordinates_have_length_one_on_average(power: float) -> None:
    raw = descriptors(60)
    head = Head(start_pca(raw, options(basis=DIM, power=power)), 5)
    assert float(head.coordinates(raw).square().sum(dim=1).mean()) == pytest.approx(1, rel=1e-3)


def test_few_descriptors_give_as_many_values_as_they_support() -> None:
    raw = descriptors(4)
    assert Head(start_pca(raw, options()), 5).dim == 3


@pytest.mark.parametrize("raw", [torch.ones(1, 6), torch.ones(8, 6), torch.zeros(8, 6)])
def test_descriptors_that_do_not_differ_start_no_head(raw: Tensor) -> None:
    with pytest.raises(InvalidOption, match="a head cannot be started"):
        start_pca(raw, options())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 0}, r"dim is 0; it must be in \[1, 512\]"),
        ({"dim": 513, "basis": 600}, r"dim is 513"),
        ({"basis": 4}, "basis is 4; it must be at least dim, 5"),
        ({"power": 0.6}, r"power is 0.6"),
        ({"loss": "cosface"}, "loss 'cosface' is unknown; choose from triplet, lifted, pair"),
        ({"margin": -1.0}, "margin is -1.0"),
        ({"margin": 0.5, "loss": "ntxent"}, "has none; leave it out"),
        ({"batching": "random"}, "batching 'random' is unknown; choose from balanced, one-"),
        ({"photos_each": 1}, "photos_each 1"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_an_option_out_of_range_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        options(**changes)


# Batches


def test_a_balanced_batch_has_some_photos_of_each_of_some_things() -> None:
    clusters = np.concatenate([photos(5, 4), np.arange(100, 120)])  # and 20 that are alone
    batches = Batches(clusters, options(things=3, photos_each=2), views=2, instances=False)
    seen_views = set()
    for step in range(20):
        rows, views, labels = batches.draw(0, step)
        assert len(set(rows.tolist())) == 6
        assert sorted(np.unique(labels, return_counts=True)[1]) == [2, 2, 2]
        assert (labels == clusters[rows]).all()
        assert labels.max() < 100
        seen_views |= set(views.tolist())
    assert seen_views == {0, 1, 2}


def test_one_thing_comes_against_others_as_in_my_deep_retrieval() -> None:
    clusters = np.concatenate([photos(3, 8), np.arange(100, 120)])
    chosen = options(batching="one-against-others", things=6, photos_each=6)
    rows, _, labels = Batches(clusters, chosen, views=0, instances=False).draw(0, 0)
    assert len(rows) == 12
    assert len(set(labels[:6])) == 1
    assert len(set(labels[6:])) == 6
    assert labels[0] not in labels[6:]


def test_without_labels_the_views_of_a_photo_are_its_thing() -> None:
    chosen = options(things=4, photos_each=3)
    batches = Batches(np.arange(10, dtype=np.int64), chosen, views=5, instances=True)
    for step in range(5):
        rows, views, labels = batches.draw(0, step)
        assert (rows == labels).all()
        assert sorted(np.unique(rows, return_counts=True)[1]) == [3, 3, 3, 3]
        assert len(set(zip(rows.tolist(), views.tolist(), strict=True))) == 12
        assert 0 <= views.min() <= views.max() <= 5


def test_batches_are_the_same_for_the_same_seed_and_step() -> None:
    def drawn(seed: int, step: int) -> list[list[int]]:
        batches = Batches(photos(5, 4), options(), views=3, instances=False)
        return [part.tolist() for part in batches.draw(seed, step)]

    assert drawn(1, 2) == drawn(1, 2)
    assert drawn(1, 2) != drawn(1, 3)
    assert drawn(1, 2) != drawn(2, 2)


def test_more_things_than_there_are_are_not_asked_for() -> None:
    assert Batches(photos(5, 2), options(things=32), views=0, instances=False).things == 5
    chosen = options(things=32, batching="one-against-others")
    assert Batches(photos(5, 2), chosen, views=0, instances=False).things == 4


@pytest.mark.parametrize(
    ("clusters", "batching", "instances", "views", "message"),
    [
        (photos(1, 9), "balanced", False, 4, "there are 1 things to learn from, 1 of them"),
        (photos(9, 1), "balanced", False, 4, "there are 9 things to learn from, 0 of them"),
        (photos(0, 1), "balanced", False, 4, "there are 0 things"),
        (np.array([1, 1, 2]), "balanced", False, 4, "one-against-others does with 1"),
        (photos(9, 9), "balanced", True, 0, "need made views"),
    ],
)
def test_what_gives_no_batch_is_said(
    clusters: Rows, batching: str, instances: bool, views: int, message: str
) -> None:
    chosen = options(batching=batching)
    with pytest.raises(InvalidOption, match=message):
        Batches(clusters, chosen, views=views, instances=instances)


# Learning the head


def test_descriptors_too_long_to_be_normalised_are_no_numbers_and_no_score() -> None:
    head = a_head(options())
    with torch.no_grad():
        head.change.fill_(1e25)
    found = head(head.coordinates(held_out().descriptors))
    assert found.isnan().all()
    assert math.isnan(held_out().score(found))


@pytest.mark.parametrize(
    ("loss", "reference", "known"),
    [
        ("lifted", loops.lifted, {"margin": 1.0}),
        ("triplet", loops.triplet, {"margin": 0.5}),
        ("pair", loops.pair_loss, {"margin": 0.7}),
        ("multi_similarity", loops.multi_similarity, {"alpha": 2.0, "beta": 50.0, "base": 0.5}),
        ("ntxent", loops.ntxent, {"temperature": 0.07}),
    ],
)
def test_the_loss_of_a_step_is_its_equation(loss: str, reference: Any, known: Any) -> None:
    chosen = options(loss=loss)
    clusters, views = photos(6, 4), 2
    raw = descriptors(len(clusters) * 3, seed=3).reshape(len(clusters), 3, DIM)
    pca = PCAProjection.fit(raw.flatten(0, 1), 5, chosen.power, bounded=False)
    task = head_task(chosen)
    for epoch, step in ((0, 0), (1, 2)):
        (found,) = task.losses(epoch, step)
        batches = Batches(clusters, chosen, views=views, instances=False)
        rows, seen, labels = batches.draw(0, 4 * epoch + step)
        x = pca(raw[rows, seen]).double().numpy()
        assert found.item() == pytest.approx(reference(x, labels.tolist(), **known), rel=1e-4)


def test_validation_is_the_map_of_head_raw_and_pca() -> None:
    task = head_task(options())
    with torch.no_grad():
        for parameter in task.module.parameters():
            parameter.add_(torch.randn(5, 12, generator=torch.Generator().manual_seed(2)))
    held, head = held_out(), task.module
    assert isinstance(head, Head)
    raw = held.descriptors
    start = torch.eye(5, 12) @ head.coordinates(raw).T
    for name, vectors in {
        "mAP": head.projection()(raw),
        "raw": raw,
        "PCA": torch.nn.functional.normalize(start.T, dim=1),
    }.items():
        by_hand = loops.mean_average_precision(
            vectors.double().numpy(), held.clusters.tolist(), held.queries.tolist()
        )
        assert task.validate()[name] == pytest.approx(by_hand, abs=1e-6)
    assert len(set(task.validate().values())) == 3


def test_learning_brings_photos_of_a_thing_together() -> None:
    """Things differ along directions of little variance, which PCA leaves out."""
    draw = torch.Generator().manual_seed(5)
    clusters = photos(20, 6)
    own = torch.randn(20, 6, generator=draw).repeat_interleave(6, dim=0)
    noise = torch.randn(120, 18, generator=draw) * 4
    raw = torch.cat([noise, own + 0.3 * torch.randn(120, 6, generator=draw)], dim=1)
    raw = torch.nn.functional.normalize(raw, dim=1)
    chosen = options(dim=6, basis=24, things=8, photos_each=3, loss="lifted")
    first, last = raw[:84, None], raw[84:]
    head = Head(start_pca(first[:, 0], chosen), chosen.dim)
    rows = np.arange(36, dtype=np.int64)
    task = HeadLearning(
        head,
        head.coordinates(first),
        Batches(clusters[:84], chosen, views=0, instances=False),
        HeldOut(last, clusters[84:], rows),
        chosen,
        seed=0,
        device=CPU,
    )
    before = task.validate()
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.02, weight_decay=0.0)
    for step in range(150):
        (loss,) = task.losses(0, step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    after = task.validate()
    assert before["mAP"] == before["PCA"] == after["PCA"] < 0.3
    assert after["mAP"] > 0.6  # of things that it has never seen


# Learning the trunk


def small_trunk() -> Any:
    trunk = build_trunk("squeezenet1_1", "fire2")
    trunk.load(load_weights("squeezenet1_1", "untrained").state)
    return trunk


def test_an_adjusted_trunk_begins_as_it_was_loaded() -> None:
    images = torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    adjusted = AdjustedTrunk(small_trunk(), rate=0.01)
    with torch.no_grad():
        torch.testing.assert_close(adjusted(images), small_trunk()(images))
    for name, value in small_trunk().state_dict().items():
        assert torch.equal(adjusted.state()[name], value)


def test_an_adjusted_trunk_does_what_its_state_does_in_a_plain_one() -> None:
    images = torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    adjusted = AdjustedTrunk(small_trunk(), rate=0.25)
    with torch.no_grad():
        for change in adjusted.changes:
            change += torch.randn_like(change)
    plain = small_trunk()
    plain.load(adjusted.state())
    with torch.no_grad():
        torch.testing.assert_close(adjusted(images), plain(images))
    loaded = small_trunk().state_dict()
    name = "features.0.weight"
    expected = loaded[name] + 0.25 * next(iter(adjusted.changes)).detach()
    torch.testing.assert_close(adjusted.state()[name], expected)


def test_batch_norms_stay_as_they_are() -> None:
    trunk = build_trunk("resnet101", "layer1")
    norms = [name for name in trunk.state_dict() if ".running_mean" in name]
    adjusted = AdjustedTrunk(trunk, rate=0.1)
    learned = sum(1 for _ in adjusted.changes)
    assert norms
    assert learned == sum(1 for value in trunk.parameters() if value.ndim == 4)
    with torch.no_grad():
        for change in adjusted.changes:
            change += 1
    before = build_trunk("resnet101", "layer1").state_dict().keys()
    assert adjusted.state().keys() == before
    for name in norms:
        assert torch.equal(adjusted.state()[name], trunk.state_dict()[name])


def trunk_task(chosen: MetricOptions) -> tuple[TrunkLearning, Any]:
    pooling = build_pooling("cbp_ac:dim=48", 128).requires_grad_(False)
    clusters = photos(4, 3)
    pictures = torch.rand(len(clusters), 3, 40, 56, generator=torch.Generator().manual_seed(1))

    def describe(state: Mapping[str, Tensor]) -> Tensor:
        trunk = small_trunk()
        trunk.load(state)
        pooled = pooling(trunk(pictures))
        return torch.nn.functional.normalize(pooled.sign() * pooled.abs().sqrt(), dim=1)

    with torch.no_grad():
        raw = describe(small_trunk().state_dict())
    head = Head(start_pca(raw, chosen), chosen.dim)
    rows = np.arange(len(clusters), dtype=np.int64)
    task = TrunkLearning(
        TrunkAndHead(AdjustedTrunk(small_trunk(), rate=0.01), head),
        pooling,
        lambda rows, step: pictures[torch.from_numpy(rows)],
        Batches(clusters, chosen, views=0, instances=False),
        HeldOut(raw, clusters, rows),
        describe,
        chosen,
        seed=0,
        compute=FLOAT32,
    )
    return task, raw


def test_the_loss_of_trunk_and_head_is_that_of_the_descriptors_of_the_service() -> None:
    chosen = options(dim=3, basis=8)
    task, raw = trunk_task(chosen)
    (found,) = task.losses(0, 1)
    batches = Batches(photos(4, 3), chosen, views=0, instances=False)
    rows, _, labels = batches.draw(0, 1)
    pca = PCAProjection.fit(raw, 3, chosen.power, bounded=False)
    expected = loops.lifted(pca(raw[rows]).double().numpy(), labels.tolist(), 1.0)
    assert found.item() == pytest.approx(expected, rel=1e-3)


def test_trunk_and_head_both_learn() -> None:
    task, _ = trunk_task(options(dim=3, basis=8))
    before = task.trunk_state()
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(3):
        (loss,) = task.losses(0, step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    after = task.trunk_state()
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert 0 < moved < 4e-4  # three steps of 1e-2, of which the trunk takes a hundredth
    scores = task.validate()
    assert math.isfinite(scores["mAP"])
    assert scores["PCA"] == trunk_task(options(dim=3, basis=8))[0].validate()["mAP"]
