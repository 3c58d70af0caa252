from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.backbones import build_trunk
from engine.backbones.resnet import BatchNorm
from engine.backbones.trunk import Trunk
from engine.backbones.untrained import untrained_state
from engine.errors import InvalidOption
from engine.pooling import build_pooling
from engine.training.grid import Grid, cells_of, grid_of, sample
from engine.training.teacher import Teacher

CPU = torch.device("cpu")


def trunk(name: str, layer: str | None = None) -> Trunk:
    made = build_trunk(name, layer)
    made.load(untrained_state(name))
    return made.prepare(CPU, torch.float32)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("vgg16", "relu3_3"),
        ("vgg_lite", None),
        ("squeezenet1_1", "fire5"),
        ("squeezenet1_1", None),
        ("resnet101", "layer2"),
    ],
)
def test_a_cell_lies_in_the_middle_of_what_it_sees(name: str, layer: str | None) -> None:
    made = build_trunk(name, layer)
    for parameter in made.parameters():
        nn.init.constant_(parameter, 0.01 if parameter.ndim > 1 else 0.0)
    for norm in (m for m in made.modules() if isinstance(m, BatchNorm)):
        nn.init.ones_(norm.weight)
    pools = [m for m in made.modules() if isinstance(m, nn.MaxPool2d)]
    hooks = [pool.register_forward_hook(_mean_pooling) for pool in pools]
    side = 480
    image = torch.ones(1, 3, side, side, requires_grad=True)
    maps = made(image)
    row, column = maps.shape[2] // 2, maps.shape[3] // 2 - 1
    (gradient,) = torch.autograd.grad(maps[0, :, row, column].sum(), image)
    seen = gradient.abs().sum(dim=(0, 1)) > 0
    grid = grid_of(made)
    for axis, cell in ((1, row), (0, column)):
        inside = torch.nonzero(seen.any(dim=axis)).flatten()
        assert inside[0] > 0 and inside[-1] < side - 1
        assert (inside[0] + inside[-1]) / 2 == grid.first + grid.stride * cell
    for hook in hooks:
        hook.remove()


