"""Stands in for `cooc` where documented commands are tried: the same program, on little data.

Each command runs in a process of its own, forked from one that has everything imported already: a
third of the time. What a command would spend long on is cut short, by options that follow those of
the documents (the last one of a kind counts) or, where there are none, by smaller made data.

    python -m tests.cooc_shim SOCKET
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import socket
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CLIENT = """
import json, os, socket, sys
if sys.argv[1:2] == ["serve"] or not {socket!r}:
    os.execv({python!r}, [{python!r}, "-m", "app.cli", *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as forker:
    forker.connect({socket!r})
    wish = json.dumps([os.getcwd(), dict(os.environ), sys.argv[1:]]).encode()
    socket.send_fds(forker, [wish], [0, 1, 2])
    sys.exit(int(forker.recv(9) or b"1"))
"""
"""The program that is called `cooc`; a service is started as always, and so is everything where
there is no socket."""

SHORTER: Mapping[str, str] = {
    "make-dataset": "--instances 6 --views 4 --distractors 4 --size 96x72",
    "train filter": "--epochs 1 --pairs 4 --pool 8 --negatives 1 --radius 1 --max-side 96",
    "train metric": "--epochs 1 --steps 2 --things 2",
    "train distill": "--epochs 1 --views 16 --shard 8 --batch 4 --sizes 48x64 --warmup 1",
    "bench trunks": "--precision float32",
}
SMALLER: Mapping[str, Mapping[str, Any]] = {
    "bench cooccurrence": {"run": {"channels": 16}},
    "bench bilinear": {"run": {"channels": 16, "dim": 64}},
    "bench extract": {"SIZES": ((64, 48),), "BATCHES": (1, 2)},
    "bench trunks": {"HEIGHT": 32, "WIDTH": 48},
}
"""Values within the module of a benchmark; of a function, defaults of its arguments."""

IMPORTED = ("app.cli", "app.main", "app.terminal.session", "benchmarks.trunks", "engine.pictures")
"""What most commands import."""


def run(words: list[str]) -> int:
    """The exit code of a command."""
    from app.cli import main

    name = " ".join(words[:2]) if " ".join(words[:2]) in {*SHORTER, *SMALLER} else words[0]
    for what, value in SMALLER.get(name, {}).items():
        module = importlib.import_module(f"benchmarks.{words[1]}")
        if isinstance(value, Mapping):
            inspect.unwrap(getattr(module, what)).__kwdefaults__.update(value)
        else:
            setattr(module, what, value)
    sys.argv = ["cooc", *words, *SHORTER.get(name, "").split()]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def forked(wish: bytes, streams: list[int]) -> int:
    """The exit code of what a client wishes, with its folder, environment and streams."""
    child = os.fork()
    if child:
        for stream in streams:
            os.close(stream)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    folder, environment, words = json.loads(wish)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
    code = 1
    try:
        code = run(words)
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        # Not back into the loop of those who wait for wishes.
        os._exit(code)


def wait_for_wishes(path: str) -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as listener:
        # Under that name once it listens: whoever sees it connects at once.
        listener.bind(f"{path}.new")
        listener.listen()
        Path(f"{path}.new").rename(path)
        while True:
            client, _ = listener.accept()
            with client:
                wish, streams, _, _ = socket.recv_fds(client, 1 << 20, 3)
                client.sendall(str(forked(wish, streams)).encode())


if __name__ == "__main__":
    wait_for_wishes(sys.argv[1])
