from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.errors import InvalidOption
from engine.training.losses import (
    LABELLED_LOSSES,
    contrastive,
    descriptor_distance,
    labelled_loss,
    lifted_structure,
    log_pair_distances,
    map_distance,
    multi_similarity,
    ntxent,
    pair_distances,
    pair_loss,
    triplet,
)
from tests import training_loops as loops

# Unpaired labels among them; no matching pair; nothing but one label; a single photo.
LABELS: dict[str, list[int]] = {
    "mixed": [3, 3, 0, 7, 0, 3, 9],
    "lifted batch": [4] * 6 + [0, 1, 2, 3, 5, 6],
    "no positives": [0, 1, 2, 3, 4],
    "no negatives": [2, 2, 2],
    "one photo": [5],
}

REFERENCES: dict[str, tuple[Callable[..., Tensor], Callable[..., float], dict[str, float]]] = {
    "triplet": (triplet, loops.triplet, {"margin": 0.5}),
    "lifted": (lifted_structure, loops.lifted, {"margin": 1.0}),
    "pair": (pair_loss, loops.pair_loss, {"margin": 0.7}),
    "multi_similarity": (
        multi_similarity,
        loops.multi_similarity,
        {"alpha": 2.0, "beta": 50.0, "base": 0.5},
    ),
    "ntxent": (ntxent, loops.ntxent, {"temperature": 0.07}),
}


def vectors(count: int, dim: int, seed: int, *, unit: bool = True) -> Tensor:
    made = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)).double()
    return torch.nn.functional.normalize(made, dim=1) if unit else made


def maps(seed: int, *shape: int) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made.double()


def pair_of(seed: int, count: int = 9, dim: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    same = torch.arange(count) % 3 == 0
    return vectors(count, dim, seed), vectors(count, dim, seed + 100), same


# Contrastive


def test_a_matching_pair_costs_half_its_squared_distance() -> None:
    left, right = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    loss = contrastive(left, right, torch.tensor([True]), margin=0.7)
    assert float(loss) == pytest.approx(25 / 2, rel=1e-6)


def test_other_pairs_cost_half_the_square_of_what_lacks_to_the_margin() -> None:
    left, right = torch.tensor([[0.0], [0.0]]), torch.tensor([[0.5], [0.9]])
    loss = contrastive(left, right, torch.tensor([False, False]), margin=0.7)
    assert float(loss) == pytest.approx(0.2**2 / 2, rel=1e-4)  # 0.9 is far enough


@pytest.mark.parametrize("seed", range(5))
def test_contrastive_is_the_sum_over_pairs_of_the_equation(seed: int) -> None:
    left, right, same = pair_of(seed)
    loss = contrastive(left, right, same, margin=1.3)
    expected = loops.contrastive(left.numpy(), right.numpy(), same.tolist(), 1.3)
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    assert expected > 0.1


def test_contrastive_of_no_pair_is_zero() -> None:
    loss = contrastive(torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(0).bool(), margin=1)
    assert float(loss) == 0


def test_contrastive_has_a_gradient_where_both_are_equal() -> None:
    left = vectors(4, 6, 0).float().requires_grad_()
    same = torch.tensor([True, True, False, False])
    contrastive(left, left.detach().clone(), same, margin=0.7).backward()  # type: ignore[no-untyped-call]
    assert left.grad is not None
    assert left.grad.isfinite().all()
    assert left.grad[2:].abs().sum() > 0


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), torch.ones(2).bool()),
        (torch.zeros(2), torch.zeros(2), torch.ones(2).bool()),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(3).bool()),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2)),
    ],
)
def test_contrastive_refuses_what_does_not_fit(left: Tensor, right: Tensor, same: Tensor) -> None:
    with pytest.raises(ValueError, match="expected"):
        contrastive(left, right, same, margin=0.7)


# Labelled batches


@pytest.mark.parametrize("batch", list(LABELS))
@pytest.mark.parametrize("name", list(REFERENCES))
def test_a_labelled_loss_is_its_equation(name: str, batch: str) -> None:
    loss, reference, options = REFERENCES[name]
    labels = LABELS[batch]
    for seed in range(5):
        x = vectors(len(labels), 7, seed)
        found = loss(x, torch.tensor(labels), **options)
        assert found.shape == ()
        assert found.dtype == torch.float64
        assert float(found) == pytest.approx(reference(x.numpy(), labels, **options), rel=1e-9)


