from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from engine.backbones.weights import load_weights
from engine.cooccurrence import direct_filter, learned_cooccurrence
from engine.describer import Describer, DescriberOptions
from engine.errors import InvalidOption, TrainingFailed
from engine.pooling import build_pooling
from engine.pooling.tensors import LearnedCooccurrence
from engine.training.descriptors import TrainableDescriptor
from engine.training.device import Compute
from engine.training.loop import LoopOptions, Progress, train
from engine.training.map_cache import MapCache
from engine.training.run_folder import RunFolder
from engine.training.siamese import (
    MixedCooccurrence,
    Siamese,
    SiameseOptions,
    filter_descriptor,
    filter_spec,
    filtered_by_product,
)
from engine.training.training_set import TrainingSet, read_training_set
from tests import training_loops as loops
from tests.drawing import encode, photo, scene, view

ROOT = Path(__file__).resolve().parents[1]
CPU = Compute(torch.device("cpu"), torch.float32)
MIXED = Compute(torch.device("cpu"), torch.bfloat16)
SPEC = "cbp_ac:dim=64,cooccurrence=learned,radius=1"
OPTIONS = SiameseOptions(margin=0.9, negatives=3, pairs=12, pool=30, batch=3)
LOOP = LoopOptions(epochs=2, learning_rate=1e-3, momentum=0.85, seed=4)


def draw_set(folder: Path, *, things: int = 7, first: int = 0) -> Path:
    """Three views of each drawn scene in a folder of its own, and two photos that are alone."""
    for thing in range(first, first + things):
        part = folder / f"thing{thing:02d}"
        part.mkdir(parents=True)
        size = ((96, 64), (64, 80))[thing % 2]
        image = scene(thing, size)
        (part / "0.jpg").write_bytes(encode(image))
        (part / "1.jpg").write_bytes(view(image, keep=0.9, scale=1.0))
        (part / "2.png").write_bytes(
            encode(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "png")
        )
    for alone in (0, 1):
        (folder / f"alone{alone}.jpg").write_bytes(photo(900 + alone, (96, 64)))
    return folder


def small_describer(precision: str = "float32") -> Describer:
    options = DescriberOptions(
        backbone="squeezenet1_1", layer="fire2", max_side=96, pooling="spoc", precision=precision
    )
    return Describer(options, load_weights("squeezenet1_1", "untrained"))


def siamese(
    folder: Path,
    *,
    options: SiameseOptions = OPTIONS,
    compute: Compute = CPU,
    cache_bytes: int = 1 << 30,
    describer: Describer | None = None,
) -> tuple[Siamese, TrainableDescriptor, LearnedCooccurrence, TrainingSet]:
    describer = describer or small_describer()
    descriptor, learned = filter_descriptor(SPEC, describer.trunk.channels, compute)
    maps = MapCache(describer, cache_bytes=cache_bytes)
    train_set, held_out = read_training_set(folder).split_by_cluster(0.3, 0)
    task = Siamese(descriptor, learned, maps, train_set, held_out, options, seed=4)
    return task, descriptor, learned, train_set


