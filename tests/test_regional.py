from __future__ import annotations

import pytest
import torch

from engine.pooling.regional import rmac, rmac_regions


@pytest.mark.parametrize(
    ("size", "count"),
    [((24, 32, 3), 20), ((24, 32, 2), 8), ((600, 800, 2), 8), ((512, 512, 2), 5)],
)
def test_grids_have_the_known_number_of_regions(size: tuple[int, int, int], count: int) -> None:
    assert len(rmac_regions(*size)) == count
    height, width, levels = size
    turned = {(left, top, side) for top, left, side in rmac_regions(width, height, levels)}
    assert turned == set(rmac_regions(height, width, levels))


@pytest.mark.parametrize("size", [(24, 32), (7, 19), (1, 1), (1, 9), (13, 2)])
def test_regions_lie_within_the_map_and_reach_its_ends(size: tuple[int, int]) -> None:
    regions = rmac_regions(*size)
    assert all(top >= 0 and left >= 0 and side >= 1 for top, left, side in regions)
    assert max(top + side for top, _, side in regions) == size[0]
    assert max(left + side for _, left, side in regions) == size[1]
    assert min(top for top, _, _ in regions) == min(left for _, left, _ in regions) == 0


@pytest.mark.parametrize("whole_map", [True, False])
def test_it_is_the_sum_over_regions(whole_map: bool) -> None:
    features = torch.rand(2, 5, 6, 9, dtype=torch.float64)
    regions = [(top, left, side, side) for top, left, side in rmac_regions(6, 9)]
    regions += [(0, 0, 6, 9)] * whole_map
    for image in range(2):
        total = torch.zeros(5, dtype=torch.float64)
        for top, left, height, width in regions:
            maximum = torch.tensor(
                [
                    max(
                        float(features[image, channel, row, column])
                        for row in range(top, top + height)
                        for column in range(left, left + width)
                    )
                    for channel in range(5)
                ],
                dtype=torch.float64,
            )
            total += maximum / maximum.square().sum().sqrt()
        torch.testing.assert_close(rmac(features, whole_map=whole_map)[image], total)


def test_a_black_map_gives_zeros_and_no_level_is_an_error() -> None:
    assert rmac(torch.zeros(1, 3, 1, 1)).count_nonzero() == 0
    with pytest.raises(ValueError, match="levels 0"):
        rmac_regions(4, 4, 0)
