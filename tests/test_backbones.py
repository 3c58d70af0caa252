from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.backbones import TRUNKS, build_trunk
from engine.backbones.untrained import untrained_state
from engine.errors import InvalidOption

# Of torchvision's models, written down from their published state dicts.
VGG16_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG16_OUTPUTS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
SQUEEZENET_FIRES = {3: 16, 4: 16, 6: 32, 7: 32, 9: 48, 10: 48, 11: 64, 12: 64}


def parameters(name: str) -> int:
    return sum(value.numel() for value in build_trunk(name).state_dict().values())


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def vgg16(state: dict[str, Tensor], x: Tensor, layer: str) -> Tensor:
    """Configuration D of arXiv:1409.1556, one function call after the other."""
    for index in VGG16_CONVOLUTIONS:
        x = F.conv2d(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"], 1, 1)
        x = F.relu(x)
        # A pooling follows where two numbers are left out for it and the next activation.
        last = index == VGG16_CONVOLUTIONS[-1]
        if index + 3 in VGG16_CONVOLUTIONS or (last and layer == "pool5"):
            x = F.max_pool2d(x, 2)
    return x


def squeezenet(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """SqueezeNet 1.1 of torchvision, one function call after the other."""

    def convolve(x: Tensor, name: str, padding: int = 0, stride: int = 1) -> Tensor:
        weight, bias = state[f"features.{name}.weight"], state[f"features.{name}.bias"]
        return F.relu(F.conv2d(x, weight, bias, stride, padding))

    x = convolve(x, "0", stride=2)
    for index in SQUEEZENET_FIRES:
        if index in (3, 6, 9):
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        squeezed = convolve(x, f"{index}.squeeze")
        narrow = convolve(squeezed, f"{index}.expand1x1")
        wide = convolve(squeezed, f"{index}.expand3x3", padding=1)
        x = torch.cat((narrow, wide), 1)
    return x


def test_vgg16_has_the_published_number_of_parameters() -> None:
    assert parameters("vgg16") == 14_714_688


def test_squeezenet_has_the_published_number_of_parameters() -> None:
    assert parameters("squeezenet1_1") == 722_496


@pytest.mark.parametrize("layer", ["pool5", "relu5_3"])
def test_vgg16_has_the_parameter_names_and_shapes_of_torchvision(layer: str) -> None:
    state = build_trunk("vgg16", layer).state_dict()
    expected: dict[str, tuple[int, ...]] = {}
    inputs = 3
    for index, outputs in zip(VGG16_CONVOLUTIONS, VGG16_OUTPUTS, strict=True):
        expected[f"features.{index}.weight"] = (outputs, inputs, 3, 3)
        expected[f"features.{index}.bias"] = (outputs,)
        inputs = outputs
    assert {name: tuple(value.shape) for name, value in state.items()} == expected


def test_squeezenet_has_the_parameter_names_and_shapes_of_torchvision() -> None:
    state = build_trunk("squeezenet1_1").state_dict()
    expected: dict[str, tuple[int, ...]] = {
        "features.0.weight": (64, 3, 3, 3),
        "features.0.bias": (64,),
    }
    inputs = 64
    for index, squeezed in SQUEEZENET_FIRES.items():
        expanded = 4 * squeezed
        for part, shape in (
            ("squeeze", (squeezed, inputs, 1, 1)),
            ("expand1x1", (expanded, squeezed, 1, 1)),
            ("expand3x3", (expanded, squeezed, 3, 3)),
        ):
            expected[f"features.{index}.{part}.weight"] = shape
            expected[f"features.{index}.{part}.bias"] = shape[:1]
        inputs = 2 * expanded
    assert {name: tuple(value.shape) for name, value in state.items()} == expected


@pytest.mark.parametrize(("layer", "stride"), [("pool5", 32), ("relu5_3", 16)])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (33, 95), (32, 32)])
def test_a_map_of_vgg16_is_smaller_by_its_stride(
    layer: str, stride: int, height: int, width: int
) -> None:
    trunk = build_trunk("vgg16", layer)
    assert (trunk.stride, trunk.channels, trunk.layer) == (stride, 512, layer)
    with torch.inference_mode():
        shape = trunk(torch.zeros(2, 3, height, width)).shape
    assert shape == (2, 512, height // stride, width // stride)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    # A 3x3 convolution of stride 2 gives (H - 3) // 2 + 1, each of three poolings, which round
    # up, ceil((H - 3) / 2) + 1: 224, 111, 55, 27, 13 and 97, 48, 24, 12, 6.
    [(224, 160, (13, 9)), (97, 64, (6, 3)), (32, 33, (1, 2))],
)
def test_a_map_of_squeezenet_is_smaller_by_about_its_stride(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    trunk = build_trunk("squeezenet1_1")
    assert (trunk.stride, trunk.channels) == (16, 512)
    with torch.inference_mode():
        assert trunk(torch.zeros(2, 3, height, width)).shape == (2, 512, *expected)


@pytest.mark.parametrize("layer", ["pool5", "relu5_3"])
@pytest.mark.parametrize("size", [(64, 96), (75, 50)])
def test_vgg16_is_its_layers_one_after_the_other(
    layer: str, size: tuple[int, int], device: torch.device
) -> None:
    state = {k: v.to(device) for k, v in untrained_state("vgg16").items()}
    trunk = build_trunk("vgg16", layer)
    trunk.load_state_dict(state)
    trunk.prepare(device, torch.float32)
    batch = images(2, 3, *size).to(device)
    with torch.inference_mode():
        ours, expected = trunk(batch), vgg16(state, batch, layer)
    assert expected.abs().max() > 0
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize("size", [(64, 96), (75, 50)])
def test_squeezenet_is_its_layers_one_after_the_other(
    size: tuple[int, int], device: torch.device
) -> None:
    state = {k: v.to(device) for k, v in untrained_state("squeezenet1_1").items()}
    trunk = build_trunk("squeezenet1_1")
    trunk.load_state_dict(state)
    trunk.prepare(device, torch.float32)
    batch = images(2, 3, *size).to(device)
    with torch.inference_mode():
        ours, expected = trunk(batch), squeezenet(state, batch)
    assert expected.abs().max() > 0
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize("name", list(TRUNKS))
def test_a_map_is_what_a_rectifier_leaves(name: str) -> None:
    trunk = build_trunk(name)
    trunk.load_state_dict(untrained_state(name))
    with torch.inference_mode():
        features = trunk(images(1, 3, 64, 96))
    assert features.min() == 0
    assert features.max() > 0


@pytest.mark.parametrize("name", list(TRUNKS))
def test_the_images_are_left_alone(name: str) -> None:
    trunk = build_trunk(name).prepare(torch.device("cpu"), torch.float32)
    batch = images(1, 3, 40, 48).contiguous(memory_format=torch.channels_last)
    before = batch.clone()
    trunk(batch)
    assert torch.equal(batch, before)


@pytest.mark.parametrize("name", list(TRUNKS))
def test_a_prepared_trunk_is_frozen(name: str) -> None:
    trunk = build_trunk(name).prepare(torch.device("cpu"), torch.bfloat16)
    assert not trunk.training
    assert all(not parameter.requires_grad for parameter in trunk.parameters())
    assert {parameter.dtype for parameter in trunk.parameters()} == {torch.bfloat16}


def test_the_first_layer_is_the_default() -> None:
    assert build_trunk("vgg16").layer == "pool5"
    assert build_trunk("squeezenet1_1").layer == "fire9"


def test_unknown_names_are_refused_with_the_choices() -> None:
    with pytest.raises(InvalidOption, match="'vgg19' is unknown; choose from vgg16, squeezenet"):
        build_trunk("vgg19")
    with pytest.raises(InvalidOption, match=r"vgg16 has no layer 'fire9'.*pool5.*relu5_3"):
        build_trunk("vgg16", "fire9")
    with pytest.raises(InvalidOption, match=r"squeezenet1_1 has no layer 'pool5'.*fire9"):
        build_trunk("squeezenet1_1", "pool5")
