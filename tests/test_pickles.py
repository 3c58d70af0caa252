from __future__ import annotations

import builtins
import contextlib
import copyreg
import os
import pickle
import random
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import InvalidOption
from engine.evaluation.datasets import pickles
from engine.evaluation.datasets.pickles import read_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], object]:
    """What is read from a file of these bytes."""
    file = tmp_path / "gnd_made.pkl"

    def read_bytes(data: bytes) -> object:
        file.write_bytes(data)
        return read_pickle(file)

    return read_bytes


Read = Callable[[bytes], object]


def plain(value: Any) -> Any:
    """What a value is read as: tuples and arrays as lists, NumPy numbers as numbers."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


# Good ones

VALUES: dict[str, Any] = {
    "text": ["", "all_souls_000013", "Türm \u2603 \U0001f600 \\u0041 'quoted' \\ \n", "x" * 300],
    "numbers": [0, 1, -1, 255, 256, 65_536, -(2**31), 2**31, 2**63, -(2**70), 1.5, -0.0, 1e300],
    "constants": [None, True, False],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((1,), [2])],
    "lists": [[], [[]], list(range(1200))],
    "dictionaries": {"empty": {}, "one": {"a": 1}, "many": {str(n): n for n in range(1200)}},
    "bytes": [b"", b"abc", bytes(range(256))],
    "arrays": [
        np.arange(5),
        np.array([], np.int64),
        np.array([1, -2], np.int8),
        np.array([300, 2], ">u2"),
        np.array([[1.5, 2, 3], [4, 5, 6]]),
        np.asfortranarray(np.arange(6, dtype=np.uint32).reshape(2, 3)),
        np.array([True, False]),
        np.array(["ab", "c", "Türm"]),
        np.array([b"ab", b"c"]),
        np.array(7.5),
        np.arange(10)[::2],
    ],
    "scalars": [np.int64(-5), np.float32(0.5), np.float64(1e-300), np.bool_(True), np.uint8(200)],
    "ground truth": {
        "imlist": ["a_000001", "b_000002"],
        "qimlist": ("q",),
        "gnd": [{"easy": np.array([0]), "hard": [], "junk": [np.int32(1)], "bbx": (1.5, 2, 30, 4)}],
    },
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", list(VALUES))
def test_what_was_pickled_is_read(read: Read, name: str, protocol: int) -> None:
    value = VALUES[name]
    assert read(pickle.dumps(value, protocol)) == plain(value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_modules_of_older_numpy_are_known(read: Read, protocol: int) -> None:
    value = [np.arange(5), np.int64(3)]
    older = pickle.dumps(value, protocol).replace(b"numpy._core.", b"numpy.core.")
    if protocol >= 4:  # where the length goes before a text
        for name in (b"numpy.core.numeric", b"numpy.core.multiarray"):
            older = older.replace(bytes([len(name) + 1]) + name, bytes([len(name)]) + name)
    assert b"numpy.core" in older
    assert b"_core" not in older
    assert read(older) == plain(value)


def test_what_is_used_twice_is_there_twice(read: Read) -> None:
    array, entry = np.arange(3), {"a": 1}
    value = [array, array, entry, entry, "text", "text"]
    assert read(pickle.dumps(value)) == plain(value)


# As Python 2 writes them: its `str` is text to us, and the bytes of an array are such a `str`.
PYTHON_2 = {
    "text, protocol 0": b"(dp0\nS'imlist'\np1\n(lp2\nS'a\\xe9\\n'\np3\naVb\\u2603\np4\nasS'n'\np5\n"
    b"L7L\nsS'yes'\np6\nI01\nsS'f'\np7\nF1.5\ns.",
    "text, protocol 2": b"\x80\x02}q\x00U\x06imlistq\x01]q\x02(U\x03a\xe9\nq\x03X\x03\x00\x00\x00"
    b"\xe2\x98\x83q\x04es.",
    "long text": b"\x80\x02]q\x00T\x2c\x01\x00\x00" + b"\xe9" * 300 + b"q\x01a.",
    "array, protocol 2": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\n"
    b"q\x01K\x00\x85q\x02U\x01bq\x03\x87q\x04Rq\x05(K\x01K\x03\x85q\x06cnumpy\ndtype\nq\x07"
    b"U\x02i2q\x08K\x00K\x01\x87q\tRq\n(K\x03U\x01<q\x0bNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    b"K\x00tq\x0cb\x89U\x06\x01\x00\xff\xff\xe9\x00q\rtq\x0eb.",
    "array, protocol 0": b"cnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\n"
    b"tp2\nS'b'\np3\ntp4\nRp5\n(I1\n(I3\ntp6\ncnumpy\ndtype\np7\n(S'i2'\np8\nI0\nI1\ntp9\nRp10\n"
    b"(I3\nS'<'\np11\nNNNI-1\nI-1\nI0\ntp12\nbI00\nS'\\x01\\x00\\xff\\xff\\xe9\\x00'\np13\n"
    b"tp14\nb.",
    "scalar": b"\x80\x02cnumpy.core.multiarray\nscalar\nq\x00cnumpy\ndtype\nq\x01U\x02i8q\x02K\x00"
    b"K\x01\x87q\x03Rq\x04(K\x03U\x01<q\x05NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x06b"
    b"U\x08\x05\x00\x00\x00\x00\x00\x00\x00q\x07\x86q\x08Rq\t.",
}


@pytest.mark.filterwarnings("ignore")  # NumPy warns of the names of its older modules
@pytest.mark.parametrize("name", list(PYTHON_2))
def test_files_of_python_2_are_read(read: Read, name: str) -> None:
    data = PYTHON_2[name]
    expected = plain(pickle.loads(data, encoding="latin1"))
    assert read(data) == expected
    assert expected


def made(draw: random.Random, depth: int = 4) -> Any:
    """A value of lists, tuples, dictionaries and scalars, some of them shared."""
    choice = draw.randrange(9 if depth else 5)
    if choice < 5:
        return draw.choice(
            [
                None,
                draw.random() < 0.5,
                draw.randrange(-(10 ** draw.randrange(1, 20)), 10**12),
                draw.uniform(-1e9, 1e9),
                "".join(chr(draw.choice([0, 10, 39, 92, 65, 233, 8364])) for _ in range(5)),
                np.arange(draw.randrange(4)) * 1000,
                np.float32(draw.random()),
            ]
        )
    parts = [made(draw, depth - 1) for _ in range(draw.randrange(6))]
    parts += parts[:1]
    if choice == 5:
        return tuple(parts)
    if choice == 6:
        return {f"key {number}": part for number, part in enumerate(parts)}
    return parts


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_made_up_values_are_read_as_python_reads_them(read: Read, protocol: int) -> None:
    draw = random.Random(protocol)
    for _ in range(150):
        data = pickle.dumps(made(draw), protocol)
        assert read(data) == plain(pickle.loads(data))


# Hostile ones


class Calls:
    """Pickled as a call."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