def learn(
    task: Siamese, path: Path, options: LoopOptions = LOOP, *, resume: bool = False, **more: Any
) -> None:
    with RunFolder(path, {}, resume=resume) as run:
        train(task, options, run, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_set(tmp_path_factory.mktemp("set"))


def disturb(learned: LearnedCooccurrence, seed: int = 0) -> None:
    """Another filter than the one that all begin with."""
    noise = torch.randn(learned.weight.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        learned.weight.add_(0.1 * noise)


# The descriptor


def test_the_filter_begins_as_the_direct_one() -> None:
    _, learned = filter_descriptor(SPEC, 5, CPU)
    assert torch.equal(learned.weight, direct_filter(5, 1) / 9)


def test_descriptors_are_those_of_the_service(folder: Path) -> None:
    weight = direct_filter(128, 1) / 9
    weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    weights = load_weights("squeezenet1_1", "untrained")
    options = DescriberOptions(
        backbone="squeezenet1_1", layer="fire2", max_side=96, pooling=SPEC, precision="float32"
    )
    service = Describer(options, weights, cooccurrence_filter=weight)
    files = sorted(folder.rglob("*.png"))
    wanted = service.describe([service.decode(file.read_bytes()).pixels for file in files])
    for compute, least in ((CPU, 0.9999), (MIXED, 0.999)):
        task, _, learned, _ = siamese(folder, compute=compute)
        learned.load(weight)
        found, good = task.describe(files)
        assert good.tolist() == list(range(len(files)))
        assert (found.numpy() * wanted).sum(axis=1).min() > least


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 4, 1, 1), (3, 2, 1, 6)])
@pytest.mark.parametrize("radius", [1, 2, 4])
def test_the_product_is_the_convolution(shape: tuple[int, ...], radius: int) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(shape, generator=generator, dtype=torch.float64)
    size = 2 * radius + 1
    weight = torch.randn(6, shape[1], size, size, generator=generator, dtype=torch.float64)
    ours, theirs = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    found = filtered_by_product(features, ours)
    wanted = F.conv2d(features, theirs, padding=radius)
    torch.testing.assert_close(found, wanted)
    out = torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
    for result in (found, wanted):
        (result * out).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_mixed_precision_keeps_the_mask_and_differs_by_rounding_only() -> None:
    features = torch.randn(2, 32, 7, 5, generator=torch.Generator().manual_seed(3)).relu()
    exact, learned = filter_descriptor(SPEC, 32, CPU)
    disturb(learned)
    mixed, other = filter_descriptor(SPEC, 32, MIXED)
    other.load(learned.weight.detach())
    wanted = learned_cooccurrence(features, learned.weight)
    found = MixedCooccurrence(learned, MIXED)(features)
    assert ((found == 0) | (wanted != 0)).all()
    assert (found - wanted).abs().max() < 0.01 * wanted.abs().max()
    gradients = []
    target = torch.randn(2, 64, generator=torch.Generator().manual_seed(5))
    for descriptor, own in ((exact, learned), (mixed, other)):
        (descriptor(features) * target).sum().backward()
        assert own.weight.grad is not None
        gradients.append(own.weight.grad.flatten())
    assert F.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.999