@pytest.mark.parametrize("name", ["triplet", "lifted", "pair"])
def test_descriptors_are_taken_as_they_are(name: str) -> None:
    loss, reference, options = REFERENCES[name]
    labels = LABELS["mixed"]
    x = 3 * vectors(len(labels), 4, 1, unit=False)
    found = loss(x, torch.tensor(labels), **options)
    assert float(found) == pytest.approx(reference(x.numpy(), labels, **options), rel=1e-9)
    assert float(loss(x / 2, torch.tensor(labels), **options)) != pytest.approx(float(found))


@pytest.mark.parametrize("name", list(REFERENCES))
def test_more_photos_in_single_precision_give_the_same(name: str) -> None:
    loss, reference, options = REFERENCES[name]
    labels = [row % 9 for row in range(40)]  # beyond 25 rows distances are made of products
    x = vectors(40, 33, 2)
    found = loss(x.float(), torch.tensor(labels), **options)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(reference(x.numpy(), labels, **options), rel=1e-4)


@pytest.mark.parametrize("name", list(REFERENCES))
def test_the_gradient_of_a_labelled_loss_is_right(name: str) -> None:
    loss, _, options = REFERENCES[name]
    labels = torch.tensor(LABELS["mixed"])
    x = vectors(len(labels), 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: loss(v, labels, **options), (x,))


@pytest.mark.parametrize("batch", ["mixed", "no positives", "no negatives", "one photo"])
@pytest.mark.parametrize("name", list(REFERENCES))
def test_gradients_are_finite_where_all_rows_are_equal(name: str, batch: str) -> None:
    loss, reference, options = REFERENCES[name]
    labels = LABELS[batch]
    x = torch.full((len(labels), 5), 5**-0.5).double().requires_grad_()
    found = loss(x, torch.tensor(labels), **options)
    expected = reference(x.detach().numpy(), labels, **options)
    assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)
    found.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_lifted_structure_of_three_photos_by_hand() -> None:
    # D_01 = 2, D_02 = 5, D_12 = 3: log(e^(1 - 5) + e^(1 - 3)) + 2
    x = torch.tensor([[0.0], [2.0], [5.0]]).double()
    j = math.log(math.exp(-4) + math.exp(-2)) + 2
    loss = lifted_structure(x, torch.tensor([0, 0, 1]), margin=1.0)
    assert float(loss) == pytest.approx(j * j / 2)


def test_triplet_of_three_photos_by_hand() -> None:
    # Only 1 violates: 2^2 - 3^2 + 6 = 1; from 0 it is 2^2 - 5^2 + 6 < 0.
    x = torch.tensor([[0.0], [2.0], [5.0]]).double()
    assert float(triplet(x, torch.tensor([0, 0, 1]), margin=6.0)) == pytest.approx(1.0)


def test_pair_loss_of_three_photos_by_hand() -> None:
    x = torch.tensor([[0.0], [2.0], [5.0]]).double()
    expected = (2**2 / 2 + 0 + (4 - 3) ** 2 / 2) / 3
    found = pair_loss(x, torch.tensor([0, 0, 1]), margin=4.0)
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", list(REFERENCES))
def test_losses_draw_nothing_at_random_and_leave_their_arguments(name: str) -> None:
    labels = torch.tensor(LABELS["mixed"])
    x = vectors(len(labels), 6, 4)
    before, state = x.clone(), torch.get_rng_state()
    values = {float(labelled_loss(name)(x, labels)) for _ in range(3)}
    assert len(values) == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, before)


def test_a_loss_is_found_by_its_name() -> None:
    assert set(LABELLED_LOSSES) == set(REFERENCES)
    labels = torch.tensor(LABELS["mixed"])
    x = vectors(len(labels), 6, 5)
    for name, (loss, _, options) in REFERENCES.items():
        assert float(labelled_loss(name)(x, labels)) == float(loss(x, labels, **options))
    for name in ("triplet", "lifted", "pair"):
        loss, reference, _ = REFERENCES[name]
        found = labelled_loss(name, margin=0.9)(x, labels)
        expected = reference(x.numpy(), LABELS["mixed"], margin=0.9)
        assert float(found) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "margin", "reason"),
    [
        ("lift", 1.0, "loss 'lift' is unknown; choose from triplet, lifted, pair"),
        ("ntxent", 0.5, "margin is 0.5, but the loss 'ntxent' has none"),
        ("multi_similarity", 0.5, "has none; leave it out"),
        ("lifted", 0.0, "margin is 0.0; it must be a number above 0"),
        ("pair", math.nan, "margin is nan"),
        ("triplet", math.inf, "margin is inf"),
    ],
)
def test_a_wrong_name_or_margin_is_refused(name: str, margin: float, reason: str) -> None:
    with pytest.raises(InvalidOption, match=reason):
        labelled_loss(name, margin=margin)