class Remembers:
    """What a state is given to when it is loaded."""

    def __setstate__(self, state: str) -> None:
        os.system(state)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def attacks(command: str) -> dict[str, bytes]:
    """Pickles that run `command` when Python loads them."""
    python = f"__import__('os').system({command!r})"
    found = {
        f"os.system, protocol {protocol}": pickle.dumps(Calls(os.system, (command,)), protocol)
        for protocol in PROTOCOLS
    }
    for protocol in (2, 4):
        nested = {"imlist": ["a"], "gnd": [{"easy": Calls(exec, (python,))}]}
        found |= {
            f"eval, protocol {protocol}": pickle.dumps(Calls(eval, (python,)), protocol),
            f"in a list, protocol {protocol}": pickle.dumps(nested, protocol),
            f"state, protocol {protocol}": pickle.dumps(Calls(Remembers, (), command), protocol),
        }
    argument = text(command) + b"\x85R."
    remembers = f"c{__name__}\nRemembers\n".encode()
    return found | {
        "INST": b"(" + text(command) + b"ios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + text(command) + b"o.",
        "NEWOBJ": remembers + b")\x81" + text(command) + b"b.",
        "__newobj__": b"ccopyreg\n__newobj__\n" + remembers + b"\x85R" + text(command) + b"b.",
        "GLOBAL": b"cbuiltins\neval\n" + text(python) + b"\x85R.",
        "GLOBAL of Python 2": b"c__builtin__\neval\n" + text(python) + b"\x85R.",
        "STACK_GLOBAL": b"\x80\x04" + text("os") + text("system") + b"\x93" + argument,
        "a name with dots": b"\x80\x04" + text("os") + text("path.os.system") + b"\x93" + argument,
        "from the memo": b"cos\nsystem\nq\x000h\x00" + argument,
        "thrown away": b"cos\nsystem\n" + text(command) + b"\x85R0N.",
        "after a good value": b"]K\x01acos\nsystem\n" + text(command) + b"\x85Ra.",
        "by getattr": b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n"
        + text("os")
        + b"\x85R"
        + text("system")
        + b"tR"
        + argument,
    }


