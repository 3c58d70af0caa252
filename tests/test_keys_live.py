"""Keys and a service in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.security.keys import KeyFile
from app.security.scopes import Scope
from app.settings import Settings
from app.terminal.client import Client, ServiceProblem
from app.terminal.session import session
from tests.drawing import photo
from tests.keyed import key_id, new_key
from tests.server import Server, serving


def cooc(server: Server, *arguments: str) -> str:
    command = [sys.executable, "-m", "app.cli", *arguments]
    done = subprocess.run(
        command, env=server.environment, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def test_keys_are_made_used_and_revoked_beside_a_running_service(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with serving(folder) as server:
        http = server.http
        assert http.get("/jobs").status_code == 200  # open, on loopback
        assert http.get("/jobs", headers={"Host": "evil.example"}).status_code == 403
        assert http.get("/jobs", headers={"X-Forwarded-For": "192.0.2.7"}).status_code == 403

        made = json.loads(cooc(server, "keys", "create", "robot", "--scope", "write", "--json"))
        key = made["key"]
        assert http.get("/jobs").status_code == 401
        headers = {"Authorization": f"Bearer {key}"}
        answer = http.put("/images/a.jpg", files={"image": photo(1)}, headers=headers)
        assert answer.status_code == 201
        assert http.get("/admin/index", headers=headers).status_code == 403

        # Commands hand their work to the service, with the key of COOC_API_KEY.
        server.environment["COOC_API_KEY"] = new_key(folder, Scope.ADMIN)
        assert json.loads(cooc(server, "index", "stats", "--json"))["count"] == 1
        with session(Settings(data_dir=folder, api_key=key), server.url) as target:
            assert target.client is not None
            assert target.client.call("GET", "/images/a.jpg")["id"] == "a.jpg"
        with (
            closing(Client(server.url)) as stranger,
            pytest.raises(ServiceProblem, match="COOC_API_KEY"),
        ):
            stranger.call("GET", "/images/a.jpg")

        cooc(server, "keys", "revoke", made["id"])
        assert http.get("/jobs", headers=headers).status_code == 401
        assert made["id"] in http.get("/jobs", headers=headers).json()["detail"]

        other = new_key(folder, Scope.SEARCH)
        assert http.get("/jobs", headers={"X-API-Key": other}).status_code == 200
        KeyFile(folder).revoke(key_id(other), datetime.now(UTC))
        assert http.get("/jobs", headers={"X-API-Key": other}).status_code == 401

        log = (tmp_path / "server.log").read_text()
        assert "ready at" in log
        for secret in (key, other, server.environment["COOC_API_KEY"]):
            assert secret.split("_")[2] not in log
        assert "server" not in http.get("/livez").headers


def test_forwarded_headers_are_believed_from_trusted_addresses_only(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    headers = {"X-API-Key": new_key(folder, Scope.SEARCH), "X-Forwarded-Proto": "https"}
    for trusted, believed in (("127.0.0.0/8", True), ("10.0.0.0/8", False)):
        # An uvicorn setting of the same kind does not count.
        more = {"COOC_TRUSTED_PROXIES": trusted, "FORWARDED_ALLOW_IPS": "*"}
        with serving(folder, **more) as server:
            answer = server.http.get("/jobs", headers=headers)
            assert answer.status_code == 200
            assert ("Strict-Transport-Security" in answer.headers) is believed
            wrong = {**headers, "X-API-Key": "wrong"}
            codes = {
                server.http.get(
                    "/jobs", headers=wrong | {"X-Forwarded-For": f"192.0.2.{number}"}
                ).status_code
                for number in range(25)
            }
            # Counted by client where the proxy is believed, else by what the socket says.
            assert codes == ({401} if believed else {401, 429})


def test_a_public_service_without_keys_ends_with_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app.cli", "serve", "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(
        [*command, "--data-dir", str(tmp_path / "index")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert "0.0.0.0 is not loopback and there is no key" in errors[0]
    assert "`cooc keys create NAME --scope admin`" in errors[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "index").exists()
