"""The files of docker/, and docker-compose.yml, without docker: that they agree with the code."""

from __future__ import annotations

import ctypes
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from app import __version__
from app.allocator import M_ARENA_MAX, M_MMAP_MAX, M_TOP_PAD, M_TRIM_THRESHOLD, keep_large_blocks
from app.settings import PREFIX, Settings
from tests.compose_files import environment_of, read_compose, read_settings
from tests.server import serving

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILES = [ROOT / "docker" / "Dockerfile", ROOT / "docker" / "nginx" / "Dockerfile"]
SETTINGS = {f"{PREFIX}{name.upper()}": name for name in Settings.model_fields}


def compose(name: str = "docker-compose.yml", **environment: str) -> dict[str, Any]:
    return read_compose(ROOT / name, environment)


def test_every_setting_can_be_given_to_the_containers() -> None:
    image = {name for name in environment_of(DOCKERFILES[0]) if name.startswith(PREFIX)}
    for service in ("cooc", "cooc-gpu"):
        names = compose()["services"][service]["environment"]
        passed = {name for name in names if not name.startswith("OTEL_")}
        assert passed <= set(SETTINGS), "compose passes what is no setting"
        missing = set(SETTINGS) - passed - image
        assert not missing, f"{sorted(missing)} cannot be set with docker-compose.yml"
    assert image <= set(SETTINGS)


def test_both_containers_have_the_limits_of_the_settings() -> None:
    services = compose()["services"]
    limits = {name: services["nginx"]["environment"][name] for name in compose()["x-limits"]}
    assert {"COOC_MAX_UPLOAD_MB", "COOC_MAX_BULK_MB", "COOC_DEADLINE_S"} < set(limits)
    defaults = {name: Settings.model_fields[SETTINGS[name]].default for name in limits}
    assert {name: value or "" for name, value in limits.items()} == defaults
    for service in ("cooc", "cooc-gpu"):
        assert limits.items() <= services[service]["environment"].items()
    changed = compose(COOC_MAX_BULK_MB="7")["services"]
    assert {changed[name]["environment"]["COOC_MAX_BULK_MB"] for name in changed} == {7}


def test_the_start_script_has_the_same_defaults() -> None:
    script = (ROOT / "docker" / "nginx" / "start.sh").read_text()
    defaults = dict(re.findall(r"\$\{(COOC_\w+):?[-=](\w*)\}", script))
    assert len(defaults) == 4
    for name, value in defaults.items():
        default = Settings.model_fields[SETTINGS[name]].default
        assert value == (f"{default:g}" if default else "")


def test_nothing_but_nginx_can_be_reached_and_everything_is_locked_up() -> None:
    services = compose()["services"]
    assert {name for name in services if "ports" in services[name]} == {"nginx"}
    assert services["nginx"]["ports"] == ["8080:8080"]
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["restart"] == "unless-stopped"
        assert service["mem_limit"]
        assert all(entry.startswith("/tmp:size=") for entry in service["tmpfs"])
        assert "privileged" not in service


def test_what_is_written_lies_in_volumes() -> None:
    image = environment_of(DOCKERFILES[0])
    volumes = re.search(r"^VOLUME (.*)$", DOCKERFILES[0].read_text(), re.MULTILINE)
    assert volumes is not None
    named = yaml.safe_load(volumes[1])
    assert {image["COOC_DATA_DIR"], image["COOC_CACHE_DIR"], image["TMPDIR"]} == set(named)
    for service in ("cooc", "cooc-gpu"):
        mounted = [entry.split(":") for entry in compose()["services"][service]["volumes"]]
        assert {place for _, place in mounted} == set(named)
        assert {name for name, _ in mounted} == set(compose()["volumes"])


def test_the_service_has_time_to_stop_and_trusts_its_network() -> None:
    service = compose()["services"]["cooc"]
    grace = int(service["stop_grace_period"].removesuffix("s"))
    assert grace > Settings().stop_s + 10
    trusted = service["environment"]["COOC_TRUSTED_PROXIES"]
    assert "172.16.0.0/12" in Settings(trusted_proxies=trusted).trusted_proxies