NAMES = list(attacks(""))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_a_file_asks_for_is_run(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    data = attacks(f"touch {marker}")[name]
    pickle.loads(data)  # the attack is a real one
    assert marker.exists()
    marker.unlink()
    file = tmp_path / "gnd_made.pkl"
    file.write_bytes(data)
    with pytest.raises(InvalidOption, match=r"gnd_made\.pkl is refused: it wants to use '\w+\.\w"):
        read_pickle(file)
    assert not marker.exists()


def test_another_file_is_not_loaded_by_numpy(tmp_path: Path, read: Read) -> None:
    marker, other = tmp_path / "ran", tmp_path / "other.npy"
    content = np.array([Calls(os.system, (f"touch {marker}",))], object)
    np.save(other, content, allow_pickle=True)
    data = b"cnumpy\nload\n(" + text(str(other)) + b"N\x88tR."
    pickle.loads(data)
    assert marker.exists()
    marker.unlink()
    with pytest.raises(InvalidOption, match=r"wants to use 'numpy\.load'"):
        read(data)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy", "load"),
        ("numpy", "fromfile"),
        ("numpy", "memmap"),
        ("numpy.core.numeric", "fromfunction"),
        ("numpy._core.numeric", "fromfunction"),
        ("numpy._core.multiarray", "fromfile"),
        ("numpy.core.multiarray", "array"),
        ("numpy", "ndarray.tofile"),
        ("numpy", "dtype.newbyteorder"),
        ("numpy._core", "multiarray._reconstruct"),
        ("_codecs", "lookup"),
        ("codecs", "encode"),
        ("copyreg", "_reconstructor"),
        ("copy_reg", "_reconstructor"),
        ("copyreg", "__newobj__"),
        ("builtins", "bytearray"),
        ("builtins", "object"),
        ("operator", "attrgetter"),
        ("functools", "partial"),
        ("importlib", "import_module"),
        ("engine.evaluation.datasets.pickled_numpy", "FUNCTIONS"),
        ("posix", "system"),
        ("", ""),
        ("\udcff", "x\0y"),
    ],
)
def test_other_names_are_refused_and_named(read: Read, module: str, name: str) -> None:
    named = f"it wants to use {f'{module}.{name}'!r}"
    written = module.encode("utf-8", "surrogatepass"), name.encode()
    data = b"\x80\x04" + b"".join(b"X" + struct.pack("<I", len(w)) + w for w in written) + b"\x93."
    with pytest.raises(InvalidOption) as raised:
        read(data)
    assert named in str(raised.value)
    assert "nothing of the file was run" in str(raised.value)


def test_a_registered_extension_is_not_reached(tmp_path: Path, read: Read) -> None:
    marker = tmp_path / "ran"
    copyreg.add_extension("os", "system", 240)
    try:
        data = b"\x82\xf0" + text(f"touch {marker}") + b"\x85R."
        pickle.loads(data)  # Python would, and from now on without asking `find_class`
        assert marker.exists()
        marker.unlink()
        for opcode in (b"\x82\xf0", b"\x83\xf0\0", b"\x84\xf0\0\0\0"):
            with pytest.raises(InvalidOption, match="which no plain data needs"):
                read(opcode + text(f"touch {marker}") + b"\x85R.")
    finally:
        copyreg.remove_extension("os", "system", 240)
        copyreg.clear_extension_cache()
    assert not marker.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"P12\n.",
        b"K\x01Q.",
        b"\x80\x05\x97.",
        b"\x80\x05C\x01a\x98.",
        b"\x80\x04\x8f.",
        b"\x80\x04(\x91.",
        b"\xff.",
    ],
    ids=["PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER", "EMPTY_SET", "FROZENSET", "none"],
)
def test_opcodes_that_plain_data_does_not_need_are_refused(read: Read, data: bytes) -> None:
    with pytest.raises(InvalidOption, match=r"has the opcode b'.*' at byte \d+, which no plain"):
        read(data)


