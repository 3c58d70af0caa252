from __future__ import annotations

import pytest
import torch

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