@pytest.mark.parametrize("name", list(REFERENCES))
def test_labels_that_do_not_fit_are_refused(name: str) -> None:
    loss = labelled_loss(name)
    for x, labels in (
        (torch.zeros(3, 2), torch.zeros(2).long()),
        (torch.zeros(3), torch.zeros(3).long()),
        (torch.zeros(3, 2), torch.zeros(3, 1).long()),
    ):
        with pytest.raises(ValueError, match=r"expected \(N, D\) and \(N,\)"):
            loss(x, labels)


def test_a_missing_library_is_named_when_the_loss_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    for name in ("triplet", "lifted", "multi_similarity", "ntxent"):
        with pytest.raises(InvalidOption, match=r"install cooc-image-search\[train\]"):
            labelled_loss(name)
    assert float(labelled_loss("pair")(torch.zeros(1, 2), torch.zeros(1).long())) == 0


def test_importing_the_losses_does_not_import_the_library() -> None:
    code = "import sys, engine.training.losses; sys.exit('pytorch_metric_learning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# A student after its teacher


def test_descriptor_distance_by_hand() -> None:
    student = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    teacher = torch.tensor([[1.0, 0.0], [3.0, 1.0]])
    assert float(descriptor_distance(student, teacher)) == (4 + 9 + 1) / 4


@pytest.mark.parametrize("seed", range(3))
def test_student_losses_are_their_equations(seed: int) -> None:
    student, teacher = vectors(7, 5, seed), vectors(7, 5, seed + 50)
    wider = vectors(7, 11, seed + 70)
    s, t, w = student.numpy(), teacher.numpy(), wider.numpy()
    assert float(descriptor_distance(student, teacher)) == pytest.approx(
        loops.descriptor_distance(s, t), rel=1e-12
    )
    errors = loops.distance_errors(s, w)
    assert len(errors) == 21
    assert float(pair_distances(student, wider)) == pytest.approx(loops.mean(errors), rel=1e-10)
    assert float(log_pair_distances(student, wider)) == pytest.approx(
        math.log(loops.mean([math.exp(error) for error in errors])), rel=1e-10
    )


def test_pair_distances_by_hand() -> None:
    student, teacher = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [2.0], [3.0]])
    # 1 - 4, 9 - 9, 4 - 1
    assert float(pair_distances(student, teacher)) == pytest.approx((9 + 0 + 9) / 3)


def test_large_errors_do_not_overflow() -> None:
    student, teacher = torch.tensor([[0.0], [7.0]]), torch.zeros(2, 1)
    assert float(log_pair_distances(student, teacher)) == pytest.approx(49.0**2)


@pytest.mark.parametrize("loss", [pair_distances, log_pair_distances])
def test_a_perfect_student_and_a_single_photo_cost_nothing(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    x = vectors(6, 8, 0)
    turned = x @ torch.linalg.qr(vectors(8, 8, 1, unit=False)).Q
    assert float(loss(turned, x)) == pytest.approx(0, abs=1e-12)
    alone = vectors(1, 8, 2).requires_grad_()
    found = loss(alone, vectors(1, 3, 3))
    assert found.item() == 0
    found.backward()  # type: ignore[no-untyped-call]


ODD: dict[str, tuple[int, ...]] = {
    "several": (2, 5, 3, 4),
    "one position": (3, 4, 1, 1),
    "one channel": (2, 1, 2, 3),
}


@pytest.mark.parametrize("name", list(ODD))
def test_map_distance_is_the_sum_of_its_three_terms(name: str) -> None:
    student, teacher = maps(0, *ODD[name]), maps(1, *ODD[name])
    teacher[0, :, 0, 0] = 0  # no direction
    student[1, :, 0, 0] = 0  # cosine 0
    for weights in (
        {},
        {"error": 1.0, "direction": 0.0, "means": 0.0},
        {"error": 0.0, "direction": 1.0, "means": 0.0},
        {"error": 0.0, "direction": 0.0, "means": 1.0},
        {"error": 0.3, "direction": 5.0, "means": 2.0},
    ):
        expected = loops.map_distance(student.numpy(), teacher.numpy(), **weights)
        found = map_distance(student, teacher, **weights)
        assert float(found) == pytest.approx(expected, rel=1e-12)
    assert float(map_distance(teacher, teacher)) == pytest.approx(0, abs=1e-12)


def test_map_distance_by_hand() -> None:
    teacher = torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]]])  # (1, 2, 1, 2): (3, 4), then nothing
    student = torch.tensor([[[[4.0, 1.0]], [[-3.0, 0.0]]]])  # at a right angle, then (1, 0)
    error = (1 + 49 + 1 + 0) / (9 + 16)
    means = ((2.5 - 1.5) ** 2 + (-1.5 - 2) ** 2) / (1.5**2 + 2**2)
    assert float(map_distance(student, teacher)) == pytest.approx(error + 1 + means, rel=1e-6)


