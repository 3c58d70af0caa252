from __future__ import annotations

import hashlib
import io
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import interpolate

from engine.backbones import build_trunk
from engine.backbones import weights as module
from engine.backbones.untrained import untrained_state
from engine.backbones.weights import (
    Published,
    choose_trunk,
    download,
    load_weights,
    state_digest,
)
from engine.describer import Describer, DescriberOptions
from engine.errors import InvalidOption, WeightsUnavailable

BUNDLED_DIGEST = "ed1cae9e53e1d6eb7a993379307a511a35d1a7ec81ab518bcd8a25e6a9f69a3c"
SQUEEZENET = DescriberOptions(backbone="squeezenet1_1", pooling="spoc", max_side=64)


@pytest.fixture(autouse=True)
def nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights of this machine are found: neither ours nor those of torch.hub."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def state() -> dict[str, Tensor]:
    """Parameters that fit SqueezeNet 1.1, other than those of `untrained`."""
    return untrained_state("squeezenet1_1", seed=7)


def pth(content: object) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


class Files(ThreadingHTTPServer):
    """A server on the loopback address that has what is put into `content`, by path."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.requested: list[str] = []
        super().__init__(("127.0.0.1", 0), FilesHandler)

    def published(self, name: str, content: bytes, sha256: str | None = None) -> Published:
        """Serve `content`, and announce it under its own digest unless another is given."""
        self.content[f"/{name}"] = content
        sha256 = sha256 or hashlib.sha256(content).hexdigest()[:8]
        return Published(f"http://127.0.0.1:{self.server_port}/{name}", sha256)


class FilesHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Files)
        self.server.requested.append(self.path)
        content = self.server.content.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def files() -> Iterator[Files]:
    with Files() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address on which nobody listens: its port is taken, so that nobody else begins to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/squeezenet.pth"


def publish(monkeypatch: pytest.MonkeyPatch, published: Published) -> None:
    monkeypatch.setitem(module.PUBLISHED, "squeezenet1_1", published)


# Files


def test_the_digest_is_that_of_the_content_in_every_file_format(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    save_file(state, tmp_path / "a.safetensors")
    backwards = dict(reversed(state.items()))
    (tmp_path / "b.pth").write_bytes(pth(backwards))
    torch.save(state, tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    loaded = [
        load_weights("squeezenet1_1", str(tmp_path / name))
        for name in ("a.safetensors", "b.pth", "c.pt")
    ]
    assert {weights.digest for weights in loaded} == {state_digest(state)}
    for weights in loaded:
        assert weights.trained
        assert weights.state.keys() == state.keys()
        assert all(torch.equal(weights.state[name], state[name]) for name in state)


def test_the_digest_is_sha_256_over_names_shapes_and_values() -> None:
    values = np.array([[1, 2, 3], [4, 5, 6]], "<f4")
    content = b"a:(2, 3)" + values.tobytes() + b"b:(1,)" + np.float32(7).tobytes()
    state = {"b": torch.tensor([7.0]), "a": torch.tensor(values)}
    assert state_digest(state) == hashlib.sha256(content).hexdigest()


def test_the_digest_tells_values_shapes_and_names_apart() -> None:
    states = [
        {"features.0": torch.tensor([1.0, 2.0])},
        {"features.0": torch.tensor([2.0, 1.0])},
        {"features.0": torch.tensor([[1.0, 2.0]])},
        {"features.1": torch.tensor([1.0, 2.0])},
    ]
    assert len({state_digest(state) for state in states}) == 4
    strided = {"features.0": torch.tensor([1.0, 9.0, 2.0, 9.0])[::2]}
    assert state_digest(strided) == state_digest(states[0])


def test_a_file_knows_its_own_path_as_its_name(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "mine.safetensors")
    weights = load_weights("squeezenet1_1", f"{tmp_path}/../{tmp_path.name}/mine.safetensors")
    assert weights.name == str((tmp_path / "mine.safetensors").resolve())
    assert "mine.safetensors" in weights.notice
    again = load_weights("squeezenet1_1", weights.name)
    assert again.digest == weights.digest


def test_a_tilde_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(state, tmp_path / "mine.safetensors")
    assert load_weights("squeezenet1_1", "~/mine.safetensors").digest == state_digest(state)


def test_half_precision_and_the_classifier_of_a_file_are_put_right(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    half = {name: value.half() for name, value in state.items()}
    save_file({**half, "classifier.1.weight": torch.ones(3, 3)}, tmp_path / "a.safetensors")
    weights = load_weights("squeezenet1_1", str(tmp_path / "a.safetensors"))
    assert all(value.dtype == torch.float32 for value in weights.state.values())
    assert weights.digest == state_digest({name: value.float() for name, value in half.items()})


def test_mean_and_deviation_stored_in_a_file_are_used(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    path = tmp_path / "a.safetensors"
    save_file(state, path, metadata={"mean": "[0.5, 0.25, 0.125]", "std": "0.5,1,0.25"})
    weights = load_weights("squeezenet1_1", str(path))
    assert weights.preprocessing.mean == (0.5, 0.25, 0.125)
    assert weights.preprocessing.std == (0.5, 1.0, 0.25)
    describer = Describer(SQUEEZENET, weights)
    grey = torch.full((1, 40, 50, 3), 255, dtype=torch.uint8)
    images = describer.normalise(grey).cpu()
    expected = torch.tensor([(1 - 0.5) / 0.5, (1 - 0.25) / 1, (1 - 0.125) / 0.25])
    torch.testing.assert_close(images[0, :, 20, 30], expected)


def test_the_digest_depends_on_the_preprocessing(tmp_path: Path, state: dict[str, Tensor]) -> None:
    digests = []
    for number, mean in enumerate(["0.485,0.456,0.406", "0.5,0.5,0.5", "0.5, 0.5, 0.5", "0,0,0"]):
        path = tmp_path / f"{number}.safetensors"
        save_file(state, path, metadata={"mean": mean})
        digests.append(load_weights("squeezenet1_1", str(path)).digest)
    assert digests[0] == state_digest(state)
    assert digests[1] == digests[2]
    assert len(set(digests)) == 3


def test_without_metadata_the_preprocessing_is_that_of_torchvision(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    save_file(state, tmp_path / "a.safetensors")
    weights = load_weights("squeezenet1_1", str(tmp_path / "a.safetensors"))
    assert weights.preprocessing.mean == (0.485, 0.456, 0.406)
    assert weights.preprocessing.std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize("text", ["0.5", "1,2", "red,green,blue", ""])
def test_metadata_that_is_not_three_numbers_is_named(
    tmp_path: Path, state: dict[str, Tensor], text: str
) -> None:
    save_file(state, tmp_path / "a.safetensors", metadata={"mean": text})
    with pytest.raises(WeightsUnavailable, match=f"'{text}' is not three numbers"):
        load_weights("squeezenet1_1", str(tmp_path / "a.safetensors"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pth({"conv.weight": torch.zeros(1)}), r"no entry named 'features.\*'.*conv.weight"),
        (pth({0: torch.zeros(1)}), r"no entry named 'features.\*'"),
        (pth([1, 2, 3]), "does not hold a state dict"),
        (pth({"state_dict": {"features.0.weight": torch.zeros(1)}}), "does not hold a state dict"),
        (pth({"features.0.weight": "zero"}), "does not hold a state dict"),
        (pth(torch.nn.Linear(1, 1)), "cannot read weights"),
        (pth({"features.0.weight": torch.zeros(99)})[:-60], "cannot read weights"),
        (b"<html><body>404 not found</body></html>", "cannot read weights"),
        (b"Please copy the weights here.", "cannot read weights"),
        (b"", "cannot read weights"),
    ],
    ids=[
        "other names",
        "numbers as names",
        "a list",
        "nested",
        "no tensors",
        "a whole module",
        "truncated",
        "a web page",
        "text",
        "empty",
    ],
)
def test_a_file_that_is_no_state_dict_of_a_trunk_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(WeightsUnavailable, match=message) as caught:
        load_weights("squeezenet1_1", str(tmp_path / "a.pth"))
    assert str(tmp_path / "a.pth") in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100])
def test_an_unreadable_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(WeightsUnavailable, match=r"cannot read weights from .*a\.safetensors"):
        load_weights("squeezenet1_1", str(tmp_path / "a.safetensors"))


def test_a_file_that_would_run_code_is_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (trap,)

    (tmp_path / "a.pth").write_bytes(pth({"features.0.weight": Bomb()}))
    with pytest.raises(WeightsUnavailable, match="cannot read weights"):
        load_weights("squeezenet1_1", str(tmp_path / "a.pth"))
    assert not trap.exists()


@pytest.mark.parametrize("spec", ["no-such-file.pth", "imagnet", "/"])
def test_a_missing_file_is_named(spec: str) -> None:
    with pytest.raises(InvalidOption, match=f"'{spec}' .* nor an existing file"):
        load_weights("squeezenet1_1", spec)


def test_weights_of_another_trunk_do_not_fit(tmp_path: Path, state: dict[str, Tensor]) -> None:
    name = "features.0.weight"
    broken = [
        {**state, name: torch.zeros(64, 3, 5, 5)},
        {key: value for key, value in state.items() if key != name},
        {**state, "features.99.weight": torch.zeros(1)},
    ]
    for number, wrong in enumerate(broken):
        path = tmp_path / f"{number}.safetensors"
        save_file(wrong, path)
        with pytest.raises(WeightsUnavailable, match="do not fit the trunk squeezenet1_1"):
            Describer(SQUEEZENET, load_weights("squeezenet1_1", str(path)))


@pytest.mark.parametrize(
    ("backbone", "layer"), [("vgg16", "relu1_2"), ("resnet101", "layer1"), ("resnet101", "layer4")]
)
def test_a_file_of_another_trunk_is_named_with_what_does_not_fit(
    tmp_path: Path, state: dict[str, Tensor], backbone: str, layer: str
) -> None:
    save_file(state, tmp_path / "squeezenet.safetensors")
    options = DescriberOptions(backbone=backbone, layer=layer, pooling="spoc", max_side=64)
    message = (
        rf"squeezenet\.safetensors' do not fit the trunk {backbone}: .*that {backbone} does not"
    )
    with pytest.raises(WeightsUnavailable, match=message):
        Describer(options, load_weights(backbone, str(tmp_path / "squeezenet.safetensors")))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_of_resnet101_is_read_without_its_classifier_and_counts(
    tmp_path: Path, suffix: str
) -> None:
    kept = {
        "conv1.weight": torch.rand(2, 3, 7, 7),
        "bn1.running_mean": torch.rand(2),
        "layer1.0.conv1.weight": torch.rand(3, 2, 1, 1),
        "layer4.2.bn3.running_var": torch.rand(5),
    }
    whole = {
        **kept,
        "bn1.num_batches_tracked": torch.tensor(9),
        "layer1.0.bn1.num_batches_tracked": torch.tensor(9),
        "fc.weight": torch.rand(4, 5),
        "fc.bias": torch.rand(4),
    }
    path = tmp_path / f"resnet.{suffix}"
    if suffix == "pth":
        path.write_bytes(pth(whole))
    else:
        save_file(whole, path)
    weights = load_weights("resnet101", str(path))
    assert weights.state.keys() == kept.keys()
    assert all(torch.equal(weights.state[name], kept[name]) for name in kept)
    assert weights.digest == state_digest(kept)


def test_the_digest_of_a_file_stays_what_indexes_have_stored(shared_data: Path) -> None:
    path = shared_data / "squeezenet1_1" / "squeezenet1_1-imagenet-features.safetensors"
    digest = load_weights("squeezenet1_1", str(path)).digest
    assert digest == "ce3f4dcb95502eb82271d9468819f4f1f5bc6e97c2629a31d784931ff5e3eecf"


def test_bundled_weights_fit_their_trunk_and_say_where_they_come_from() -> None:
    weights = load_weights("vgg_lite", "bundled")
    assert (weights.name, weights.trained) == ("bundled", True)
    assert "ship with the package" in weights.notice
    build_trunk("vgg_lite").load(weights.state)
    assert all(bool(torch.isfinite(value).all()) for value in weights.state.values())
    assert module.BUNDLED["vgg_lite"].stat().st_size < 12_000_000


def test_the_digest_of_the_bundled_weights_is_what_indexes_have_stored() -> None:
    assert load_weights("vgg_lite", "bundled").digest == BUNDLED_DIGEST


def test_a_trunk_without_bundled_weights_is_named_with_the_remedy() -> None:
    with pytest.raises(WeightsUnavailable, match=r"squeezenet1_1 are bundled, only of vgg_lite"):
        load_weights("squeezenet1_1", "bundled")


# Downloads


def test_published_weights_are_downloaded_once(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor]
) -> None:
    content = pth({**state, "classifier.1.weight": torch.ones(2)})
    publish(monkeypatch, files.published("squeezenet.pth", content))
    seen: list[tuple[int, int]] = []
    cache = tmp_path / "deep" / "cache"
    first = load_weights(
        "squeezenet1_1",
        "imagenet",
        cache_dir=cache,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (cache / "squeezenet.pth").read_bytes() == content
    assert [path.name for path in cache.iterdir()] == ["squeezenet.pth"]
    assert seen[-1] == (len(content), len(content))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    second = load_weights("squeezenet1_1", "imagenet", cache_dir=cache)
    assert files.requested == ["/squeezenet.pth"]
    assert first.name == second.name == "imagenet"
    assert first.digest == second.digest == state_digest(state)
    assert first.trained


def test_weights_land_in_the_home_folder_unless_told_otherwise(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor]
) -> None:
    publish(monkeypatch, files.published("squeezenet.pth", pth(state)))
    load_weights("squeezenet1_1", "imagenet")
    assert (tmp_path / "home" / ".cache" / "cooc" / "squeezenet.pth").is_file()


def test_weights_that_torch_hub_has_are_used(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor]
) -> None:
    content = pth(state)
    publish(monkeypatch, files.published("squeezenet.pth", content))
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / "squeezenet.pth").write_bytes(content)
    weights = load_weights("squeezenet1_1", "imagenet", cache_dir=tmp_path / "cache")
    assert weights.digest == state_digest(state)
    assert files.requested == []


def test_a_damaged_file_in_the_cache_is_downloaded_again(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor]
) -> None:
    content = pth(state)
    publish(monkeypatch, files.published("squeezenet.pth", content))
    (tmp_path / "squeezenet.pth").write_bytes(content[:-100])
    weights = load_weights("squeezenet1_1", "imagenet", cache_dir=tmp_path)
    assert weights.digest == state_digest(state)
    assert (tmp_path / "squeezenet.pth").read_bytes() == content


def test_a_download_with_the_wrong_digest_leaves_no_file(tmp_path: Path, files: Files) -> None:
    published = files.published("squeezenet.pth", b"something else", sha256="0123abcd")
    actual = hashlib.sha256(b"something else").hexdigest()[:8]
    with pytest.raises(WeightsUnavailable, match=f"digest {actual}, not 0123abcd.*try again"):
        download(published, tmp_path / "cache" / "squeezenet.pth")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_failed_download_keeps_what_was_there(tmp_path: Path, files: Files) -> None:
    path = tmp_path / "squeezenet.pth"
    path.write_bytes(b"old")
    with pytest.raises(WeightsUnavailable):
        download(files.published("squeezenet.pth", b"new", sha256="0123abcd"), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_absent_file_on_the_server_is_named_with_the_remedy(
    tmp_path: Path, files: Files
) -> None:
    published = files.published("squeezenet.pth", b"content")
    files.content.clear()
    path = tmp_path / "squeezenet.pth"
    with pytest.raises(WeightsUnavailable, match=r"404.*copy the file to .*set COOC_WEIGHTS"):
        download(published, path)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_connection_fails_soon_and_names_the_remedy(tmp_path: Path, nobody: str) -> None:
    path = tmp_path / "squeezenet.pth"
    started = time.monotonic()
    with pytest.raises(WeightsUnavailable) as caught:
        download(Published(nobody, "0123abcd"), path)
    assert time.monotonic() - started < 20
    message = str(caught.value)
    assert message.startswith(f"cannot download {nobody}")
    assert f"copy the file to {path}, or set COOC_WEIGHTS" in message
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_stops_answering_leaves_no_file(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/squeezenet.pth"

        def answer_half() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")

        thread = Thread(target=answer_half)
        thread.start()
        with pytest.raises(WeightsUnavailable, match="cannot download"):
            download(Published(url, "0123abcd"), tmp_path / "squeezenet.pth")
        thread.join()
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor]
) -> None:
    publish(monkeypatch, files.published("squeezenet.pth", pth(state)))
    (tmp_path / "file").write_bytes(b"not a folder")
    with pytest.raises(WeightsUnavailable, match=r"copy the file to .*file/cache/squeezenet\.pth"):
        load_weights("squeezenet1_1", "imagenet", cache_dir=tmp_path / "file" / "cache")


def test_a_trunk_without_published_weights_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(module.PUBLISHED, "squeezenet1_1")
    with pytest.raises(WeightsUnavailable, match=r"no published .* squeezenet1_1"):
        load_weights("squeezenet1_1", "imagenet")


def test_published_names_carry_their_digest_as_at_torchvision() -> None:
    for published in module.PUBLISHED.values():
        assert published.url.startswith("https://download.pytorch.org/models/")
        assert published.file_name.endswith(f"-{published.sha256}.pth")


# Automatic choice


def test_auto_takes_published_weights_where_it_can(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor]
) -> None:
    publish(monkeypatch, files.published("squeezenet.pth", pth(state)))
    weights = load_weights("squeezenet1_1", "auto", cache_dir=tmp_path)
    assert (weights.name, weights.digest) == ("imagenet", state_digest(state))


def test_a_trunk_that_was_chosen_is_not_exchanged_for_another(
    tmp_path: Path, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, Published(nobody, "0123abcd"))
    monkeypatch.setitem(module.PUBLISHED, "vgg16", Published(nobody, "0123abcd"))
    remedy = "or leave COOC_BACKBONE and COOC_WEIGHTS at auto: then the bundled vgg_lite is used"
    for backbone, spec in (
        ("squeezenet1_1", "auto"),
        ("vgg16", "auto"),
        ("vgg16", "imagenet"),
        ("auto", "imagenet"),
    ):
        with pytest.raises(WeightsUnavailable, match=f"cannot download {nobody}.*{remedy}"):
            choose_trunk(backbone, spec, cache_dir=tmp_path)


def test_without_network_auto_is_the_bundled_trunk_and_says_so(
    tmp_path: Path, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.PUBLISHED, "vgg16", Published(nobody, "0123abcd"))
    backbone, weights = choose_trunk("auto", "auto", layer="relu4+relu5", cache_dir=tmp_path)
    assert (backbone, weights.name, weights.trained) == ("vgg_lite", "bundled", True)
    assert weights.fallback
    assert f"weights of vgg16 could not be had (cannot download {nobody}" in weights.notice
    assert weights.notice.startswith("In use are the weights of vgg_lite that ship with")
    for chosen, spec in (("vgg_lite", "auto"), ("auto", "bundled")):  # somebody's own choice
        assert not choose_trunk(chosen, spec, cache_dir=tmp_path)[1].fallback


def test_a_damaged_download_is_why_the_bundled_trunk_is_used(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = files.published("vgg16.pth", b"damaged", sha256="0123abcd")
    monkeypatch.setitem(module.PUBLISHED, "vgg16", published)
    backbone, weights = choose_trunk("auto", "auto", cache_dir=tmp_path)
    assert (backbone, weights.fallback) == ("vgg_lite", True)
    assert "not 0123abcd: the download is damaged" in weights.notice


@pytest.mark.parametrize("layer", ["pool5", "relu4_3+pool5"])
def test_a_layer_that_the_bundled_trunk_does_not_have_rules_it_out(
    tmp_path: Path, nobody: str, monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    monkeypatch.setitem(module.PUBLISHED, "vgg16", Published(nobody, "0123abcd"))
    with pytest.raises(WeightsUnavailable) as caught:
        choose_trunk("auto", "auto", layer=layer, cache_dir=tmp_path)
    message = str(caught.value)
    assert f"cannot download {nobody}" in message
    assert "leave COOC_LAYER out: then the bundled vgg_lite is used" in message
    assert f"which has no layer {layer!r}" in message


def test_with_network_auto_is_vgg16_with_published_weights(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = files.published("vgg16.pth", pth(untrained_state("vgg16", seed=2)))
    monkeypatch.setitem(module.PUBLISHED, "vgg16", published)
    backbone, weights = choose_trunk("auto", "auto", cache_dir=tmp_path)
    assert (backbone, weights.name) == ("vgg16", "imagenet")


def test_weights_decide_a_trunk_that_was_left_open(tmp_path: Path) -> None:
    assert choose_trunk("auto", "bundled")[0] == "vgg_lite"
    assert choose_trunk("vgg_lite", "auto")[1].name == "bundled"
    for name in ("vgg_lite", "squeezenet1_1", "resnet101"):
        path = tmp_path / f"{name}.safetensors"
        save_file(untrained_state(name, seed=1), path)
        backbone, weights = choose_trunk("auto", str(path))
        assert (backbone, weights.name) == (name, str(path))


@pytest.mark.parametrize(
    ("name", "layer"),
    [("vgg16", "relu1_2"), ("vgg16", "relu4_3"), ("squeezenet1_1", "fire2"), ("vgg_lite", "relu2")],
)
def test_the_beginning_of_a_trunk_is_known_for_what_it_is(
    tmp_path: Path, name: str, layer: str
) -> None:
    path = tmp_path / "cut.safetensors"
    kept = build_trunk(name, layer).state_dict().keys()
    whole = untrained_state(name, seed=1)
    save_file({entry: whole[entry] for entry in kept}, path)
    assert choose_trunk("auto", str(path))[0] == name


@pytest.mark.parametrize("change", ["shape", "entry", "beginning"])
def test_weights_of_no_trunk_are_not_taken_for_one(
    tmp_path: Path, state: dict[str, Tensor], change: str
) -> None:
    if change == "shape":
        state["features.12.squeeze.bias"] = torch.zeros(7)
    elif change == "entry":
        state["features.99.weight"] = torch.zeros(7)
    else:
        del state["features.0.weight"]
    save_file(state, tmp_path / "mine.safetensors")
    message = r"mine.safetensors' fit none of vgg16, .*, vgg_lite; choose --backbone"
    with pytest.raises(WeightsUnavailable, match=message):
        choose_trunk("auto", str(tmp_path / "mine.safetensors"))


# Untrained weights


@pytest.mark.parametrize(
    ("backbone", "expected"),
    # Not trained nor tuned here: a change of these values invalidates existing indexes.
    [
        ("vgg16", "a96ed522356ad0c905b2e634d61d832648f9f72588b28a230563240b417cd1cd"),
        ("squeezenet1_1", "e2c2cbdfff2032c6eb23d4ac90ed8905166a9edcba2e8c405baa101068967104"),
        ("resnet101", "08305484d453c6c515c618220f342230afb30ae9b07405e145e2ed567b99e889"),
    ],
)
def test_untrained_weights_are_the_same_on_every_machine(backbone: str, expected: str) -> None:
    assert load_weights(backbone, "untrained").digest == expected


def test_untrained_weights_differ_by_seed() -> None:
    first, again, other = (untrained_state("squeezenet1_1", seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    filters = [name for name in first if name.endswith("weight")]
    assert not any(torch.equal(first[name], other[name]) for name in filters)


@pytest.mark.parametrize("backbone", ["squeezenet1_1", "resnet101"])
def test_an_untrained_filter_has_the_scale_of_he(backbone: str) -> None:
    for value in untrained_state(backbone).values():
        if value.ndim == 4:
            energy = value.double().square().sum(dim=(1, 2, 3))
            torch.testing.assert_close(energy, torch.full_like(energy, 2.0))


@pytest.mark.parametrize("seed", [0, 1, 7, 1000])
def test_untrained_weights_of_every_seed_are_finite(seed: int) -> None:
    for name, value in untrained_state("squeezenet1_1", seed).items():
        assert bool(value.isfinite().all()), name


def test_only_the_first_untrained_layer_has_biases_and_a_mean() -> None:
    for name, value in untrained_state("squeezenet1_1").items():
        if name.startswith("features.0."):
            assert value.double().mean().abs() > 0.01
        elif name.endswith("bias"):
            assert value.count_nonzero() == 0
        else:
            assert value.double().mean(dim=(1, 2, 3)).abs().max() < 1e-6


def test_the_first_untrained_layer_is_drawn_as_described() -> None:
    draw = np.random.RandomState(0)
    edges, colours = draw.standard_normal((64, 3, 3, 3)), draw.standard_normal((64, 3))
    state = untrained_state("squeezenet1_1")
    for k in range(64):
        values = edges[k].copy()
        for colour in range(3):
            values[colour] += colours[k, colour]
        values *= np.sqrt(2) / np.linalg.norm(values.ravel())
        np.testing.assert_allclose(state["features.0.weight"][k].numpy(), values, rtol=1e-6)
    biases = 1.5 * draw.standard_normal(64)
    np.testing.assert_allclose(state["features.0.bias"].numpy(), biases, rtol=1e-6)


def test_untrained_batch_norms_pass_on_what_they_are_given() -> None:
    state = untrained_state("resnet101")
    assert len(state) == 104 * 5  # convolutions, each with the four entries of its batch norm
    for name, value in state.items():
        if name == "bn1.bias":
            # The first convolution has no biases of its own for the ranges of colour.
            assert 1 < value.std() < 2
        elif name.endswith(("bias", "running_mean")):
            assert value.count_nonzero() == 0
        elif value.ndim == 1:
            scale = 0.3 if name.endswith("bn3.weight") else 1.0
            assert torch.equal(value, torch.full_like(value, scale)), name


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_activations_neither_explode_nor_vanish_in_an_untrained_resnet101(seed: int) -> None:
    trunk = build_trunk("resnet101", "layer1+layer2+layer3+layer4")
    trunk.load(untrained_state("resnet101", seed))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, 3, 96, 128, generator=generator)
    smooth = interpolate(torch.randn(2, 3, 6, 8, generator=generator), (96, 128), mode="bilinear")
    with torch.inference_mode():
        for images in (noise, smooth):
            for features in trunk.maps(images):
                assert 0.1 < features.std() < 10
