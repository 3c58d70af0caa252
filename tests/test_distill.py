from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.errors import InvalidOption
from engine.pooling import build_pooling
from engine.training.bank import Bank, BankOptions, Shard
from engine.training.descriptors import TrainableDescriptor
from engine.training.device import Compute, choose_compute
from engine.training.distill import Distillation, DistillOptions
from engine.training.grid import Grid
from engine.training.loop import LoopOptions, train
from engine.training.run_folder import RunFolder

CHANNELS, SHARD = 6, 8
CPU = Compute(torch.device("cpu"), torch.float32)
POOLING = "cbp_aa:dim=32"
GRID = Grid(1.5, 4)
"""Of the student below; it covers 24 pixels with 6 cells."""


class DrawnBank(Bank):
    """A bank in memory, of noise and of what a fixed convolution makes of it."""

    def __init__(self, *, shards: int = 3, seed: int = 0, descriptors: bool = False) -> None:
        super().__init__(Path("nowhere"), BankOptions(count=SHARD * shards, shard=SHARD))
        random = torch.Generator().manual_seed(seed)
        self.teacher = nn.Conv2d(3, CHANNELS, 4, stride=4)
        nn.init.normal_(self.teacher.weight, std=0.3, generator=random)
        nn.init.zeros_(self.teacher.bias)  # type: ignore[arg-type]
        self.shards = []
        for _ in range(shards):
            shown = torch.randint(0, 256, (SHARD, 16, 24, 3), generator=random, dtype=torch.uint8)
            with torch.no_grad():
                maps = self.teacher(normalise(shown.permute(0, 3, 1, 2).float() / 255)).relu()
            own = torch.nn.functional.normalize(torch.randn(SHARD, 32, generator=random))
            self.shards.append(
                Shard(shown, maps.permute(0, 2, 3, 1), own.half() if descriptors else None)
            )

    def read(self, shard: int) -> Shard:
        return self.shards[shard]


def normalise(images: Tensor) -> Tensor:
    return (images - 0.5) / 0.25


def student() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, CHANNELS, 4, stride=4), nn.BatchNorm2d(CHANNELS), nn.ReLU())


def task(
    bank: Bank,
    *,
    mirrored: bool = False,
    learner: nn.Module | None = None,
    grid: Grid = GRID,
    **options: object,
) -> Distillation:
    return Distillation(
        learner or student(),
        bank,
        build_pooling(POOLING, CHANNELS),
        normalise,
        DistillOptions(batch=4, **options),  # type: ignore[arg-type]
        mirrored=mirrored,
        grid=grid,
        seed=0,
        compute=CPU,
    )


