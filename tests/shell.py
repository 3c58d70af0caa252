"""A bash that goes through commands as somebody would who types them."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path

TURN = 'while IFS= read -r block <&{orders}; do . "$block" </dev/null; echo >&{done}; done'


class Shell:
    """One bash, in which block after block is run; the first command that fails ends it.

    Args:
        folder: where it starts.
        scratch: an existing folder for what is run and what is said.
    """

    def __init__(self, folder: Path, environment: dict[str, str], scratch: Path) -> None:
        self._block, self._out, self._err = (scratch / name for name in ("block", "out", "err"))
        orders, self._orders = os.pipe()
        self._done, done = os.pipe()
        with self._out.open("ab") as out, self._err.open("ab") as err:
            self._bash = subprocess.Popen(
                ["bash", "-euxo", "pipefail", "-c", TURN.format(orders=orders, done=done)],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=(orders, done),
            )
        os.close(orders)
        os.close(done)

    def run(self, code: str, *, timeout_s: float = 300) -> str:
        """What it prints. Raises AssertionError with all that was said if it fails."""
        before, said = self._out.stat().st_size, self._err.stat().st_size
        self._block.write_text(code)
        os.write(self._orders, f"{self._block}\n".encode())
        ended, _, _ = select.select([self._done], [], [], timeout_s)
        printed = self._out.read_bytes()[before:].decode()
        if not ended or not os.read(self._done, 1):
            why = "failed" if ended else f"did not end within {timeout_s:g} s"
            told = self._err.read_bytes()[said:].decode()
            raise AssertionError(f"{why}:\n{code}\n{printed[-3000:]}\n{told[-6000:]}")
        return printed

    def close(self) -> None:
        """Ends it; what it has started goes on."""
        os.close(self._orders)
        os.close(self._done)
        self._bash.terminate()
        self._bash.wait()
