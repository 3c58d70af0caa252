from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.backbones import TRUNKS, build_trunk
from engine.backbones.trunk import Trunk
from engine.backbones.untrained import untrained_state
from engine.errors import InvalidOption

# Of torchvision's models, written down from their published state dicts.
VGG16_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG16_OUTPUTS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
SQUEEZENET_FIRES = {3: 16, 4: 16, 6: 32, 7: 32, 9: 48, 10: 48, 11: 64, 12: 64}
RESNET101_BLOCKS = {1: 3, 2: 4, 3: 23, 4: 3}
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")

LAYERS = [(name, layer) for name, trunk in TRUNKS.items() for layer in trunk.layers]
CPU = torch.device("cpu")


def parameters(name: str) -> int:
    return sum(value.numel() for value in build_trunk(name).parameters())


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@cache
def untrained(name: str) -> dict[str, Tensor]:
    return untrained_state(name)


@cache
def random_resnet() -> dict[str, Tensor]:
    """Parameters and statistics in which every entry matters."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    for name, value in untrained("resnet101").items():
        spread = torch.rand(value.shape, generator=generator)
        if value.ndim == 4:
            state[name] = value
        elif name.endswith(("bias", "running_mean")):
            state[name] = spread - 0.5
        else:
            state[name] = value * (0.5 + spread)
    return state


def filled(name: str, layer: str | None = None) -> Trunk:
    trunk = build_trunk(name, layer)
    trunk.load(untrained(name))
    return trunk


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


def resnet101(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """The maps of the four stages of ResNet101 v1.5, one function call after the other."""

    def convolve(x: Tensor, name: str, norm: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        x = F.conv2d(x, weight, None, stride, padding=weight.shape[-1] // 2)
        scale, shift, mean, variance = (state[f"{norm}.{entry}"] for entry in BATCH_NORM)
        return F.batch_norm(x, mean, variance, scale, shift, False, 0.0, 1e-5)

    x = F.max_pool2d(F.relu(convolve(x, "conv1", "bn1", 2)), 3, 2, padding=1)
    maps = []
    for stage, blocks in RESNET101_BLOCKS.items():
        for block in range(blocks):
            prefix = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            branch = F.relu(convolve(x, f"{prefix}.conv1", f"{prefix}.bn1"))
            branch = F.relu(convolve(branch, f"{prefix}.conv2", f"{prefix}.bn2", stride))
            branch = convolve(branch, f"{prefix}.conv3", f"{prefix}.bn3")
            if block == 0:
                x = convolve(x, f"{prefix}.downsample.0", f"{prefix}.downsample.1", stride)
            x = F.relu(x + branch)
        maps.append(x)
    return maps


# Parameters


@pytest.mark.parametrize(
    ("name", "expected"),
    # ResNet101: 44,549,160 with its 2048 x 1000 + 1000 parameters of `fc`.
    [("vgg16", 14_714_688), ("squeezenet1_1", 722_496), ("resnet101", 44_549_160 - 2_049_000)],
)
def test_a_trunk_has_the_published_number_of_parameters(name: str, expected: int) -> None:
    assert parameters(name) == expected


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


def test_resnet101_has_the_parameter_names_and_shapes_of_torchvision() -> None:
    expected: dict[str, tuple[int, ...]] = {}

    def add(convolution: str, norm: str, *shape: int) -> None:
        expected[f"{convolution}.weight"] = shape
        expected.update({f"{norm}.{entry}": shape[:1] for entry in BATCH_NORM})

    add("conv1", "bn1", 64, 3, 7, 7)
    inputs = 64
    for stage, blocks in RESNET101_BLOCKS.items():
        width = 32 * 2**stage
        for block in range(blocks):
            prefix = f"layer{stage}.{block}"
            add(f"{prefix}.conv1", f"{prefix}.bn1", width, inputs, 1, 1)
            add(f"{prefix}.conv2", f"{prefix}.bn2", width, width, 3, 3)
            add(f"{prefix}.conv3", f"{prefix}.bn3", 4 * width, width, 1, 1)
            if block == 0:
                names = f"{prefix}.downsample.0", f"{prefix}.downsample.1"
                add(*names, 4 * width, inputs, 1, 1)
            inputs = 4 * width
    state = build_trunk("resnet101").state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected


# Maps


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


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    # Each of the five halvings is padded and so rounds up.
    [(64, 96, (2, 3)), (65, 33, (3, 2)), (32, 31, (1, 1))],
)
def test_a_map_of_resnet101_is_smaller_by_its_stride_rounded_up(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    trunk = build_trunk("resnet101")
    assert (trunk.stride, trunk.channels) == (32, 2048)
    with torch.inference_mode():
        assert trunk(torch.zeros(2, 3, height, width)).shape == (2, 2048, *expected)


@pytest.mark.parametrize("layer", ["pool5", "relu5_3"])
@pytest.mark.parametrize("size", [(64, 96), (75, 50)])
def test_vgg16_is_its_layers_one_after_the_other(
    layer: str, size: tuple[int, int], device: torch.device
) -> None:
    state = {k: v.to(device) for k, v in untrained("vgg16").items()}
    trunk = build_trunk("vgg16", layer)
    trunk.load(state)
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
    state = {k: v.to(device) for k, v in untrained("squeezenet1_1").items()}
    trunk = build_trunk("squeezenet1_1")
    trunk.load(state)
    trunk.prepare(device, torch.float32)
    batch = images(2, 3, *size).to(device)
    with torch.inference_mode():
        ours, expected = trunk(batch), squeezenet(state, batch)
    assert expected.abs().max() > 0
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize("prepared", [False, True], ids=["as loaded", "prepared"])
@pytest.mark.parametrize("size", [(64, 96), (75, 50)])
def test_resnet101_is_its_layers_one_after_the_other(
    size: tuple[int, int], prepared: bool, device: torch.device
) -> None:
    state = {k: v.to(device) for k, v in random_resnet().items()}
    trunk = build_trunk("resnet101", "layer1+layer2+layer3+layer4").to(device)
    trunk.load(state)
    if prepared:
        trunk.prepare(device, torch.float32)
    batch = images(2, 3, *size).to(device)
    with torch.inference_mode():
        ours, expected = trunk.maps(batch), resnet101(state, batch)
    for found, wanted in zip(ours, expected, strict=True):
        assert wanted.abs().max() > 0
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.max()))


@pytest.mark.parametrize("name", list(TRUNKS))
def test_maps_of_several_layers_are_those_of_each_layer_alone(name: str) -> None:
    # Alone, nothing comes after a layer that could change its map.
    trunk = filled(name, "+".join(TRUNKS[name].layers)).prepare(CPU, torch.float32)
    batch = images(2, 3, 71, 50)
    with torch.inference_mode():
        together = trunk.maps(batch)
        assert torch.equal(trunk(batch), together[-1])
        for layer, found in zip(TRUNKS[name].layers, together, strict=True):
            alone = filled(name, layer).prepare(CPU, torch.float32)
            assert torch.equal(alone(batch), found), layer


@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_a_layer_has_the_channels_and_the_stride_that_it_says(name: str, layer: str) -> None:
    trunk = build_trunk(name, layer)
    assert trunk.layer == layer
    assert trunk.map_channels == (trunk.channels,)
    assert trunk.map_strides == (trunk.stride,)
    height, width = 160, 224
    with torch.inference_mode():
        _, channels, rows, columns = trunk(torch.zeros(1, 3, height, width)).shape
    assert channels == trunk.channels
    # SqueezeNet does not pad its first convolution: up to a row less.
    assert height // trunk.stride - 1 <= rows <= height // trunk.stride
    assert width // trunk.stride - 1 <= columns <= width // trunk.stride


def test_several_layers_are_described_shallow_to_deep() -> None:
    trunk = build_trunk("vgg16", "relu3_3+relu5_3+pool5")
    assert trunk.layer == "relu3_3+relu5_3+pool5"
    assert trunk.map_channels == (256, 512, 512)
    assert trunk.map_strides == (4, 16, 32)
    assert (trunk.channels, trunk.stride) == (512, 32)
    trunk = build_trunk("resnet101", "layer1+layer3")
    assert (trunk.map_channels, trunk.map_strides) == ((256, 1024), (4, 16))
    assert (trunk.channels, trunk.stride) == (1024, 16)


@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_a_map_is_what_a_rectifier_leaves(name: str, layer: str) -> None:
    trunk = filled(name, layer)
    with torch.inference_mode():
        features = trunk(images(1, 3, 64, 96))
    assert features.min() == 0
    assert features.max() > 0


@pytest.mark.parametrize("name", list(TRUNKS))
def test_the_images_are_left_alone(name: str) -> None:
    trunk = build_trunk(name).prepare(CPU, torch.float32)
    batch = images(1, 3, 40, 48).contiguous(memory_format=torch.channels_last)
    before = batch.clone()
    trunk(batch)
    assert torch.equal(batch, before)


# Frozen, and before


@pytest.mark.parametrize("name", list(TRUNKS))
def test_a_prepared_trunk_is_frozen(name: str) -> None:
    trunk = build_trunk(name).prepare(CPU, torch.bfloat16)
    assert not trunk.training
    assert all(not parameter.requires_grad for parameter in trunk.parameters())
    assert {parameter.dtype for parameter in trunk.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", list(TRUNKS))
def test_half_precision_points_the_same_way(name: str) -> None:
    layers = "+".join(TRUNKS[name].layers)
    batch = images(2, 3, 71, 50)
    precise, coarse = (
        filled(name, layers).prepare(CPU, dtype).maps(batch.to(dtype))
        for dtype in (torch.float32, torch.bfloat16)
    )
    for ours, expected in zip(coarse, precise, strict=True):
        assert ours.dtype == torch.bfloat16
        cosine = F.cosine_similarity(ours.float().flatten(1), expected.flatten(1))
        # Filters with zero mean amplify what is rounded, layer by layer; trained ones less so.
        assert cosine.min() > 0.98


@pytest.mark.parametrize("name", TRUNKS)
def test_a_trunk_built_without_parameters_loads_copies_of_its_own(name: str) -> None:
    state = untrained_state(name)
    with torch.device("meta"):
        empty = build_trunk(name)
    usual = build_trunk(name)
    for trunk in (empty, usual):
        trunk.load(state)
    for key, value in empty.state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value, usual.state_dict()[key])
        assert value.data_ptr() != state[key].data_ptr()


def test_a_trunk_may_be_prepared_twice() -> None:
    trunk = build_trunk("resnet101", "layer1")
    trunk.load(random_resnet())
    batch = images(1, 3, 40, 48)
    once = trunk.prepare(CPU, torch.float32)(batch)
    assert torch.equal(trunk.prepare(CPU, torch.float32)(batch), once)


def test_resnet101_is_not_loaded_once_its_batch_norms_are_folded() -> None:
    trunk = build_trunk("resnet101", "layer1")
    trunk.load(random_resnet())
    trunk.prepare(CPU, torch.float32)
    with pytest.raises(ValueError, match=r"missing entries: conv1\.bias"):
        trunk.load(random_resnet())


def test_batch_norms_do_not_learn_statistics() -> None:
    trunk = build_trunk("resnet101", "layer2")
    trunk.load(random_resnet())
    batch = images(2, 3, 40, 48)
    expected = trunk.eval()(batch)
    assert torch.equal(trunk.train()(batch), expected)
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, random_resnet()[name]), name


@pytest.mark.parametrize("name", list(TRUNKS))
def test_gradients_of_several_maps_reach_every_parameter(name: str) -> None:
    # What is changed in place must not be what a gradient is computed from.
    trunk = filled(name, "+".join(TRUNKS[name].layers))
    means = [features.square().mean() for features in trunk.maps(images(2, 3, 71, 50))]
    torch.stack(means).sum().backward()  # type: ignore[no-untyped-call]
    for key, parameter in trunk.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    first = next(iter(trunk.parameters()))
    assert first.grad is not None and first.grad.abs().max() > 0


# Cutting and loading


@pytest.mark.parametrize("name", list(TRUNKS))
def test_nothing_is_left_after_the_deepest_wanted_layer(name: str) -> None:
    kept = [parameters_of(name, layer) for layer in TRUNKS[name].layers]
    assert all(shallow <= deep for shallow, deep in pairwise(kept))
    assert kept[0] < kept[-1] == TRUNKS[name].shapes().keys()


def parameters_of(name: str, layer: str) -> set[str]:
    return set(build_trunk(name, layer).state_dict())


def test_the_cut_is_where_the_names_say() -> None:
    expected = {f"features.{i}.{entry}" for i in (0, 2, 5, 7) for entry in ("weight", "bias")}
    assert parameters_of("vgg16", "relu1_2+relu2_2") == expected
    fires = {name.split(".")[1] for name in parameters_of("squeezenet1_1", "fire5")}
    assert fires == {"0", "3", "4", "6", "7"}
    stages = {name.split(".")[0] for name in parameters_of("resnet101", "layer2")}
    assert stages == {"conv1", "bn1", "layer1", "layer2"}


@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_a_cut_trunk_takes_what_it_has_of_the_whole_state(name: str, layer: str) -> None:
    trunk, classifier = build_trunk(name, layer), TRUNKS[name].classifier
    whole = {
        **untrained(name),
        f"{classifier}weight": torch.ones(3, 3),
        **({"bn1.num_batches_tracked": torch.tensor(7)} if name == "resnet101" else {}),
    }
    trunk.load(whole)
    for key, value in trunk.state_dict().items():
        assert torch.equal(value, whole[key]), key
    trunk.load(trunk.state_dict())


@pytest.mark.parametrize(
    ("name", "entry", "more", "message"),
    [
        (
            "vgg16",
            "features.0.weight",
            torch.zeros(64, 3, 5, 5),
            r"entries of another shape: features.0.weight is \(64, 3, 5, 5\), not \(64, 3, 3, 3\)$",
        ),
        ("squeezenet1_1", "features.0.bias", None, "^missing entries: features.0.bias$"),
        ("resnet101", "bn1.running_var", None, "^missing entries: bn1.running_var$"),
        (
            "resnet101",
            "layer3.23.conv1.weight",
            torch.zeros(1),
            "^entries that resnet101 does not have: layer3.23.conv1.weight$",
        ),
        ("vgg16", "fc.weight", torch.zeros(1), "that vgg16 does not have: fc.weight"),
        ("resnet101", "classifier.weight", torch.zeros(1), "not have: classifier.weight"),
    ],
)
def test_a_wrong_entry_is_named_and_nothing_is_loaded(
    name: str, entry: str, more: Tensor | None, message: str
) -> None:
    trunk = build_trunk(name, TRUNKS[name].layers[0])
    before = {key: value.clone() for key, value in trunk.state_dict().items()}
    state = {key: value for key, value in untrained(name).items() if key != entry}
    with pytest.raises(ValueError, match=message):
        trunk.load(state if more is None else {**state, entry: more})
    for key, value in trunk.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", list(TRUNKS))
@pytest.mark.parametrize("other", list(TRUNKS))
def test_parameters_of_another_trunk_are_refused(name: str, other: str) -> None:
    if name == other:
        return
    with pytest.raises(ValueError, match=rf"that {name} does not have: \S+, \S+, \S+ and \d+ more"):
        build_trunk(name).load(untrained(other))


# Options


def test_without_a_layer_it_is_the_default() -> None:
    assert build_trunk("vgg16").layer == "pool5"
    assert build_trunk("squeezenet1_1").layer == "fire9"
    assert build_trunk("resnet101").layer == "layer4"


def test_unknown_names_are_refused_with_the_choices() -> None:
    with pytest.raises(InvalidOption, match="'vgg19' is unknown; choose from vgg16, squeezenet"):
        build_trunk("vgg19")
    with pytest.raises(InvalidOption, match=r"vgg16 has no layer 'fire9'.*relu5_3, pool5"):
        build_trunk("vgg16", "fire9")
    with pytest.raises(InvalidOption, match=r"squeezenet1_1 has no layer 'pool5'.*fire9"):
        build_trunk("squeezenet1_1", "pool5")
    with pytest.raises(InvalidOption, match=r"resnet101 has no layer 'layer5'.*layer3, layer4"):
        build_trunk("resnet101", "layer4+layer5")


@pytest.mark.parametrize("layer", ["pool5+", "+", "relu5_3++pool5", "relu5_3 + pool5", "pool5,"])
def test_what_is_joined_otherwise_is_refused(layer: str) -> None:
    with pytest.raises(InvalidOption, match=r"vgg16 has no layer .*joined by '\+'"):
        build_trunk("vgg16", layer)


@pytest.mark.parametrize("layer", ["pool5+relu5_3", "pool5+pool5", "relu1_2+pool5+relu1_2"])
def test_layers_out_of_order_and_twice_are_refused(layer: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        build_trunk("vgg16", layer)
    assert f"'{layer}'" in str(caught.value)
    assert "order is relu1_2, relu2_2, relu3_3, relu4_3, relu5_3, pool5" in str(caught.value)