def _mean_pooling(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """In place of the maximum, whose gradient reaches one pixel only."""
    assert isinstance(module, nn.MaxPool2d)
    return F.avg_pool2d(
        inputs[0], module.kernel_size, module.stride, module.padding, ceil_mode=module.ceil_mode
    )


def test_a_trunk_whose_branches_are_not_known_has_no_grid() -> None:
    made = build_trunk("vgg_lite", "relu2")
    made.stride = 8
    with pytest.raises(InvalidOption, match=r"the cells of vgg_lite lie is not known"):
        grid_of(made)


@pytest.mark.parametrize(
    ("name", "layer", "side", "symmetric"),
    [
        ("vgg_lite", None, 160, True),
        ("vgg_lite", None, 150, False),
        ("vgg16", "relu3_3", 96, True),
        ("resnet101", "layer1", 97, True),
        ("resnet101", "layer1", 96, False),
    ],
)
def test_cells_lie_symmetrically_or_not(
    name: str, layer: str | None, side: int, symmetric: bool
) -> None:
    made = build_trunk(name, layer)
    _, cells = cells_of(made, 64, side)
    grid = grid_of(made)
    assert grid.is_symmetric(cells, side) is symmetric
    places = grid.centres(cells)
    assert torch.equal(side - 1 - places.flip(0), places) is symmetric


@pytest.mark.parametrize("name", ["vgg16", "vgg_lite", "squeezenet1_1"])
@pytest.mark.parametrize("size", [(64, 96), (47, 110)])
def test_cells_are_counted_without_computing(name: str, size: tuple[int, int]) -> None:
    made = trunk(name)
    assert cells_of(made, *size) == tuple(made(noise(1, 3, *size)).shape[2:])


def test_sampling_at_cells_gives_the_map_itself_and_between_them_the_mean() -> None:
    maps = noise(2, 3, 4, 5)
    assert torch.allclose(sample(maps, torch.arange(4.0), torch.arange(5.0)), maps, atol=1e-5)
    middle = sample(maps, torch.tensor([0.5]), torch.tensor([3.0]))
    assert torch.allclose(middle[:, :, 0, 0], (maps[:, :, 0, 3] + maps[:, :, 1, 3]) / 2, atol=1e-5)
    outside = sample(maps, torch.tensor([-2.0, 9.0]), torch.tensor([0.0]))
    assert torch.allclose(outside[:, :, 1, 0], maps[:, :, 3, 0], atol=1e-5)


def test_a_map_of_one_cell_can_be_sampled_anywhere() -> None:
    maps = noise(1, 2, 1, 1)
    found = sample(maps, torch.tensor([0.0, 3.0]), torch.tensor([-1.0]))
    assert torch.allclose(found, maps.expand(1, 2, 2, 1), atol=1e-6)


def test_one_plain_view_on_its_own_grid_is_the_trunks_map() -> None:
    made = trunk("vgg_lite")
    images = noise(2, 3, 64, 96)
    found = Teacher(made).maps(images, grid_of(made), (4, 6))
    torch.testing.assert_close(found, made(images), rtol=1e-4, atol=1e-5)


def test_targets_are_mirrored_with_the_image() -> None:
    teacher = Teacher(
        trunk("squeezenet1_1", "fire5"), scales=(0.7, 1.0, 1.4), mirrored=True, power=0.5
    )
    images, onto = noise(1, 3, 64, 96), Grid(7.5, 16)
    straight = teacher.maps(images, onto, (4, 6))
    turned = teacher.maps(images.flip(-1), onto, (4, 6))
    torch.testing.assert_close(turned.flip(-1), straight, rtol=1e-3, atol=1e-4)


def test_views_are_joined_by_the_power_mean() -> None:
    made = trunk("vgg_lite", "relu3")
    images, grid = noise(1, 3, 64, 64), grid_of(made)
    small = F.interpolate(images, (32, 32), mode="bilinear", align_corners=False, antialias=True)
    plain, coarse = made(images), made(small)
    # Cell i of the student lies at pixel 8 i + 3.5, in the halved image at 4 i + 1.5, which is
    # cell i / 2 - 1 / 4 there; beyond the first and the last cell their value goes on.
    expected = torch.zeros_like(plain)
    for row in range(8):
        for column in range(8):
            y, x = (min(max(place / 2 - 0.25, 0.0), 3.0) for place in (row, column))
            top, left = min(int(y), 2), min(int(x), 2)
            dy, dx = y - top, x - left
            between = (
                (1 - dy) * (1 - dx) * coarse[0, :, top, left]
                + (1 - dy) * dx * coarse[0, :, top, left + 1]
                + dy * (1 - dx) * coarse[0, :, top + 1, left]
                + dy * dx * coarse[0, :, top + 1, left + 1]
            )
            value = plain[0, :, row, column]
            expected[0, :, row, column] = ((value.sqrt() + between.sqrt()) / 2) ** 2
    found = Teacher(made, scales=(1.0, 0.5), power=0.5).maps(images, grid, (8, 8))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_descriptor_of_several_scales_is_the_sum_of_theirs() -> None:
    made = trunk("squeezenet1_1", "fire5")
    pooling = build_pooling("cbp_aa:dim=64", made.channels)
    images = noise(2, 3, 64, 80)
    total = torch.zeros(2, 64)
    for size in ((64, 80), (32, 40)):
        shown = images
        if size != (64, 80):
            shown = F.interpolate(
                images, size, mode="bilinear", align_corners=False, antialias=True
            )
        pooled = pooling(made(shown))
        rooted = torch.sign(pooled) * torch.sqrt(torch.abs(pooled))
        total += rooted / torch.linalg.norm(rooted, dim=1, keepdim=True)
    expected = total / torch.linalg.norm(total, dim=1, keepdim=True)
    found = Teacher(made, scales=(1.0, 0.5)).descriptors(images, pooling)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
