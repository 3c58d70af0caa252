"""Stands in for `docker` where documented commands are tried without it.

What is asked for is done, by `tests/stand_in_containers.py`, with the compose files as they are.
What it does not know is an error.

    python -m tests.docker_shim compose exec -T cooc cooc keys list
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import uuid
from pathlib import Path

from tests import stand_in_containers as containers
from tests.compose_files import merged, read_settings
from tests.stand_in_containers import STATE, Spec

HERE = Path.cwd()


class Project:
    """What the compose files of this folder make: its services that the profiles allow."""

    def __init__(self, files: list[str]) -> None:
        self.variables = read_settings(HERE / ".env") | os.environ
        profiles = set(self.variables.get("COMPOSE_PROFILES", "").split(","))
        self.name = HERE.name
        self.services = {
            name: service
            for name, service in merged(HERE, self.variables, files).items()
            if profiles & set(service.get("profiles", profiles))
        }

    def container(self, service: str) -> str:
        if service not in self.services:
            raise SystemExit(f"there is no service {service}, only {', '.join(self.services)}")
        return f"{self.name}-{service}"

    def environment(self, service: str) -> dict[str, str]:
        values = {
            name: self.variables.get(name) if value is None else str(value)
            for name, value in self.services[service]["environment"].items()
        }
        return {name: value for name, value in values.items() if value is not None}

    def spec(self, service: str) -> Spec:
        given = self.services[service]
        return Spec(
            containers.image_id(given["image"]),
            self.environment(service),
            containers.mounted(given.get("volumes", []), HERE, f"{self.name}_"),
            containers.published(given.get("ports", [])),
        )


def compose(words: list[str]) -> int:
    parser = argparse.ArgumentParser("docker compose", allow_abbrev=False)
    parser.add_argument("-f", action="append", default=[], dest="files")
    verbs = parser.add_subparsers(dest="verb", required=True)

    def verb(name: str, *flags: str, services: str | int = "*") -> argparse.ArgumentParser:
        added = verbs.add_parser(name, allow_abbrev=False)
        for flag in flags:
            added.add_argument(flag, action="store_true")
        added.add_argument("services", nargs=services, default=[])
        return added

    verb("build", "--pull")
    verb("up", "-d", "--wait", "--no-build")
    verb("ps")
    verb("config")
    verb("logs").add_argument("--tail", type=int, default=1000)
    verb("stop")
    verb("kill").add_argument("-s", required=True, dest="signal")
    verb("down", "--volumes")
    verb("cp", services=2)
    for name, flags in {"run": ["-T", "--rm"], "exec": ["-T"]}.items():
        within = verb(name, *flags, services=argparse.REMAINDER)
        within.add_argument("-e", action="append", default=[], dest="environment")
        within.add_argument("--entrypoint")
    asked = parser.parse_args(words)
    project = Project(asked.files)
    if asked.verb in ("run", "exec"):
        return within_container(project, asked)
    if asked.verb == "cp":
        return copy(project, *asked.services)
    names = asked.services or list(project.services)
    if asked.verb == "build":
        for name in names:
            given = project.services[name]
            containers.build(given["build"]["dockerfile"], given["image"], HERE)
    elif asked.verb == "config":
        say(json.dumps({name: project.environment(name) for name in names}, indent=2))
    elif asked.verb == "up":
        for name in names:
            containers.start(project.container(name), project.spec(name))
        for name in names if asked.wait else []:
            containers.wait(project.container(name))
    elif asked.verb == "down":
        for name in names:
            containers.remove(project.container(name))
        for folder in (STATE / "volumes").glob(f"{project.name}_*") if asked.volumes else []:
            containers.remove_volume(folder.name)
    else:
        for name in map(project.container, names):
            if asked.verb == "stop":
                containers.stop(name)
            elif asked.verb == "kill":
                containers.kill(name, signal.Signals[f"SIG{asked.signal}"])
            elif asked.verb == "ps":
                say(f"{name} {'running' if containers.running(name) else 'exited'}")
            elif asked.verb == "logs":
                say(*containers.log_of(name).read_text().splitlines()[-asked.tail :])
    return 0


def within_container(project: Project, asked: argparse.Namespace) -> int:
    service, *arguments = asked.services
    name = project.container(service)
    if asked.verb == "exec":
        if not containers.running(name):
            raise SystemExit(f"{service} does not run")
        asked.entrypoint, *arguments = arguments
    spec = project.spec(service) if asked.verb == "run" else containers.spec_of(name)
    more = dict(entry.split("=", 1) for entry in asked.environment)
    spec = Spec(spec.image, spec.environment | more, spec.mounts, spec.ports)
    return containers.run_once(spec, arguments, asked.entrypoint)


def copy(project: Project, source: str, target: str) -> int:
    service, _, place = target.partition(":")
    mounts = containers.spec_of(project.container(service)).mounts
    folder = containers.inside(place, mounts)
    if folder == place:
        raise SystemExit(f"{place} is in none of {', '.join(mounts)}, and the rest is read-only")
    shutil.copy(source, folder)
    return 0


def docker(words: list[str]) -> int:
    parser = argparse.ArgumentParser("docker", allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", allow_abbrev=False)
    build.add_argument("-f", required=True, dest="dockerfile")
    build.add_argument("-t", required=True, dest="tag")
    build.add_argument("context", type=Path)
    tag = verbs.add_parser("tag", allow_abbrev=False)
    tag.add_argument("old")
    tag.add_argument("new")
    run = verbs.add_parser("run", allow_abbrev=False)
    for flag in ("--rm", "-d", "--init", "--read-only"):
        run.add_argument(flag, action="store_true")
    run.add_argument("--name", default=uuid.uuid4().hex)
    run.add_argument("--tmpfs")
    run.add_argument("-v", action="append", default=[], dest="volumes")
    run.add_argument("-p", action="append", default=[], dest="ports")
    run.add_argument("image")
    run.add_argument("arguments", nargs=argparse.REMAINDER)
    rm = verbs.add_parser("rm", allow_abbrev=False)
    rm.add_argument("-f", action="store_true", required=True)
    rm.add_argument("names", nargs="+")
    volume = verbs.add_parser("volume", allow_abbrev=False)
    volume.add_argument("action", choices=["rm"])
    volume.add_argument("names", nargs="+")
    asked = parser.parse_args(words)
    if asked.verb == "build":
        containers.build(asked.dockerfile, asked.tag, asked.context)
    elif asked.verb == "tag":
        containers.tag(asked.old, asked.new)
    elif asked.verb == "rm":
        for name in asked.names:
            containers.remove(name, signal.SIGKILL)
    elif asked.verb == "volume":
        for name in asked.names:
            containers.remove_volume(name)
    else:
        mounts = containers.mounted(asked.volumes, HERE)
        image = containers.image_id(asked.image)
        spec = Spec(image, {}, mounts, containers.published(asked.ports))
        if not asked.d:
            return containers.run_once(spec, asked.arguments)
        if asked.arguments or containers.running(asked.name):
            raise SystemExit(f"{asked.name} runs already, or is to run {asked.arguments}")
        containers.start(asked.name, spec)
    return 0


def say(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["compose"]:
        sys.exit(compose(sys.argv[2:]))
    sys.exit(docker(sys.argv[1:]))
