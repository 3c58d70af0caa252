"""The files of docker/ as docker and compose read them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

BASE, OVERRIDE = "docker-compose.yml", "docker-compose.override.yml"


def filled_in(text: str, environment: Mapping[str, str]) -> str:
    """`${NAME:-default}` and `${NAME:?needed}` as compose reads them."""

    def value(match: re.Match[str]) -> str:
        found = environment.get(match["name"], "")
        assert found or match["kind"] != ":?", match[0]
        return found or match["rest"]

    return re.sub(r"\$\{(?P<name>\w+)(?P<kind>:[-?])(?P<rest>[^}]*)\}", value, text)


def read_compose(path: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    text = filled_in(path.read_text(), environment)
    assert "${" not in text
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def read_settings(path: Path) -> dict[str, str]:
    """The lines of a `.env`; of two with one name the later one counts."""
    lines = path.read_text().splitlines() if path.exists() else []
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def merged(
    folder: Path, environment: Mapping[str, str], files: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """The services of a project: of `files`, else of COMPOSE_FILE, else of those compose knows."""
    if not files and "COMPOSE_FILE" in environment:
        files = environment["COMPOSE_FILE"].split(":")
    if not files:
        files = [BASE, *([OVERRIDE] if (folder / OVERRIDE).exists() else [])]
    services: dict[str, dict[str, Any]] = {}
    for file in files:
        for name, added in read_compose(folder / file, environment)["services"].items():
            service = services.setdefault(name, {})
            for key, value in added.items():
                if key == "environment":
                    value = service.get(key, {}) | value
                elif key in ("volumes", "ports"):
                    value = service.get(key, []) + value
                service[key] = value
    return services


def environment_of(dockerfile: Path) -> dict[str, str]:
    """The ENV of the last stage."""
    stage = dockerfile.read_text().replace("\\\n", " ").split("\nFROM ")[-1]
    pairs: dict[str, str] = {}
    for line in re.findall(r"^ENV (.*)$", stage, re.MULTILINE):
        pairs |= dict(pair.split("=", 1) for pair in line.split())
    return pairs
