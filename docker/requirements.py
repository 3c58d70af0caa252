"""What the package needs, one requirement a line: `python requirements.py pyproject.toml cpu`.

Dependencies are installed before the code is there, so that they are a layer of their own.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path


def requirements(pyproject: str, extras: Sequence[str]) -> list[str]:
    """Raises SystemExit for an extra that the project does not have."""
    project = tomllib.loads(pyproject)["project"]
    known = project["optional-dependencies"]
    unknown = [extra for extra in extras if extra not in known]
    if unknown:
        raise SystemExit(f"there is no extra {unknown[0]!r}; known are {', '.join(known)}")
    return [*project["dependencies"], *(line for extra in extras for line in known[extra])]


if __name__ == "__main__":
    lines = requirements(Path(sys.argv[1]).read_text(), sys.argv[2:])
    sys.stdout.write("\n".join(lines) + "\n")