def test_the_student_learns_the_teacher(tmp_path: Path) -> None:
    work = task(DrawnBank())
    run = RunFolder(tmp_path / "run", {})
    outcome = train(work, LoopOptions(epochs=40, learning_rate=0.02), run)
    entries = run.entries()
    first = next(entry["validation"] for entry in entries if "validation" in entry)
    assert first["cosine"] < 0.9 < 0.97 < outcome.score
    assert run.load_best()["scores"]["map distance"] < 0.2 * first["map distance"]
    assert (tmp_path / "run" / "curves.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("kind", ["maps", "descriptors", "pairs"])
def test_each_loss_can_be_learned_from_alone(tmp_path: Path, kind: str) -> None:
    weights: dict[str, Any] = {"maps": 0.0, "descriptors": 0.0, "pairs": 0.0, kind: 1.0}
    work = task(DrawnBank(), **weights)
    before = _mean_loss(work)
    train(work, LoopOptions(epochs=15, learning_rate=0.01), RunFolder(tmp_path / "run", {}))
    assert _mean_loss(work) < 0.6 * before


def _mean_loss(work: Distillation) -> float:
    with torch.no_grad():
        losses = [float(loss) for step in range(work.steps) for loss in work.losses(0, step)]
    return sum(losses) / len(losses)


def test_every_view_but_the_validating_ones_is_seen_once_an_epoch() -> None:
    bank = DrawnBank()
    work = task(bank)
    seen: list[Tensor] = []
    load = work._load

    def spy(shard: int, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        seen.append(bank.read(shard).views[rows])
        return load(shard, rows)

    work._load = spy  # type: ignore[method-assign]
    for step in range(work.steps):
        list(work.losses(3, step))
    found = {view.numpy().tobytes() for views in seen for view in views}
    expected = {view.numpy().tobytes() for shard in (0, 1) for view in bank.read(shard).views}
    assert work.steps == 4 and found == expected


def test_the_teachers_own_descriptors_count_where_the_bank_has_them() -> None:
    bank = DrawnBank(descriptors=True)
    work = task(bank, maps=0.0, descriptors=1.0)
    shard = bank.read(2)
    net = student().eval()
    describe = TrainableDescriptor(build_pooling(POOLING, CHANNELS))
    with torch.no_grad():
        found = describe(net(normalise(shard.views.permute(0, 3, 1, 2).float() / 255)))
    assert shard.descriptors is not None
    expected = float((found * shard.descriptors.float()).sum(dim=1).mean())
    assert work.validate()["cosine"] == pytest.approx(expected, abs=1e-5)


def test_half_of_the_batches_are_mirrored_with_their_targets() -> None:
    bank = DrawnBank()
    (even, even_shown), (odd, odd_shown) = (shown_to(symmetric=value) for value in (True, False))
    tasks = (task(bank, learner=even), task(bank, learner=even, mirrored=True))
    others = (task(bank, learner=odd), task(bank, learner=odd, mirrored=True))
    turned = 0
    for epoch in range(10):
        for step in range(tasks[0].steps):
            plain, both = (next(work.losses(epoch, step)) for work in tasks)
            # A student that sees the same either way loses nothing only if its targets turn too.
            torch.testing.assert_close(plain, both)
            (first, second), even_shown[:] = even_shown, []
            mirrored = not torch.equal(first, second)
            assert torch.equal(first.flip(-1) if mirrored else first, second)
            plain, both = (next(work.losses(epoch, step)) for work in others)
            assert torch.allclose(plain, both) is not mirrored
            turned += mirrored
    assert 10 <= turned <= 30
    assert len(odd_shown) == 80


def shown_to(*, symmetric: bool) -> tuple[nn.Module, list[Tensor]]:
    """A student, whose filters may be mirror images of themselves, and what it is shown."""
    net, shown = student(), list[Tensor]()
    convolution = net.get_submodule("0")
    assert isinstance(convolution, nn.Conv2d)
    if symmetric:
        with torch.no_grad():
            convolution.weight.add_(convolution.weight.flip(-1).clone())
    net.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0].clone()))
    return net, shown


def test_views_that_the_grid_does_not_cover_symmetrically_are_not_mirrored() -> None:
    bank = DrawnBank()
    learner, shown = shown_to(symmetric=False)
    plain = task(bank, learner=learner)
    both = task(bank, learner=learner, mirrored=True, grid=Grid(0.0, 4))
    for epoch in range(5):
        for step in range(plain.steps):
            (first,), (second,) = (list(work.losses(epoch, step)) for work in (plain, both))
            torch.testing.assert_close(first, second)
    assert all(torch.equal(*shown[place : place + 2]) for place in range(0, len(shown), 2))


# A teacher with other channels


def learner_of(channels: int) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, channels, 4, stride=4), nn.ReLU())


def unlike(bank: Bank, pooling: str, **options: object) -> Distillation:
    """With a student of 4 channels."""
    return Distillation(
        learner_of(4),
        bank,
        build_pooling(pooling, 4),
        normalise,
        DistillOptions(batch=4, **options),  # type: ignore[arg-type]
        teacher_pooling=build_pooling(pooling, CHANNELS),
        mirrored=True,
        grid=GRID,
        seed=0,
        compute=CPU,
    )


def test_a_student_with_other_channels_learns_descriptors_of_one_length(tmp_path: Path) -> None:
    bank = DrawnBank(descriptors=True)
    work = unlike(bank, POOLING, maps=0.0, descriptors=1.0)
    assert list(work.validate()) == ["cosine"]
    before = _mean_loss(work)
    train(work, LoopOptions(epochs=10, learning_rate=0.02), RunFolder(tmp_path / "run", {}))
    assert _mean_loss(work) < before


