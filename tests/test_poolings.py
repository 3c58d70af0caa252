from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.errors import InvalidOption
from engine.pooling import POOLINGS, Pooling, build_pooling, format_spec, parse_spec
from engine.pooling.bilinear import CompactBilinear
from engine.pooling.linear import RELATIVE_EPS, chco_sct, crow, gem, spoc, ucrow
from engine.pooling.masks import MASKS, apply_mask
from engine.postprocess import l2_normalize, signed_sqrt
from tests import pooling_loops as loops

SHAPES = [(5, 4, 7), (6, 7, 2), (3, 1, 1), (4, 1, 6), (3, 5, 5)]
"""(C, H, W)"""

MORE = [
    "gem:p=4.5",
    "chco_sct:radius=1",
    "chco_sct:cooccurrence=learned,radius=1",
    "rmac:levels=2,whole_map=no",
    "bp_ac:cooccurrence=learned,radius=2",
    "cbp_aa:dim=50",
    "cbp_ac:dim=37,seed=2,radius=1",
]
SPECS = [*POOLINGS, *MORE]


def made(*shape: int, seed: int = 0) -> Tensor:
    """Activations with zeros in them, float64."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) - 0.2).relu()


def build(spec: str, channels: int) -> Pooling:
    """A pooling in float64; a learned filter is made different from the direct one."""
    pooling = build_pooling(spec, channels).double()
    with torch.no_grad():
        for parameter in pooling.parameters():
            generator = torch.Generator().manual_seed(1)
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).double())
    return pooling


def by_loops(pooling: Pooling, name: str, a: loops.Map) -> list[float]:
    """What the equations say, for one (C, H, W) map."""
    options = pooling.options
    x = a * loops.mask(str(options.get("mask", "none")), *a.shape[1:])
    if name == "mac":
        return loops.mac(x)
    if name == "spoc":
        return loops.spoc(x)
    if name == "gem":
        return loops.gem(x, float(options["p"]))
    if name == "ucrow":
        return loops.ucrow(x)
    if name == "crow":
        return loops.crow(a, x)
    if name == "rmac":
        return loops.rmac(x, int(options["levels"]), bool(options["whole_map"]))
    if name.endswith("aa"):
        other = a
    elif options.get("cooccurrence") == "learned":
        other = learned(a, next(pooling.parameters()).detach().numpy())
    else:
        other = loops.cooccurrence(a, int(options["radius"]))
    if name == "chco_sct":
        return loops.chco_sct(a, x, other, RELATIVE_EPS)
    products = loops.bilinear(x, other)
    if name.startswith("bp"):
        return [value for row in products for value in row]
    sketch = next(module for module in pooling.modules() if isinstance(module, CompactBilinear))
    h1, s1, h2, s2 = (
        [int(value) for value in getattr(sketch, name_)] for name_ in ("h1", "s1", "h2", "s2")
    )
    return loops.sketch(products, h1, s1, h2, s2, pooling.dim)


def learned(a: loops.Map, weight: loops.Map) -> loops.Map:
    """Eq 6 with any filter, position by position."""
    channels, height, width = a.shape
    r = weight.shape[-1] // 2
    active = a > a.mean()
    out = np.zeros_like(a)
    for k in range(channels):
        for i, j in loops.places(a):
            for w in range(channels):
                for u in range(max(0, i - r), min(height, i + r + 1)):
                    for v in range(max(0, j - r), min(width, j + r + 1)):
                        if active[k, i, j] and active[w, u, v]:
                            out[k, i, j] += weight[k, w, u - i + r, v - j + r] * a[w, u, v]
    return np.asarray(out / (channels - 1))


def test_the_loops_for_learned_and_direct_filters_agree() -> None:
    a = made(4, 5, 6).numpy()
    ones = np.ones((4, 4, 5, 5)) * (1 - np.eye(4))[:, :, None, None]
    np.testing.assert_allclose(learned(a, ones), loops.cooccurrence(a, 2), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spec", [spec for spec in SPECS if "max" not in spec])
def test_every_pooling_is_its_equation(spec: str, shape: tuple[int, int, int]) -> None:
    pooling = build(spec, shape[0])
    features = made(2, *shape)
    name, _ = parse_spec(spec)
    for image, pooled in zip(features, pooling(features), strict=True):
        expected = torch.tensor(by_loops(pooling, name, image.numpy()), dtype=torch.float64)
        torch.testing.assert_close(pooled, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mask", [mask for mask in MASKS if mask != "none"])
@pytest.mark.parametrize("name", POOLINGS)
def test_every_pooling_takes_a_mask(name: str, mask: str) -> None:
    pooling = build(f"{name}:mask={mask}", 4)
    features = made(1, 4, 6, 5)
    expected = torch.tensor(by_loops(pooling, name, features[0].numpy()), dtype=torch.float64)
    torch.testing.assert_close(pooling(features)[0], expected, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(
        l2_normalize(pooling(features)), l2_normalize(build(name, 4)(features))
    )


@pytest.mark.parametrize("size", [(4, 7), (7, 4), (1, 1), (1, 6), (5, 5)])
@pytest.mark.parametrize("name", MASKS)
def test_masks_are_their_formulas(name: str, size: tuple[int, int]) -> None:
    ones = torch.ones(1, 1, *size, dtype=torch.float64)
    expected = torch.from_numpy(loops.mask(name, *size))
    torch.testing.assert_close(apply_mask(ones, name)[0, 0], expected, rtol=1e-6, atol=1e-7)
    assert float(apply_mask(ones, name).max()) == pytest.approx(1)


@pytest.mark.parametrize("spec", [*SPECS, "cbp_ac:cooccurrence=max"])
@pytest.mark.parametrize("shape", [(3, 5), (1, 1)])
def test_every_pooling_is_finite_and_independent_of_the_batch(
    spec: str, shape: tuple[int, int], device: torch.device
) -> None:
    pooling = build_pooling(spec, 6).to(device)
    features = made(3, 6, *shape).float().to(device)
    features[1] *= 100
    pooled = pooling(features)
    assert pooled.shape == (3, pooling.dim)
    assert pooled.isfinite().all()
    for image in range(3):
        torch.testing.assert_close(pooled[image : image + 1], pooling(features[image : image + 1]))
    assert pooling(torch.zeros(2, 6, *shape, device=device)).isfinite().all()


@pytest.mark.parametrize("spec", [*SPECS, "cbp_ac:cooccurrence=max"])
def test_black_maps_give_descriptors_of_zeros(spec: str) -> None:
    pooled = build_pooling(spec, 6)(torch.zeros(1, 6, 3, 5)).detach()
    # GeM clamps at its epsilon, so that its root has a derivative.
    assert float(pooled.abs().max()) <= (1.1e-6 if spec.startswith("gem") else 0.0)


@pytest.mark.parametrize("spec", SPECS)
def test_gradients_are_those_of_finite_differences(spec: str) -> None:
    pooling = build(spec.replace("cbp_aa", "cbp_aa:dim=20") if spec == "cbp_aa" else spec, 3)
    features = made(1, 3, 4, 3, seed=3)
    parameters = list(pooling.parameters())
    if parameters:  # what is learned
        pooling.requires_grad_(True)
        keys = [name for name, _ in pooling.named_parameters()]

        def with_weights(*values: Tensor) -> Tensor:
            state = dict(zip(keys, values, strict=True))
            pooled: Tensor = torch.func.functional_call(pooling, state, (features,))
            return pooled[:, :40]

        weights = tuple(p.detach().clone().requires_grad_() for p in parameters)
        assert torch.autograd.gradcheck(with_weights, weights, eps=1e-7, atol=1e-5)
    # Away from the kinks: activations of zero, equal maxima.
    positive = (features + 0.05 + 0.05 * torch.rand_like(features)).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: pooling(a)[:, :40], (positive,), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if not spec.startswith("gem")])
def test_zeros_in_a_map_leave_gradients_finite(spec: str) -> None:
    features = made(1, 3, 4, 3).requires_grad_()
    build(spec, 3)(features).sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    black = torch.zeros(1, 3, 4, 3, requires_grad=True)
    build_pooling(spec, 3)(black).sum().backward()
    assert black.grad is not None
    assert black.grad.isfinite().all()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("spec", [*SPECS, "bp_ac:cooccurrence=max"])
def test_shares_of_positions_add_up(spec: str, mask: str) -> None:
    separator = "," if ":" in spec else ":"
    pooling = build(f"{spec}{separator}mask={mask}", 5)
    features = made(2, 5, 4, 7)
    target = torch.randn(2, pooling.dim, dtype=torch.float64)
    shares = pooling.shares(features, target)
    assert shares.shape == (2, 4, 7)
    torch.testing.assert_close(shares.sum(dim=(1, 2)), (pooling(features) * target).sum(dim=1))


@pytest.mark.parametrize("p", [1.0, 3.0, 6.5, 30.0, 100.0])
def test_a_mean_of_any_power_stays_in_single_precision(p: float) -> None:
    features = 100 * made(2, 3, 4, 5).float()
    features[0, 1] = 0
    ours = build_pooling(f"gem:p={p:g}", 3)(features)
    assert ours.isfinite().all()
    expected = torch.tensor([loops.gem(image.double().numpy(), p) for image in features])
    torch.testing.assert_close(ours, expected.float(), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("p", [0.5, 1.0, 3.0, 4.0])
def test_low_powers_are_to_the_bit_those_of_the_plain_equation(p: float) -> None:
    features = made(2, 3, 4, 5).float()
    plain = features.clamp(min=1e-6).pow(p).mean(dim=(2, 3)).pow(1.0 / p)
    assert torch.equal(gem(features, p), plain)


@pytest.mark.parametrize("p", [20.0, 100.0])
def test_shares_of_a_high_mean_are_those_of_double_precision(p: float) -> None:
    features = 50 * made(1, 3, 4, 5).float()
    powers = features[0].double().clamp(min=1e-6).pow(p)
    total = powers.sum(dim=(1, 2), keepdim=True)
    expected = (powers / total * (total / 20).pow(1 / p)).sum(dim=0)
    shares = build_pooling(f"gem:p={p:g}", 3).shares(features, torch.ones(1, 3))
    torch.testing.assert_close(shares[0], expected.float(), rtol=1e-4, atol=1e-5)


def test_shares_of_a_high_mean_over_a_dead_channel_are_finite() -> None:
    features = made(1, 3, 4, 5).float()
    features[0, 1] = 0
    pooling = build_pooling("gem:p=20", 3)
    shares = pooling.shares(features, torch.ones(1, 3))
    torch.testing.assert_close(shares.sum(dim=(1, 2)), pooling(features).sum(dim=1))


def test_a_position_has_the_share_that_its_activations_have() -> None:
    features = made(1, 4, 3, 5)
    target = torch.randn(1, 4, dtype=torch.float64)
    shares = build("ucrow", 4).shares(features, target)
    torch.testing.assert_close(shares[0, 1, 2], features[0, :, 1, 2] @ target[0])
    pairs = torch.randn(1, 16, dtype=torch.float64)
    shares = build("bp_aa", 4).shares(features, pairs)
    position = features[0, :, 1, 2]
    torch.testing.assert_close(shares[0, 1, 2], position @ pairs.reshape(4, 4) @ position)


def test_full_and_compact_bilinear_pooling_agree_on_average() -> None:
    x, y = made(1, 6, 3, 4), made(1, 6, 3, 4, seed=1)
    full = build("bp_ac", 6)
    exact = float((full(x) * full(y)).sum())
    sketches = [build(f"cbp_ac:dim=512,seed={8 * seed}", 6) for seed in range(60)]
    estimates = [float((sketch(x) * sketch(y)).sum()) for sketch in sketches]
    assert np.mean(estimates) == pytest.approx(exact, rel=0.05)


def test_the_centre_prior_is_a_mask() -> None:
    features = made(2, 3, 5, 8)
    masked = build("spoc:mask=spct", 3)(features)
    torch.testing.assert_close(spoc(features, centre_prior=True), masked)


def test_functions_are_what_the_modules_compute() -> None:
    features = made(2, 4, 5, 3)
    torch.testing.assert_close(ucrow(features), build("ucrow", 4)(features))
    torch.testing.assert_close(crow(features), build("crow", 4)(features))
    torch.testing.assert_close(chco_sct(features), build("chco_sct", 4)(features))


def test_the_scale_of_the_activations_does_not_matter() -> None:
    features = made(1, 6, 5, 8)
    for name in POOLINGS:
        pooling = build(name, 6)
        small, large = (l2_normalize(pooling(features * factor)) for factor in (1.0, 1000.0))
        torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-4)


# R-MAC with the whitening of its regions


def test_a_whitening_has_to_be_fitted_and_then_whitens_the_regions() -> None:
    pooling = build_pooling("rmac:whiten=yes,levels=2", 5)
    features = made(40, 5, 6, 9).float()
    assert pooling.unfitted
    with pytest.raises(InvalidOption, match="has to be fitted"):
        pooling(features)
    samples = pooling.samples(features).flatten(0, 1)  # type: ignore[operator]
    pooling.fit(samples)  # type: ignore[operator]
    assert not pooling.unfitted
    mean = samples.double().mean(dim=0)
    covariance = torch.cov(samples.double().T, correction=0)
    values, vectors = torch.linalg.eigh(covariance)
    whitened = (samples.double() - mean) @ vectors / values.sqrt()  # up to a rotation
    expected = l2_normalize(whitened).reshape(40, -1, 5).sum(dim=1)
    ours = pooling(features).double()
    # Inner products do not see the rotation.
    torch.testing.assert_close(ours @ ours.T, expected @ expected.T, rtol=1e-3, atol=1e-3)


def test_a_fitted_whitening_is_restored_to_the_bit_and_enters_the_digest() -> None:
    features = made(30, 4, 5, 7).float()
    first, second = (build_pooling("rmac:whiten=yes", 4) for _ in range(2))
    before = second.digest()
    first.fit(first.samples(features).flatten(0, 1))  # type: ignore[operator]
    second.restore(first.state_dict())
    assert torch.equal(first(features), second(features))
    assert first.digest() == second.digest() != before


def test_shares_of_whitened_regions_add_up() -> None:
    pooling = build_pooling("rmac:whiten=yes", 4).double()
    features = made(30, 4, 5, 7)
    pooling.fit(pooling.samples(features).flatten(0, 1))  # type: ignore[operator]
    pooling = pooling.double()
    target = torch.randn(30, pooling.dim, dtype=torch.float64)
    shares = pooling.shares(features, target)
    torch.testing.assert_close(shares.sum(dim=(1, 2)), (pooling(features) * target).sum(dim=1))


# Several layers


def test_several_layers_are_concatenated_with_their_lengths_as_weights() -> None:
    pooling = build_pooling("gem", (3, 5))
    maps = [made(2, 3, 8, 6).float(), made(2, 5, 4, 3).float()]
    parts = [l2_normalize(build_pooling("gem", m.shape[1])(m)) * m.shape[1] for m in maps]
    assert pooling.dim == 8
    torch.testing.assert_close(pooling(maps), torch.cat(parts, dim=1))


def test_layers_of_second_order_poolings_are_rooted_one_by_one() -> None:
    maps = [made(1, 3, 4, 2).float(), made(1, 4, 2, 1).float()]
    pooled = build_pooling("bp_aa", (3, 4))(maps)
    first = l2_normalize(signed_sqrt(build_pooling("bp_aa", 3)(maps[0]))) * 9
    torch.testing.assert_close(pooled[:, :9], first)


# Names and options


def test_specs_are_read_and_written() -> None:
    name, options = parse_spec(" cbp_ac: dim=4096, mask=sptd,root=no ")
    assert (name, options) == ("cbp_ac", {"dim": 4096, "mask": "sptd", "root": False})
    assert parse_spec(format_spec(name, options)) == (name, options)
    assert parse_spec("gem:p=2.5") == ("gem", {"p": 2.5})
    assert format_spec("mac", {}) == "mac"


@pytest.mark.parametrize("spec", [*SPECS, "spoc:mask=spct,root=yes", "cbp_ac:root=no"])
def test_a_pooling_is_built_again_from_its_options(spec: str) -> None:
    pooling = build_pooling(spec, 4)
    again = build_pooling(format_spec(parse_spec(spec)[0], pooling.options), 4)
    assert again.options == pooling.options
    assert again.digest() == pooling.digest()
    assert again.signed_root == pooling.signed_root


def test_options_that_most_poolings_share_are_recorded_only_where_they_are_chosen() -> None:
    assert build_pooling("cbp_ac", 4).options == {"dim": 8192, "seed": 0, "radius": 4}
    assert build_pooling("gem", 4).options == {"p": 3.0}
    assert build_pooling("spoc", 4).options == {}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fancy", r"'fancy' is unknown; choose from mac, spoc"),
        ("mac:p=2", r"'mac' has no option 'p'; it has mask, root"),
        ("gem:p", "'p' is no option"),
        ("gem:p=", "'p=' is no option"),
        ("gem:p=2,p=3", "'p' twice"),
        ("gem:p=high", "p is 'high', not of type float"),
        ("gem:p=0", "p is 0"),
        ("gem:p=nan", "p is nan"),
        ("cbp_ac:dim=2.5", r"dim is 2\.5, not of type int"),
        ("cbp_ac:dim=0", "dim is 0"),
        ("cbp_ac:dim=99999999999", "dim is 99999999999"),
        ("cbp_ac:radius=-1", "radius is -1"),
        ("cbp_ac:seed=-9", "seed"),
        ("cbp_ac:cooccurrence=psychic", "cooccurrence is 'psychic'; choose from direct"),
        ("spoc:mask=left", "mask is 'left'; choose from none, sptd, spct"),
        ("rmac:levels=0", "levels is 0"),
        ("rmac:whiten=3", "whiten is 3, not of type bool"),
        ("mac:channels=3", "no option 'channels'"),
    ],
)
def test_a_wrong_spec_is_named_with_the_remedy(spec: str, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        build_pooling(spec, 6)


def test_wrong_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match="not the tensors of this pooling"):
        build_pooling("bp_ac:cooccurrence=learned", 4).restore({"other": torch.zeros(3)})
