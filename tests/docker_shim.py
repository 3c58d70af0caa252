"""Stands in for `docker` where documented commands are tried without it.

`docker compose run` and `exec` do here what they would do in the container, `up` and `down` start
and stop a real service and a real nginx. What it does not know is an error.

    python -m tests.docker_shim compose exec -T cooc cooc keys list
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.proxy import START

STATE = Path(os.environ["SHIM_STATE"])
DATA = STATE / "data"
PORTS = {"cooc": os.environ["SHIM_COOC_PORT"], "nginx": os.environ["SHIM_NGINX_PORT"]}
COOC = [sys.executable, "-m", "app.cli"]
WITHOUT_EFFECT = ("build", "ps", "logs")
"""They say or make something that only docker has."""


def compose(arguments: list[str]) -> int:
    verb, *rest = arguments
    if verb in WITHOUT_EFFECT:
        return 0
    if verb == "up" and set(rest) <= {"-d", "--no-build"}:
        return start("cooc") or start("nginx")
    if verb in ("stop", "start"):
        return (stop if verb == "stop" else start)(*rest)
    if verb == "down" and set(rest) <= {"--volumes"}:
        return stop("nginx") or stop("cooc")
    if verb in ("run", "exec"):
        return within(verb, rest)
    raise SystemExit(f"docker compose {verb} is not known here: {rest}")


def within(verb: str, arguments: list[str]) -> int:
    """A command of a container."""
    environment: dict[str, str] = {}
    entrypoint = list(COOC)
    while (word := arguments.pop(0)).startswith("-"):
        if word == "-e":
            name, value = arguments.pop(0).split("=", 1)
            environment[name] = value
        elif word == "--entrypoint":
            entrypoint = [arguments.pop(0)]
        elif word not in ("-T", "--rm"):
            raise SystemExit(f"docker compose {verb} {word} is not known here")
    if word != "cooc":
        raise SystemExit(f"there is no service {word}")
    if verb == "exec":
        if not running("cooc"):
            raise SystemExit("the service is not running")
        entrypoint = [arguments.pop(0)]
        if entrypoint == ["cooc"]:
            entrypoint = COOC
    arguments = [str(DATA) if word == "/data" else word for word in arguments]
    return subprocess.run([*entrypoint, *arguments], env=settings() | environment).returncode


def settings() -> dict[str, str]:
    own = {"COOC_DATA_DIR": str(DATA), "COOC_PORT": PORTS["cooc"], "COOC_REQUIRE_KEYS": "yes"}
    return {**os.environ, **own}


def start(name: str) -> int:
    if running(name):
        return 0
    DATA.mkdir(exist_ok=True)
    if name == "cooc":
        command, environment = [*COOC, "serve"], settings()
    else:
        command = [str(START)]
        environment = {
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
            "RUN_DIR": str(STATE / "nginx"),
            "UPSTREAM": f"127.0.0.1:{PORTS['cooc']}",
            "HTTP_LISTEN": f"127.0.0.1:{PORTS['nginx']}",
        }
    with (STATE / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (STATE / f"{name}.json").write_text(json.dumps(process.pid))
    return 0


def running(name: str) -> bool:
    path = STATE / f"{name}.json"
    return path.exists() and _alive(json.loads(path.read_text()))


def stop(name: str) -> int:
    path = STATE / f"{name}.json"
    if not path.exists():
        return 0
    pid = json.loads(path.read_text())
    if _alive(pid):
        os.kill(pid, signal.SIGTERM)
    for _ in range(600):
        if not _alive(pid):
            path.unlink()
            return 0
        time.sleep(0.05)
    return 1


def _alive(pid: int) -> bool:
    try:
        # Nobody waits for it here: once ended it stays in the table of processes.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    if sys.argv[1] == "compose":
        sys.exit(compose(sys.argv[2:]))
    if sys.argv[1] != "tag":
        raise SystemExit(f"docker {sys.argv[1]} is not known here")
