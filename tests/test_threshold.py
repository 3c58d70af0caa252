from __future__ import annotations

import pytest
import torch

from engine.backbones import build_trunk
from engine.backbones.untrained import untrained_state
from engine.errors import InvalidOption
from engine.training.threshold import with_threshold


def test_activations_below_the_threshold_are_cut_off_and_the_others_lowered() -> None:
    trunk = build_trunk("vgg_lite", "relu3").eval()
    trunk.load(untrained_state("vgg_lite"))
    images = torch.randn(5, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    before = trunk(images).detach()
    means = before.transpose(0, 1).flatten(1).mean(dim=1)
    state = with_threshold(trunk, [images[:2], images[2:]], 1.5)
    raised = build_trunk("vgg_lite", "relu3").eval()
    raised.load_state_dict(state)
    expected = (before - 1.5 * means[None, :, None, None]).clamp_min(0)
    torch.testing.assert_close(raised(images), expected, rtol=1e-4, atol=1e-5)
    assert (expected > 0).float().mean() < (before > 0).float().mean()


def test_a_threshold_of_zero_changes_nothing() -> None:
    trunk = build_trunk("vgg_lite", "relu2").eval()
    trunk.load(untrained_state("vgg_lite"))
    state = with_threshold(trunk, [torch.randn(1, 3, 32, 32)], 0.0)
    assert all(torch.equal(state[name], value) for name, value in trunk.state_dict().items())


@pytest.mark.parametrize("layer", ["fire5", None])
def test_a_trunk_that_does_not_end_with_a_rectifier_is_refused(layer: str | None) -> None:
    with pytest.raises(InvalidOption, match=r"squeezenet1_1 .* does not end with a rectifier"):
        with_threshold(build_trunk("squeezenet1_1", layer), [torch.zeros(1, 3, 32, 32)], 1.0)


def test_means_need_images() -> None:
    with pytest.raises(ValueError, match="no images"):
        with_threshold(build_trunk("vgg_lite", "relu2"), [], 1.0)
