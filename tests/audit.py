"""`python -m tests.audit`: fails if an installed package has a known vulnerability.

Says so and passes where the advisory service cannot be asked, as on a machine without network.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any
from urllib.parse import urlsplit

import httpx

SERVICE = "https://pypi.org/pypi/jinja2/2.4.1/json"
"""What `pip-audit` asks for each package, here for a release whose vulnerabilities are known: a
mirror of packages without advisories must not pass for one with them."""
REACH_S, AUDIT_S = 3.0, 120.0
COMMAND = (
    *(sys.executable, "-m", "pip_audit"),
    *("--local", "--skip-editable", "--progress-spinner", "off", "--timeout", "10"),
    *("--format", "json"),
)


def reachable(url: str = SERVICE, timeout_s: float = REACH_S) -> bool:
    """Whether a service that knows advisories answers, with `timeout_s` for each step of that."""
    try:
        answer = httpx.get(url, timeout=timeout_s)
        return answer.status_code == 200 and bool(answer.json()["vulnerabilities"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return False


def vulnerabilities(report: dict[str, Any]) -> list[str]:
    """One line for each advisory about an installed package: what it is, and what mends it."""
    return [
        f"{package['name']} {package['version']}: {advisory['id']}; "
        + (
            "update to " + " or ".join(advisory["fix_versions"])
            if advisory["fix_versions"]
            else "there is no release without it yet"
        )
        for package in report["dependencies"]
        for advisory in package.get("vulns", [])
    ]


def not_audited(report: dict[str, Any]) -> list[str]:
    """Packages that the advisory service does not know, such as builds of our own."""
    return [package["name"] for package in report["dependencies"] if "skip_reason" in package]


def audit(command: tuple[str, ...] = COMMAND, *, url: str = SERVICE) -> tuple[int, str]:
    """The exit code of this program, and what it says."""
    skipped = f"dependencies not audited: skipped, no network ({urlsplit(url).hostname}"
    if not reachable(url):
        return 0, f"{skipped} gives no advisories)"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=AUDIT_S, check=False)
    except subprocess.TimeoutExpired:
        return 0, f"{skipped} did not finish within {AUDIT_S:.0f} s)"
    try:
        report = json.loads(done.stdout)
    except ValueError:
        return 1, f"pip-audit failed: {done.stderr.strip()[-2000:]}"
    known, unknown = vulnerabilities(report), not_audited(report)
    asked = len(report["dependencies"]) - len(unknown)
    summary = f"{asked} packages audited, {len(known)} known vulnerabilities"
    if unknown:
        summary += f"; not known there: {', '.join(unknown)}"
    return (1 if known else 0), "\n".join([*known, summary])


if __name__ == "__main__":
    code, text = audit()
    sys.stderr.write(text + "\n")
    sys.exit(code)