def test_gradients_of_the_whole_descriptor_are_true() -> None:
    # Without the root, whose gradient is damped on purpose: the next test is about that.
    pooling = build_pooling("cbp_ac:dim=7,cooccurrence=learned,radius=1,root=no", 3).double()
    descriptor = TrainableDescriptor(pooling)
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64).relu()
    start = torch.randn(3, 3, 3, 3, generator=generator, dtype=torch.float64)

    def described(weight: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(
            descriptor, {"pooling.cooccurrence.weight": weight}, (maps,)
        )
        return found

    assert torch.autograd.gradcheck(described, (start.requires_grad_(),))


def test_gradients_with_the_root_are_true_but_for_the_damping() -> None:
    pooling = build_pooling("cbp_ac:dim=7,cooccurrence=learned,radius=1", 3).double()
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(1, 3, 4, 5, generator=generator, dtype=torch.float64).relu()
    weight = torch.randn(3, 3, 3, 3, generator=generator, dtype=torch.float64)

    def described(damping: float, weight: Tensor) -> Tensor:
        descriptor = TrainableDescriptor(pooling, damping=damping)
        found: Tensor = torch.func.functional_call(
            descriptor, {"pooling.cooccurrence.weight": weight}, (maps,)
        )
        return found[:, found[0].abs() > 0.05]

    # Descriptors have unit length, whatever the size that they are rooted at: where that is
    # taken as constant nothing is lost.
    assert torch.autograd.gradcheck(lambda w: described(0.0, w), (weight.requires_grad_(),))
    target = torch.randn(7, generator=generator, dtype=torch.float64)
    ways = []
    for damping in (0.0, 0.1):
        found = described(damping, weight)
        ways.append(torch.autograd.grad((found * target[: found.shape[1]]).sum(), weight)[0])
    assert F.cosine_similarity(ways[0].flatten(), ways[1].flatten(), dim=0) > 0.9


@pytest.mark.parametrize("pooling", ["gem", "cbp_aa", "cbp_ac:cooccurrence=direct", "crow"])
def test_poolings_without_a_filter_are_refused(pooling: str) -> None:
    with pytest.raises(InvalidOption, match="does not use the filter"):
        filter_spec(pooling, 2)


def test_the_spec_names_the_radius() -> None:
    assert filter_spec("cbp_ac", 4) == "cbp_ac:cooccurrence=learned"
    assert filter_spec("bp_ac:mask=spct", 2) == "bp_ac:mask=spct,cooccurrence=learned,radius=2"
    with pytest.raises(InvalidOption, match="another radius"):
        filter_spec("cbp_ac:radius=3", 2)


# The task


def test_the_trunk_stays_as_it_is_and_nothing_but_the_filter_learns(
    folder: Path, tmp_path: Path
) -> None:
    describer = small_describer()
    task, descriptor, learned, _ = siamese(folder, describer=describer)
    trunk = {name: value.clone() for name, value in describer.trunk.state_dict().items()}
    sketch = {name: value.clone() for name, value in descriptor.named_buffers()}
    before = learned.weight.detach().clone()
    learn(task, tmp_path / "run")
    assert not torch.equal(learned.weight, before)
    assert all(torch.equal(value, trunk[k]) for k, value in describer.trunk.state_dict().items())
    assert all(torch.equal(value, sketch[name]) for name, value in descriptor.named_buffers())
    assert all(weights.grad is None for weights in describer.trunk.parameters())
    trained = [name for name, value in descriptor.named_parameters() if value.requires_grad]
    assert trained == ["pooling.cooccurrence.learned.weight"]


def test_mined_negatives_are_those_of_brute_force_for_the_filter_as_it_is(folder: Path) -> None:
    found = []
    for seed in (1, 2):
        task, _, learned, photos = siamese(folder)
        disturb(learned, seed)
        task.begin(3)
        tuples = task.state()["tuples"].numpy()
        vectors, good = task.describe(photos.files)
        assert len(good) == len(photos.files)  # and the pool is larger than the set
        x, clusters = vectors.double().numpy(), photos.clusters.tolist()
        wanted = loops.hard_negatives(
            x[tuples[:, 0]], [clusters[row] for row in tuples[:, 0]], x, clusters, 3
        )
        assert tuples[:, 2:].tolist() == wanted
        assert all(clusters[query] == clusters[match] for query, match in tuples[:, :2])
        found.append(wanted)
    assert found[0] != found[1]


def test_the_loss_of_a_step_is_that_of_a_slow_loop_over_its_tuples(folder: Path) -> None:
    task, _, learned, photos = siamese(folder)
    disturb(learned)
    task.begin(0)
    tuples = task.state()["tuples"].numpy()
    vectors, _ = task.describe(photos.files)
    x = vectors.double().numpy()
    assert task.steps == 4
    for step in range(4):
        wanted = [
            loops.contrastive(x[[query] * 4], x[others], [True, False, False, False], 0.9)
            for query, *others in tuples[3 * step : 3 * step + 3]
        ]
        found = sum(float(loss.detach()) for loss in task.losses(0, step))
        assert found == pytest.approx(sum(wanted) / 3, rel=1e-4)
        assert found > 0


def test_gradients_of_tuples_add_up_to_that_of_one_large_batch(folder: Path) -> None:
    task, descriptor, learned, photos = siamese(folder)
    disturb(learned)
    task.begin(0)
    for loss in task.losses(0, 1):
        loss.backward()  # type: ignore[no-untyped-call]
    assert learned.weight.grad is not None
    accumulated = learned.weight.grad.clone()
    learned.weight.grad = None
    tuples = task.state()["tuples"][3:6]
    maps = MapCache(small_describer(), cache_bytes=0)
    rows = tuples.flatten().tolist()
    vectors = torch.cat([descriptor(m) for m in maps.read([photos.files[row] for row in rows])])
    left, right = vectors.reshape(3, 5, -1)[:, :1], vectors.reshape(3, 5, -1)[:, 1:]
    distances = (left - right + 1e-6).square().sum(dim=2).sqrt()  # (3, 4)
    total = distances[:, 0].square().sum() + (0.9 - distances[:, 1:]).relu().square().sum()
    (total / 2 / 3).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(accumulated, learned.weight.grad, rtol=1e-3, atol=1e-7)


def test_steps_of_an_epoch_use_each_tuple_once(folder: Path) -> None:
    task, _, _, _ = siamese(folder, options=SiameseOptions(negatives=2, pairs=11, batch=3))
    task.begin(0)
    assert task.steps == 4
    assert [len(list(task.losses(0, step))) for step in range(4)] == [2, 3, 3, 3]


def test_what_is_learned_does_not_depend_on_the_memory_for_maps(
    folder: Path, tmp_path: Path
) -> None:
    results = []
    for number, cache_bytes in enumerate((0, 1 << 19)):
        task, _, learned, _ = siamese(folder, cache_bytes=cache_bytes)
        learn(task, tmp_path / str(number))
        results.append(learned.weight.detach())
    assert torch.equal(results[0], results[1])


def test_training_brings_a_new_set_closer(tmp_path: Path) -> None:
    folder = draw_set(tmp_path / "set", things=12, first=100)
    task, _, learned, _ = siamese(folder, options=SiameseOptions(negatives=3, pairs=24, batch=4))
    other, _, unseen, _ = siamese(draw_set(tmp_path / "other", things=12, first=300))
    other.begin(0)
    before = _mean_loss(other)
    learn(task, tmp_path / "r", LoopOptions(epochs=4, learning_rate=3e-3))
    entries = RunFolder(tmp_path / "r", {}, resume=True).entries()
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    assert losses[-1] < 0.9 * losses[0]
    unseen.load(learned.weight.detach())
    assert _mean_loss(other) < 0.95 * before


@torch.no_grad()
def _mean_loss(task: Siamese) -> float:
    tuples = task.state()["tuples"].numpy()
    return sum(float(task.tuple_loss(rows)) for rows in tuples) / len(tuples)


# Photos


def test_photos_that_cannot_be_read_drop_their_pairs_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = draw_set(tmp_path / "set")
    task, _, _, photos = siamese(folder)
    bad = photos.files[int(photos.queries[0])]
    bad.write_bytes(bad.read_bytes()[:200])
    with caplog.at_level(logging.WARNING):
        for epoch in (0, 1):
            task.begin(epoch)
            tuples = task.state()["tuples"].numpy()
            assert photos.files.index(bad) not in tuples
            assert 0 < len(tuples) < 12
            losses = [loss for step in range(task.steps) for loss in task.losses(epoch, step)]
            assert len(losses) == len(tuples)
            assert 0 < task.validate()["mAP"] <= 1
    (warning,) = [record.getMessage() for record in caplog.records]
    assert str(bad) in warning
    other = next(file for file in photos.files if file != bad)
    vectors, good = task.describe([bad, other])
    assert (len(vectors), good.tolist()) == (1, [1])


def test_a_photo_that_cannot_be_read_does_not_end_a_run_of_single_tuples(tmp_path: Path) -> None:
    folder = draw_set(tmp_path / "set")
    options = SiameseOptions(margin=0.9, negatives=3, pairs=100, pool=30, batch=1)
    task, _, _, photos = siamese(folder, options=options)
    assert task.steps == len(photos.queries)
    bad = photos.files[int(photos.queries[0])]
    bad.write_bytes(bad.read_bytes()[:200])
    task.begin(0)
    tuples = task.state()["tuples"].numpy()
    assert len(tuples) == task.steps and photos.files.index(bad) not in tuples
    other = {(query, match) for query, match in tuples[:, :2].tolist()}
    assert 0 < len(other) < task.steps
    assert all(len(list(task.losses(0, step))) == 1 for step in (0, task.steps - 1))


def test_a_set_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    folder = draw_set(tmp_path / "set")
    task, _, _, photos = siamese(folder)
    for file in photos.files:
        file.write_bytes(b"no photo")
    with pytest.raises(TrainingFailed, match="can be read"):
        task.begin(0)


def test_a_photo_that_vanishes_is_named(tmp_path: Path) -> None:
    folder = draw_set(tmp_path / "set")
    task, _, _, photos = siamese(folder, cache_bytes=0)
    task.begin(0)
    gone = photos.files[int(task.state()["tuples"][0, 0])]
    gone.unlink()
    with pytest.raises(TrainingFailed, match=gone.name):
        list(task.losses(0, 0))


def test_photos_that_are_alone_are_negatives_only(folder: Path) -> None:
    task, _, _, photos = siamese(folder, options=SiameseOptions(negatives=5, pairs=40))
    task.begin(0)
    tuples = task.state()["tuples"].numpy()
    sizes = np.bincount(photos.clusters)
    assert (sizes[photos.clusters[tuples[:, :2]]] > 1).all()
    assert (sizes[photos.clusters] == 1).any()
    alone = np.flatnonzero(sizes[photos.clusters] == 1)
    assert np.isin(alone, tuples[:, 2:]).any()


def test_too_few_other_things_for_the_negatives_are_named(folder: Path) -> None:
    task, _, _, _ = siamese(folder, options=SiameseOptions(negatives=40, pairs=4))
    with pytest.raises(TrainingFailed, match="40 are needed"):
        task.begin(0)


@pytest.mark.parametrize(
    "wrong",
    [{"margin": 0.0}, {"margin": 2.5}, {"negatives": 0}, {"pairs": 0}, {"pool": 0}, {"batch": 0}],
)
def test_options_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=f"{next(iter(wrong))} is"):
        SiameseOptions(**wrong)