ARRAY = b"cnumpy\nndarray\n"
DTYPE = b"cnumpy\ndtype\n"
NEW_ARRAY = b"cnumpy._core.multiarray\n_reconstruct\n"
I8 = DTYPE + b"X\x02\0\0\0i8\x85R"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (ARRAY + b".", "NumPy type where a value is expected"),
        (I8 + b".", "NumPy type where a value is expected"),
        (ARRAY + b"K\x05\x85\x85R.", "array without values"),
        (NEW_ARRAY + ARRAY + b"K\x05\x85C\x01b\x87R.", "array without values"),
        (NEW_ARRAY + I8 + b")C\x01b\x87R.", "array of an unknown class"),
        (ARRAY + b"}b.", "set the state of an object"),
        (I8 + b"}X\x04\0\0\0codeX\x01\0\0\0xsb.", "set the state of an object"),
        (I8 + b"N}X\x04\0\0\0codeX\x01\0\0\0xs\x86b.", "type with parts"),
        (b"]N}X\x06\0\0\0appendNs\x86b.", "set the state of an object"),
        (b"]" + ARRAY + b"\x85R.", "call what is no function"),
        (DTYPE + b"X\x02\0\0\0O8\x85R.", "NumPy values of the type 'O8'"),
        (DTYPE + b"X\x02\0\0\0V8\x85R.", "NumPy values of the type 'V8'"),
        (DTYPE + b"X\x05\0\0\0i8,O8\x85R.", "NumPy values of the type 'i8,O8'"),
        (DTYPE + b"]\x85R.", "NumPy values of the type"),
        (I8 + b"(K\x03X\x01\0\0\0|I8\nNNtb.", "type with parts, 'i8'"),
        (I8 + b"(K\x03K\x01NNNtb.", "type with parts, 'i8'"),
        (b"c_codecs\nencode\nX\x01\0\0\0aX\x05\0\0\0rot13\x86R.", "text in the encoding 'rot13'"),
        (b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.", "damaged"),
        (b"NK\x01a.", "append to what is no list"),
        (b"]K\x01K\x02s.", "set entries of what is no dictionary"),
        (b"}K\x01K\x02s.", "dictionary key of type int; use text"),
        (b"})K\x02s.", "dictionary key of type tuple; use text"),
        (b"}(X\x01\0\0\0au.", "damaged"),
        (b"\x80\x04K\x01K\x02\x93.", "names a function by what is no text"),
        (b"S'a\n.", "text without quotes"),
        (b"\x8a\xff" + b"\x01" * 255 + b".", "number of 255 bytes"),
        (b"I" + b"9" * 5000 + b"\n.", "number of 5,000 digits"),
        (b"]q\x00h\x00a.", "holds itself"),
        (b"]" * 17 + b"a" * 16 + b".", "more than 16 deep"),
    ],
)
def test_misused_stand_ins_are_refused(read: Read, data: bytes, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        read(data)


def stored_array(shape: bytes, raw: bytes, code: bytes = b"i8") -> bytes:
    """An array with this state; `shape` is an opcode sequence."""
    kind = DTYPE + b"X" + struct.pack("<I", len(code)) + code + b"\x85R"
    stored = b"B" + struct.pack("<I", len(raw)) + raw
    return NEW_ARRAY + ARRAY + b")C\x01b\x87R(K\x01" + shape + kind + b"\x89" + stored + b"tb"


def test_an_array_has_as_many_values_as_its_bytes(read: Read) -> None:
    good = stored_array(b"K\x02\x85", struct.pack("=qq", 5, -6))
    assert read(good + b".") == [5, -6]
    huge = b"J\xff\xff\xff\x7f"
    for shape in (b"K\x03\x85", huge + b"\x85", huge + huge + b"\x86", b"K\x01K\x01\x86", b")"):
        with pytest.raises(InvalidOption, match=r"shape \(.*\) in 16 bytes"):
            read(stored_array(shape, bytes(16)) + b".")
    with pytest.raises(InvalidOption, match=r"shape \[-1\]"):
        read(stored_array(b"J\xff\xff\xff\xff\x85", bytes(16)) + b".")
    with pytest.raises(InvalidOption, match="more than two dimensions"):
        read(stored_array(b"K\x02K\x01K\x01\x87", bytes(16)) + b".")
    assert read(stored_array(huge + b"K\x00\x86", b"") + b".") == []
    for order in ("<", ">"):
        text_array = stored_array(b"K\x01\x85", struct.pack(f"{order}I", 0x110000), b"U1")
        with_order = text_array.replace(
            b"U1\x85R", b"U1\x85R(K\x03" + text(order) + b"NNNK\x04K\x04K\x08tb"
        )
        with pytest.raises(InvalidOption, match="text that is none"):
            read(with_order + b".")


# Bombs


BOMBS = {
    # Its hash overflows the stack of a process, and so it ends.
    "nested tuples as a key": b"\x80\x04})" + b"\x85" * 200_000 + b"K\x01s.",
    "nested lists": b"]" * 200_000 + b"a" * 199_999 + b".",
    "nested tuples": b")" + b"\x85" * 200_000 + b".",
    "lists of the one before twice": b"]q\x00" + b"0](h\x00h\x00eq\x00" * 60 + b".",
    "a memo entry of a huge number": b"Nr\xfe\xff\xff\x7fX.",
    "bytes of a huge length": b"\x8e" + struct.pack("<Q", 1 << 40) + b"a.",
    "a bytearray of a huge length": b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b"a.",
    "text of a huge length": b"\x8d" + struct.pack("<Q", 1 << 63) + b"a.",
    "text of a negative length": b"T\xff\xff\xff\xffa.",
    "a frame of a huge length": b"\x80\x04\x95" + struct.pack("<Q", 1 << 63) + b"N",
    "a number of a huge length": b"\x8b\xff\xff\xff\x7fa.",
    "a long text as bytes, over and over": b"c_codecs\nencode\nq\x000"
    + b"X\x40\x42\x0f\x00"
    + b"a" * 1_000_000
    + b"q\x010X\x06\0\0\0latin1q\x02"
    + b"h\x00h\x01h\x02\x86R" * 10_000
    + b".",
    "a shape of a billion numbers": stored_array(b"(" + b"K\x01" * 100_000 + b"t", bytes(8)) + b".",
}


@pytest.mark.parametrize("name", list(BOMBS))
def test_a_bomb_is_refused_with_little_memory_and_time(read: Read, name: str) -> None:
    data = BOMBS[name]
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(InvalidOption, match="gnd_made"):
            read(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 300
    assert peak < 200 << 20


def test_values_are_limited_in_number(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_VALUES", 1000)
    assert read(b"(" + b"N" * 997 + b"l.") == [None] * 997
    with pytest.raises(InvalidOption, match="more than 1,000 values"):
        read(b"(" + b"N" * 1000 + b"l.")
    array = stored_array(b"M\x58\x02\x85", bytes(8 * 600))  # 600 numbers
    assert read(array + b".") == [0] * 600
    # In a list twice it is one; two of them are too many.
    assert read(b"(" + array + b"q\x00h\x00l.") == [[0] * 600] * 2
    with pytest.raises(InvalidOption, match="more than 1,000 values"):
        read(b"(" + array + array + b"l.")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "gnd_large.pkl"
    with file.open("wb") as out:
        out.truncate((256 << 20) + 1)  # takes no room on the disk
    with pytest.raises(
        InvalidOption, match=r"gnd_large\.pkl has 268,435,457 bytes; .* 268,435,456"
    ):
        read_pickle(file)


# Damage


@pytest.mark.parametrize(
    "data", [b"", b".", b"N", b"hello", b"\x80\x04", b"PK\x03\x04", b"(", b"l."]
)
def test_what_is_no_pickle_is_named(read: Read, data: bytes) -> None:
    with pytest.raises(InvalidOption, match=r"gnd_made\.pkl is (refused|no pickle)"):
        read(data)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"cannot read .*gnd_none\.pkl: No such file"):
        read_pickle(tmp_path / "gnd_none.pkl")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_truncated_file_is_refused(read: Read, protocol: int) -> None:
    data = pickle.dumps(VALUES["ground truth"], protocol)
    for length in range(0, len(data), 3):
        with pytest.raises(InvalidOption, match=r"gnd_made\.pkl is "):
            read(data[:length])


@pytest.mark.filterwarnings("ignore")  # of escapes that are none, in text of protocol 0
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_damaged_files_raise_only_our_error(read: Read, protocol: int) -> None:
    draw = random.Random(protocol)
    values = [VALUES["ground truth"], VALUES["arrays"], VALUES["numbers"], VALUES["text"]]
    originals = [pickle.dumps(value, protocol) for value in values]
    refused = 0
    for _ in range(500):
        data = bytearray(draw.choice(originals))
        for _ in range(draw.choice([1, 2, 5])):
            at = draw.randrange(len(data))
            data[at] = draw.choice([data[at] ^ (1 << draw.randrange(8)), draw.randrange(256)])
        try:
            read(bytes(data))
        except InvalidOption:
            refused += 1
    assert refused > 100


def test_random_opcodes_raise_only_our_error_and_import_nothing(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported: list[str] = []
    original = builtins.__import__

    def watched(name: str, *args: Any, **options: Any) -> Any:
        imported.append(name)
        return original(name, *args, **options)

    draw = random.Random(0)
    opcodes = [bytes([value]) for value in range(256)]
    pieces = [*opcodes, I8, ARRAY, DTYPE, NEW_ARRAY, b"cantigravity\n\n", text("a"), b"K\x01"] + [
        b"(",
        b")",
    ] * 10
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", watched)
        for _ in range(1000):
            data = b"".join(draw.choices(pieces, k=draw.randrange(1, 40))) + b"."
            with contextlib.suppress(InvalidOption):
                read(data)
    assert "antigravity" not in imported
