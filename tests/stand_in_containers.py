"""Images that are copies of the code, volumes that are folders, containers that are processes.

All of it lies in the folder that SHIM_STATE names. What a container would find at `/data`, it is
given as the folder of that volume, on its command line as in its environment.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.compose_files import environment_of

STATE = Path(os.environ["SHIM_STATE"])
PACKAGES = ("app", "benchmarks", "cooc_client", "engine", "docker")
SERVICE, PROXY = "docker/Dockerfile", "docker/nginx/Dockerfile"
COOC = [sys.executable, "-m", "app.cli"]
WAIT_S = 300


@dataclass(frozen=True)
class Spec:
    """What a container is made of.

    Attributes:
        image: the id of one, as `image_id` gives it.
        mounts: folders of this machine by what they are called in the container.
        ports: what is published, as ADDRESS:PORT, by the port of the container.
    """

    image: str
    environment: dict[str, str]
    mounts: dict[str, str]
    ports: dict[str, str]


def build(dockerfile: str, tag: str, context: Path) -> None:
    """Keep the code as it is now under that name."""
    if dockerfile not in (SERVICE, PROXY):
        raise SystemExit(f"{dockerfile} is not known here")
    image = STATE / "images" / uuid.uuid4().hex
    for package in PACKAGES:
        shutil.copytree(context / package, image / package)
    (image / "dockerfile").write_text(dockerfile)
    _write_names({**_names(), tag: image.name})


def tag(old: str, new: str) -> None:
    _write_names({**_names(), new: image_id(old)})


def image_id(name: str) -> str:
    names = _names()
    if name not in names:
        raise SystemExit(f"there is no image {name}, only {', '.join(names) or 'none'}")
    return names[name]


def volume(name: str) -> str:
    """The folder of a volume, which is made where there is none."""
    folder = STATE / "volumes" / name
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def remove_volume(name: str) -> None:
    shutil.rmtree(STATE / "volumes" / name)


def mounted(entries: Iterable[str], folder: Path, prefix: str = "") -> dict[str, str]:
    """Mounts of entries such as `data:/data` and `./tls:/tls:ro`; volumes are `prefix` + name."""
    mounts = {}
    for entry in entries:
        source, place = entry.split(":")[:2]
        mounts[place] = str(folder / source) if "/" in source else volume(prefix + source)
        if not Path(mounts[place]).is_dir():
            raise SystemExit(f"{mounts[place]} is to be {place}, and is no folder")
    return mounts


def published(entries: Iterable[str]) -> dict[str, str]:
    """Ports of entries such as `8080:8080` and `127.0.0.1:8080:8080`; on loopback in any case."""
    parts = [entry.split(":") for entry in entries]
    return {target: f"127.0.0.1:{port}" for *_, port, target in parts}


def inside(text: str, mounts: Mapping[str, str]) -> str:
    """A word for a container, with the folder that is mounted in the place of its path."""
    for place, folder in mounts.items():
        if text == place or text.startswith(f"{place}/"):
            return folder + text[len(place) :]
    return text


def command_of(
    spec: Spec, arguments: list[str], entrypoint: str | None = None
) -> tuple[list[str], dict[str, str]]:
    """What is run, and its environment."""
    image = STATE / "images" / spec.image
    dockerfile = (image / "dockerfile").read_text()
    own = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ}
    if dockerfile == PROXY:
        own["PATH"] += ":/usr/sbin"
        own |= {"RUN_DIR": volume("nginx"), "UPSTREAM": f"127.0.0.1:{os.environ['SHIM_PORT']}"}
        own |= {"HTTP_LISTEN": spec.ports["8080"], "TLS_DIR": "/tls"}
        if "8443" in spec.ports:
            own["HTTPS_LISTEN"] = spec.ports["8443"]
        command = [str(image / "docker" / "nginx" / "start.sh")]
    else:
        own |= environment_of(image / dockerfile)
        own |= {"PATH": os.environ["PATH"], "PYTHONPATH": str(image)}
        command = COOC if entrypoint in (None, "cooc") else [entrypoint]
    environment = own | _defaults() | spec.environment
    if dockerfile == SERVICE:
        # Nobody but this machine can reach it; in a container it has to assume otherwise.
        environment |= {"COOC_HOST": "127.0.0.1", "COOC_REQUIRE_KEYS": "yes"}
        environment["COOC_TRUSTED_PROXIES"] = "127.0.0.1"
        environment["COOC_PORT"] = _port(spec)
    return (
        [*command, *(inside(word, spec.mounts) for word in arguments)],
        {name: inside(value, spec.mounts) for name, value in environment.items()},
    )


def run_once(spec: Spec, arguments: list[str], entrypoint: str | None = None) -> int:
    command, environment = command_of(spec, arguments, entrypoint)
    return subprocess.run(command, env=environment, cwd=volume("elsewhere")).returncode


def start(name: str, spec: Spec) -> None:
    """As `up` does: what runs as it should is left alone, what has changed is made anew."""
    if running(name) and spec_of(name) == spec:
        return
    remove(name)
    dockerfile = (STATE / "images" / spec.image / "dockerfile").read_text()
    command, environment = command_of(spec, ["serve"] if dockerfile == SERVICE else [])
    with log_of(name).open("ab") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=volume("elsewhere"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _file(name).write_text(json.dumps({"pid": process.pid, "spec": asdict(spec)}))


def wait(name: str) -> None:
    """Until it is healthy, as the image itself asks; without a test, until it runs."""
    spec = spec_of(name)
    image = STATE / "images" / spec.image
    if (image / "dockerfile").read_text() != SERVICE:
        return
    test = [sys.executable, str(image / "docker" / "healthcheck.py")]
    for _ in range(WAIT_S * 5):
        if not running(name):
            raise SystemExit(f"{name} has ended")
        environment = {"COOC_PORT": _port(spec)}
        if subprocess.run(test, env=environment, stderr=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(0.2)
    raise SystemExit(f"{name} is not ready after {WAIT_S} s")


def spec_of(name: str) -> Spec:
    if not _file(name).exists():
        raise SystemExit(f"there is no container {name}")
    return Spec(**json.loads(_file(name).read_text())["spec"])


def log_of(name: str) -> Path:
    return STATE / f"{name}.log"


def running(name: str) -> bool:
    return _file(name).exists() and _alive(_pid(name))


def kill(name: str, number: signal.Signals) -> None:
    if not running(name):
        raise SystemExit(f"{name} does not run")
    os.kill(_pid(name), number)


def stop(name: str, number: signal.Signals = signal.SIGTERM) -> None:
    if running(name):
        os.kill(_pid(name), number)
    for _ in range(WAIT_S * 20):
        if not running(name):
            return
        time.sleep(0.05)
    raise SystemExit(f"{name} does not end")


def remove(name: str, number: signal.Signals = signal.SIGTERM) -> None:
    stop(name, number)
    _file(name).unlink(missing_ok=True)


def _defaults() -> dict[str, str]:
    """Settings that the service has where nothing else is said, such as a small network."""
    return {
        name.removeprefix("SHIM_"): value
        for name, value in os.environ.items()
        if name.startswith("SHIM_COOC_")
    }


def _names() -> dict[str, str]:
    path = STATE / "images.json"
    names: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return names


def _write_names(names: dict[str, str]) -> None:
    (STATE / "images.json").write_text(json.dumps(names))


def _port(spec: Spec) -> str:
    """Where the service is found: at what is published of it, else where the proxy looks."""
    return spec.ports.get("8000", os.environ["SHIM_PORT"]).rpartition(":")[2]


def _file(name: str) -> Path:
    return STATE / f"{name}.json"


def _pid(name: str) -> int:
    return int(json.loads(_file(name).read_text())["pid"])


def _alive(pid: int) -> bool:
    try:
        # Nobody waits for it here: once ended it stays in the table of processes.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
