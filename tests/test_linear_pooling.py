from __future__ import annotations

import pytest
import torch

from engine.errors import InvalidOption
from engine.pooling import POOLINGS, build_pooling
from engine.pooling.linear import gem, mac, spoc


def test_each_value_is_that_of_its_own_channel() -> None:
    features = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    for image in range(2):
        for channel in range(3):
            values = features[image, channel].flatten().tolist()
            assert mac(features)[image, channel] == max(values)
            assert spoc(features)[image, channel].item() == pytest.approx(sum(values) / 20)
            cubes = sum(value**3 for value in values) / 20
            assert gem(features)[image, channel].item() == pytest.approx(cubes ** (1 / 3))


def test_gem_goes_from_mean_to_maximum() -> None:
    features = torch.rand(1, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(gem(features, p=1.0), spoc(features))
    torch.testing.assert_close(gem(features, p=500.0), mac(features), rtol=1e-2, atol=0)


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("shape", [(2, 6, 3, 5), (1, 6, 1, 1)])
def test_every_pooling_is_finite_and_independent_of_the_batch(
    name: str, shape: tuple[int, ...], device: torch.device
) -> None:
    pooling = build_pooling(name, 6).to(device)
    features = (torch.randn(shape, device=device) - 0.5).relu()
    pooled = pooling(features)
    assert pooled.shape == (shape[0], pooling.dim)
    assert pooled.isfinite().all()
    torch.testing.assert_close(pooled[:1], pooling(features[:1]))
    assert pooling(torch.zeros(shape, device=device)).isfinite().all()


def test_an_unknown_pooling_is_named_with_the_known_ones() -> None:
    with pytest.raises(InvalidOption, match=r"'fancy' is unknown; choose from mac, spoc"):
        build_pooling("fancy", 6)
    with pytest.raises(InvalidOption, match="does not take"):
        build_pooling("mac", 6, p=2)
