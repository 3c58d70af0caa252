from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.backbones import build_trunk
from engine.errors import InvalidOption
from engine.training.batch_norm import Normalised, can_normalise


@pytest.mark.parametrize(("name", "layer"), [("vgg_lite", None), ("vgg16", "relu2_2")])
def test_the_folded_trunk_does_what_the_trained_one_does(name: str, layer: str | None) -> None:
    torch.manual_seed(0)
    trunk = build_trunk(name, layer)
    student = Normalised(trunk)
    images = torch.randn(4, 3, 48, 64)
    for _ in range(3):  # statistics other than those at the start
        student(images)
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    student.eval()
    trunk.load(student.folded())
    torch.testing.assert_close(trunk(images), student(images), rtol=1e-3, atol=1e-4)


def test_equal_seeds_begin_equal() -> None:
    trunk = build_trunk("vgg_lite")
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(Normalised(trunk).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_trunk_with_branches_cannot_begin_from_scratch() -> None:
    assert can_normalise(build_trunk("vgg16"))
    assert not can_normalise(build_trunk("squeezenet1_1"))
    assert not can_normalise(build_trunk("resnet101", "layer1"))
    with pytest.raises(InvalidOption, match="squeezenet1_1 is no plain chain"):
        Normalised(build_trunk("squeezenet1_1"))
