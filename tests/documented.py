"""Commands in documents: `python -m tests.documented PAGE` prints them as a script."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def blocks(page: Path) -> list[tuple[str, str]]:
    """The kind of each fenced block, such as `sh`, and what is in it."""
    return re.findall(r"^```([^\n]+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


if __name__ == "__main__":
    for kind, code in blocks(Path(sys.argv[1])):
        sys.stdout.write(f"# {kind}\n{code}")
