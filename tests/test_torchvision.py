"""Our trunks against the models of torchvision, with the same parameters."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.backbones import TRUNKS, build_trunk

Activations = dict[str, Tensor]


@pytest.fixture(scope="module")
def models() -> Iterator[ModuleType]:
    """`torchvision.models`, also where torchvision was built for another torch than ours."""
    library = None
    try:
        found = import_models()
    except ImportError as error:
        pytest.skip(f"torchvision cannot be imported: {error}")
    except RuntimeError:
        # The build for CUDA beside a torch without it: its operators are not there to be
        # described to torch. The models need none of them.
        forget_torchvision()
        try:
            library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
            for name in ("nms", "qnms"):
                schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                library.define(schema)  # type: ignore[no-untyped-call]
            found = import_models()
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"torchvision does not fit torch {torch.__version__}: {error}")
    yield found
    if library is not None:
        # The operators exist no longer than this object.
        del library
        forget_torchvision()


def import_models() -> ModuleType:
    with warnings.catch_warnings():
        # Its decoders for images may lack their libraries; they are not used here.
        warnings.filterwarnings("ignore", "Failed to load image Python extension")
        return importlib.import_module("torchvision.models")


def forget_torchvision() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]


def of_vgg16(model: Any) -> dict[str, nn.Module]:
    """Rectifiers are counted within their block, which ends with a pooling."""
    found: dict[str, nn.Module] = {}
    block, number = 1, 0
    for module in model.features:
        if isinstance(module, nn.ReLU):
            number += 1
            found[f"relu{block}_{number}"] = module
        elif isinstance(module, nn.MaxPool2d):
            found[f"pool{block}"] = module
            block, number = block + 1, 0
    return found


def of_squeezenet(model: Any) -> dict[str, nn.Module]:
    """The first fire module is the second layer with parameters."""
    fires = [module for module in model.features if type(module).__name__ == "Fire"]
    return {f"fire{number}": fire for number, fire in enumerate(fires, 2)}


def of_resnet101(model: Any) -> dict[str, nn.Module]:
    return {f"layer{number}": getattr(model, f"layer{number}") for number in (1, 2, 3, 4)}


PLACES: dict[str, Callable[[Any], dict[str, nn.Module]]] = {
    "vgg16": of_vgg16,
    "squeezenet1_1": of_squeezenet,
    "resnet101": of_resnet101,
}


def randomise(model: nn.Module) -> None:
    """Parameters and statistics in which every entry matters, and activations of order one."""
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if name.startswith(("classifier.", "fc.")) or value.dtype != torch.float32:
            continue
        spread = torch.rand(value.shape, generator=generator)
        if value.ndim == 4:
            normal = torch.randn(value.shape, generator=generator)
            value.copy_(normal * (2 / value[0].numel()) ** 0.5)
        elif name.endswith(("bias", "running_mean")):
            value.copy_(spread - 0.5)
        else:
            # A third where a residual block adds to its input, else they grow without bound.
            value.copy_((0.5 + spread) * (0.3 if name.endswith("bn3.weight") else 1.0))


def activations(model: nn.Module, places: dict[str, nn.Module], images: Tensor) -> Activations:
    """What each of `places` gives, before what follows changes it in place."""
    found: Activations = {}

    def keep(layer: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            found[layer] = output.clone()

        return hook

    for layer, module in places.items():
        module.register_forward_hook(keep(layer))
    with torch.inference_mode():
        model(images)
    return found


@pytest.mark.parametrize("name", list(PLACES))
def test_the_entries_are_those_of_torchvision(name: str, models: ModuleType) -> None:
    with torch.device("meta"):
        whole = getattr(models, name)(weights=None).state_dict()
    theirs = {
        key: value.shape
        for key, value in whole.items()
        if not key.startswith(("classifier.", "fc.")) and not key.endswith("num_batches_tracked")
    }
    ours = {key: value.shape for key, value in build_trunk(name).state_dict().items()}
    assert ours == theirs
    assert TRUNKS[name].shapes() == theirs


@pytest.mark.parametrize("name", list(PLACES))
def test_every_layer_is_that_of_torchvision(name: str, models: ModuleType) -> None:
    # Of few classes: the classifier of VGG16 is drawn anew each time, and not looked at.
    model = getattr(models, name)(weights=None, num_classes=2).eval()
    randomise(model)
    images = torch.randn(2, 3, 97, 131, generator=torch.Generator().manual_seed(1))
    places = PLACES[name](model)
    expected = activations(model, places, images)
    assert places.keys() >= set(TRUNKS[name].layers)

    trunk = build_trunk(name, "+".join(TRUNKS[name].layers))
    trunk.load(model.state_dict())
    with torch.inference_mode():
        loaded = trunk.maps(images)
        prepared = trunk.prepare(torch.device("cpu"), torch.float32).maps(images)
    for found in (loaded, prepared):
        for layer, features in zip(TRUNKS[name].layers, found, strict=True):
            scale = float(expected[layer].abs().max())
            assert scale > 0.1
            torch.testing.assert_close(features, expected[layer], rtol=1e-4, atol=1e-5 * scale)