def test_a_student_with_other_channels_learns_distances(tmp_path: Path) -> None:
    bank = DrawnBank()
    work = unlike(bank, "gem", maps=0.0, pairs=1.0)
    before, (name, score) = _mean_loss(work), *work.validate().items()
    shard = bank.read(2)
    with torch.no_grad():
        shown = normalise(shard.views.permute(0, 3, 1, 2).float() / 255)
        ours = TrainableDescriptor(build_pooling("gem", 4))(learner_of(4)(shown))
        theirs = TrainableDescriptor(build_pooling("gem", CHANNELS))(shard.maps.permute(0, 3, 1, 2))
    errors = [
        float((ours[i] - ours[j]).square().sum() - (theirs[i] - theirs[j]).square().sum()) ** 2
        for i in range(SHARD)
        for j in range(i)
    ]
    assert name == "minus pair distance"
    assert score == pytest.approx(-sum(errors) / len(errors), rel=1e-3)
    train(work, LoopOptions(epochs=20, learning_rate=0.01), RunFolder(tmp_path / "run", {}))
    assert _mean_loss(work) < 0.9 * before


def test_what_cannot_be_compared_is_named() -> None:
    with pytest.raises(InvalidOption, match="set the weight of maps to 0"):
        unlike(DrawnBank(), POOLING)
    with pytest.raises(InvalidOption, match=r"have 4 values, those of the teacher 6: .* pairs"):
        unlike(DrawnBank(), "gem", maps=0.0, descriptors=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maps": 0.0}, "are all 0"),
        ({"maps": -1.0}, "weight of maps is -1.0"),
        ({"pair_loss": "worst"}, "pair loss 'worst' is unknown"),
        ({"batch": 0}, "batch is 0"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        DistillOptions(**options)  # type: ignore[arg-type]


def test_a_bank_without_a_full_batch_is_refused() -> None:
    with pytest.raises(InvalidOption, match="no shard of the bank holds a batch of 9 views"):
        Distillation(
            student(),
            DrawnBank(),
            build_pooling(POOLING, CHANNELS),
            normalise,
            DistillOptions(batch=9),
            mirrored=False,
            grid=GRID,
            seed=0,
            compute=CPU,
        )
    with pytest.raises(InvalidOption, match="at least two shards"):
        task(DrawnBank(shards=1))


def test_the_descriptor_is_that_of_the_service_and_its_gradient_is_damped() -> None:
    pooling = build_pooling("cbp_ac:dim=16", CHANNELS)
    maps = torch.rand(2, CHANNELS, 5, 4, generator=torch.Generator().manual_seed(0))
    pooled = pooling(maps)
    rooted = torch.sign(pooled) * torch.sqrt(torch.abs(pooled))
    expected = rooted / torch.linalg.norm(rooted, dim=1, keepdim=True)
    describe = TrainableDescriptor(pooling, damping=0.1)
    torch.testing.assert_close(describe(maps), expected)
    black = torch.zeros(1, CHANNELS, 5, 4, requires_grad=True)
    describe(black).sum().backward()
    assert black.grad is not None and torch.isfinite(black.grad).all()


def test_without_damping_the_gradient_is_the_true_one() -> None:
    pooling = build_pooling("cbp_aa:dim=16", CHANNELS).double()
    maps = torch.rand(1, CHANNELS, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    maps.requires_grad_(True)
    describe = TrainableDescriptor(pooling, damping=0.0)
    assert torch.autograd.gradcheck(describe, (maps,), rtol=1e-4)


def test_mixed_precision_is_bfloat16_with_float32_parameters() -> None:
    assert choose_compute("cpu", "mixed").dtype == torch.bfloat16
    assert not choose_compute("cpu", "float32").mixed
    with pytest.raises(InvalidOption, match="precision is 'half'"):
        choose_compute("cpu", "half")