# Resume


def killed_at(folder: Path, out: Path, step: int) -> None:
    def report(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    task, _, _, _ = siamese(folder, cache_bytes=1 << 19)
    learn(task, out, resume=True, checkpoint_s=0.01, report=report)


_KILLED = """
import sys
from pathlib import Path

from tests.test_siamese import killed_at

killed_at(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
"""


def test_a_run_that_was_killed_twice_ends_as_an_unbroken_one_bit_for_bit(
    folder: Path, tmp_path: Path
) -> None:
    task, _, unbroken, _ = siamese(folder)
    learn(task, tmp_path / "unbroken")
    steps = sorted(random.SystemRandom().sample(range(1, LOOP.epochs * task.steps), 2))
    for step in steps:
        arguments = [str(folder), str(tmp_path / "broken"), str(step)]
        done = subprocess.run([sys.executable, "-c", _KILLED, *arguments], cwd=ROOT, check=False)
        assert done.returncode == -signal.SIGKILL, steps
    last, _, learned, _ = siamese(folder)
    learn(last, tmp_path / "broken", resume=True)
    assert torch.equal(learned.weight, unbroken.weight), steps
    mine, theirs = (
        RunFolder(tmp_path / name, {}, resume=True).load_best() for name in ("broken", "unbroken")
    )
    assert mine["scores"] == theirs["scores"]
    assert torch.equal(mine["model"]["weight"], theirs["model"]["weight"])