@pytest.mark.parametrize("both", [True, False])
def test_maps_of_zeros_have_finite_distances_and_gradients(both: bool) -> None:
    student = torch.zeros(2, 3, 2, 5, requires_grad=True)
    teacher = torch.zeros(2, 3, 2, 5) if both else maps(2, 2, 3, 2, 5).float()
    found = map_distance(student, teacher)
    assert found.item() == pytest.approx(0 if both else 3, rel=1e-6)
    found.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_the_scale_of_a_teacher_does_not_matter() -> None:
    student, teacher = maps(3, 2, 4, 3, 5), maps(4, 2, 4, 3, 5)
    small = map_distance(student, teacher)
    assert float(map_distance(1000 * student, 1000 * teacher)) == pytest.approx(float(small))


STUDENT_LOSSES: dict[str, Callable[[Tensor], Any]] = {
    "contrastive": lambda v: contrastive(
        v, vectors(5, 4, 8), torch.tensor([True, False, True, False, False]), margin=1.2
    ),
    "descriptor_distance": lambda v: descriptor_distance(v, vectors(5, 4, 9)),
    "pair_distances": lambda v: pair_distances(v, vectors(5, 7, 9)),
    "log_pair_distances": lambda v: log_pair_distances(v, vectors(5, 7, 9)),
    "map_distance": lambda v: map_distance(v.view(1, 5, 2, 2), maps(9, 1, 5, 2, 2)),
}


@pytest.mark.parametrize("name", list(STUDENT_LOSSES))
def test_the_gradient_of_a_student_loss_is_right(name: str) -> None:
    x = vectors(5, 4, 10).requires_grad_()
    assert torch.autograd.gradcheck(STUDENT_LOSSES[name], (x,))


@pytest.mark.parametrize(
    ("loss", "student", "teacher"),
    [
        (descriptor_distance, (2, 3), (2, 4)),
        (descriptor_distance, (3,), (3,)),
        (descriptor_distance, (0, 3), (0, 3)),
        (pair_distances, (2, 3), (3, 3)),
        (log_pair_distances, (2, 3, 1), (2, 3, 1)),
        (map_distance, (1, 2, 3, 4), (1, 2, 4, 3)),
        (map_distance, (2, 3, 4), (2, 3, 4)),
        (map_distance, (1, 2, 0, 4), (1, 2, 0, 4)),
    ],
)
def test_a_student_of_another_shape_is_refused(
    loss: Callable[[Tensor, Tensor], Tensor], student: tuple[int, ...], teacher: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="student and teacher have shapes"):
        loss(torch.ones(student), torch.ones(teacher))


def test_losses_learn() -> None:
    """A few steps of each labelled loss make the photos of a label more similar than others."""
    labels = torch.arange(12) % 4
    same = labels[:, None] == labels[None, :]
    apart = ~torch.eye(12, dtype=torch.bool)
    for name in LABELLED_LOSSES:
        x = vectors(12, 8, 11).requires_grad_()
        optimizer = torch.optim.SGD([x], lr=0.5)
        for _ in range(60):
            unit = torch.nn.functional.normalize(x, dim=1)
            optimizer.zero_grad()
            labelled_loss(name)(unit, labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            unit = torch.nn.functional.normalize(x, dim=1)
            similar = (unit @ unit.T).numpy()
        assert np.mean(similar[(same & apart).numpy()]) > np.mean(similar[~same.numpy()]) + 0.5, (
            name
        )
