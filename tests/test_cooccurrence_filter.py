from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.cooccurrence import direct_filter
from engine.cooccurrence_filter import load_filter
from engine.errors import InvalidOption


def made(channels: int = 3, size: int = 5) -> torch.Tensor:
    return torch.randn(channels, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_a_safetensors_file_is_read_whatever_its_tensor_is_called(tmp_path: Path) -> None:
    weight, path = made(), tmp_path / "filter.safetensors"
    save_file({"cooc.kernel": weight}, path)
    torch.testing.assert_close(load_filter(path), weight, rtol=0, atol=0)
    save_file({"other": torch.zeros(2), "weight": weight.half()}, path)
    loaded = load_filter(path, channels=3)
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(loaded, weight.half().float(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npy_file_of_any_precision_and_layout_is_read(
    tmp_path: Path, kind: str, order: str
) -> None:
    weight, path = made(), tmp_path / "filter.npy"
    values = np.asarray(weight.numpy(), dtype=kind, order="F" if order == "F" else "C")
    np.save(path, values)
    loaded = load_filter(path)
    assert loaded.dtype == torch.float32
    assert loaded.is_contiguous()
    np.testing.assert_array_equal(loaded.numpy(), values.astype(np.float32))
    loaded += 1  # our own copy, not the mapped file
    np.testing.assert_array_equal(np.load(path), values)


@pytest.mark.parametrize(
    "shape", [(3, 3), (3, 4, 5, 5), (3, 3, 5, 3), (3, 3, 4, 4), (1, 1, 3, 3), (2, 2, 67, 67)]
)
def test_other_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "filter.npy", np.zeros(shape, np.float32))
    save_file({"weight": torch.zeros(shape)}, tmp_path / "filter.safetensors")
    for name in ("filter.npy", "filter.safetensors"):
        with pytest.raises(InvalidOption, match=r"its shape is \(.*2r\+1"):
            load_filter(tmp_path / name)


def test_the_channels_of_the_trunk_are_held_against_it(tmp_path: Path) -> None:
    np.save(tmp_path / "filter.npy", direct_filter(4, 1).numpy())
    with pytest.raises(InvalidOption, match="maps of 4 channels, this trunk's have 512"):
        load_filter(tmp_path / "filter.npy", channels=512)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    values = made().double().numpy().copy()
    values[1, 2, 3, 4] = bad
    np.save(tmp_path / "filter.npy", values)
    with pytest.raises(InvalidOption, match="not finite"):
        load_filter(tmp_path / "filter.npy")


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    trap, path = tmp_path / "sprung", tmp_path / "filter.npy"
    np.save(path, np.array([Trap(trap)], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidOption, match="cannot read the filter"):
        load_filter(path)
    path.write_bytes(pickle.dumps(Trap(trap)))
    with pytest.raises(InvalidOption, match="cannot read the filter"):
        load_filter(path)
    assert not trap.exists()


def test_files_that_are_no_filters_are_named(tmp_path: Path) -> None:
    for name, content in (("a.npy", b""), ("b.npy", b"PK\x05\x06" + bytes(18)), ("c.npy", b"x")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidOption, match=name):
            load_filter(tmp_path / name)
    (tmp_path / "d.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(InvalidOption, match=r"d\.safetensors"):
        load_filter(tmp_path / "d.safetensors")
    with pytest.raises(InvalidOption, match=r"no filter file .*e\.npy"):
        load_filter(tmp_path / "e.npy")
    with pytest.raises(InvalidOption, match=r"must be a \.safetensors or a \.npy"):
        load_filter(tmp_path / "f.pth")
    np.save(tmp_path / "g.npy", np.zeros((2, 2, 3, 3), np.complex64))
    with pytest.raises(InvalidOption, match="complex64, not real numbers"):
        load_filter(tmp_path / "g.npy")
    save_file({"a": made(), "b": made()}, tmp_path / "h.safetensors")
    with pytest.raises(InvalidOption, match="one tensor alone; it has a, b"):
        load_filter(tmp_path / "h.safetensors")
    save_file({"a": torch.zeros(2, 2, 3, 3, dtype=torch.int64)}, tmp_path / "i.safetensors")
    with pytest.raises(InvalidOption, match="not floats"):
        load_filter(tmp_path / "i.safetensors")


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
def test_a_damaged_header_is_a_plain_refusal(tmp_path: Path, kind: str) -> None:
    """NumPy parses headers as Python, and raises what a parser does."""
    path, weight = tmp_path / f"filter.{kind}", made(2, 3)
    if kind == "npy":
        np.save(path, weight.numpy())
    else:
        save_file({"weight": weight}, path)
    content, random = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for place in random.integers(0, 130, size=3):
            damaged[place] = random.choice(list(b"()[]{}'\",:0123456789- \nOLf<>\xff"))
        path.write_bytes(damaged)
        try:
            load_filter(path)
        except InvalidOption:
            refused += 1
    assert refused > 200


def test_a_file_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "filter.npy"
    np.save(path, made().numpy())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InvalidOption, match="cannot read the filter"):
        load_filter(path)