def test_one_of_the_profiles_is_chosen_and_the_other_is_for_gpus() -> None:
    assert read_settings(ROOT / ".env") == {"COMPOSE_PROFILES": "cpu"}
    services = compose()["services"]
    assert services["cooc"]["profiles"] == ["cpu"]
    gpu = services["cooc-gpu"]
    assert gpu["profiles"] == ["gpu"]
    assert gpu["build"]["args"]["EXTRA"] == "gpu"
    assert gpu["networks"]["default"]["aliases"] == ["cooc"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_every_variable_of_the_example_settings_is_read_somewhere() -> None:
    read = set(re.findall(r"\$\{(\w+):", (ROOT / "docker-compose.yml").read_text()))
    read |= set(re.findall(r"\$\{(\w+):", (ROOT / "docker" / "tls.yml").read_text()))
    named = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env").read_text(), re.MULTILINE))
    assert named - read - set(SETTINGS) == {"COMPOSE_PROFILES", "COMPOSE_FILE"}
    documented = (ROOT / "docs" / "deployment.md").read_text()
    for name in (read | named) - set(SETTINGS):
        assert f"`{name}" in documented, name


def test_https_adds_a_port_and_certificates_to_nginx_alone() -> None:
    added = compose("docker/tls.yml", TLS_DIR="/certificates", HTTPS_PORT="8443")["services"]
    assert list(added) == ["nginx"]
    assert added["nginx"]["ports"] == ["8443:8443"]
    assert added["nginx"]["volumes"] == ["/certificates:/tls:ro"]
    assert added["nginx"]["environment"] == {"TLS": "on", "HTTPS_PORT": 8443}
    with pytest.raises(AssertionError, match="TLS_DIR"):
        compose("docker/tls.yml")


def test_the_base_images_are_the_same_everywhere() -> None:
    services = compose()["services"]
    for dockerfile, service in zip(DOCKERFILES, ("cooc", "nginx"), strict=True):
        default = re.search(r"^ARG BASE=(\S+)$", dockerfile.read_text(), re.MULTILINE)
        assert default is not None
        assert services[service]["build"]["args"]["BASE"] == default[1]
        assert (ROOT / services[service]["build"]["dockerfile"]) == dockerfile
        assert f"`{default[1]}`" in (ROOT / "docs" / "deployment.md").read_text()


def test_memory_is_kept_as_the_program_itself_would(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[int, int] = {}

    class Library:
        def __init__(self, _: None) -> None: ...

        def mallopt(self, option: int, value: int) -> int:
            asked[option] = value
            return 1

    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert keep_large_blocks()
    image = environment_of(DOCKERFILES[0])
    names = {
        "MALLOC_ARENA_MAX": M_ARENA_MAX,
        "MALLOC_MMAP_MAX_": M_MMAP_MAX,
        "MALLOC_TRIM_THRESHOLD_": M_TRIM_THRESHOLD,
        "MALLOC_TOP_PAD_": M_TOP_PAD,
    }
    assert {name for name in image if name.startswith("MALLOC")} == set(names)
    assert {option: int(image[name]) for name, option in names.items()} == asked


def test_what_is_installed_is_what_the_project_names_in_versions_it_allows() -> None:
    requirements = runpy.run_path(str(ROOT / "docker" / "requirements.py"))["requirements"]
    pyproject = (ROOT / "pyproject.toml").read_text()
    pinned = dict(
        line.split("==")
        for line in (ROOT / "docker" / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    project = tomllib.loads(pyproject)["project"]
    for extra in ("cpu", "gpu"):
        lines = requirements(pyproject, [extra, "heic", "otel"])
        assert set(lines) >= set(project["dependencies"])
        for line in lines:
            needed = Requirement(line)
            assert needed.name in pinned, f"docker/constraints.txt has no version of {needed.name}"
            assert needed.specifier.contains(Version(pinned[needed.name])), line
    with pytest.raises(SystemExit, match="tpu"):
        requirements(pyproject, ["tpu"])


def test_the_health_of_a_container_is_that_of_its_service(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "docker" / "healthcheck.py")]

    def healthy(port: int, **more: str) -> bool:
        environment = {**os.environ, **more, "COOC_PORT": str(port)}
        return subprocess.run(command, env=environment, capture_output=True).returncode == 0

    with serving(tmp_path / "index") as server:
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        assert healthy(server.port)
        assert healthy(server.port, http_proxy="http://127.0.0.1:9")
    assert not healthy(server.port)


def test_the_image_runs_as_nobody_in_particular_and_says_what_it_is() -> None:
    for dockerfile in DOCKERFILES:
        text = dockerfile.read_text()
        user = re.findall(r"^USER (\S+)$", text, re.MULTILINE)[-1]
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
        assert "STOPSIGNAL" in text
        assert ":latest" not in text
    assert "HEALTHCHECK" in DOCKERFILES[0].read_text()
    assert "org.opencontainers.image.licenses" in DOCKERFILES[0].read_text()
    assert f"\nARG VERSION={__version__}\n" in DOCKERFILES[0].read_text()


def test_only_what_is_named_gets_into_a_build() -> None:
    first, *rest = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert first == "*"
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for pattern in packages["packages"]["find"]["include"]:
        assert f"!{pattern.removesuffix('*')}" in rest
    for dockerfile in DOCKERFILES:
        for copied in re.findall(r"docker/[\w./-]+", dockerfile.read_text()):
            if "COPY" in dockerfile.read_text() and not copied.endswith("Dockerfile"):
                assert (ROOT / copied).exists(), copied
                assert f"!{copied}" in rest or f"!{Path(copied).parent}" in rest


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        ["hadolint", *map(str, DOCKERFILES)], capture_output=True, text=True, check=False
    )
    assert done.stdout + done.stderr == ""
