"""The proxy of docker/nginx in front of real services."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import trustme

from app.main import create_app
from app.schemas import ProblemOut
from app.security.scopes import Scope
from app.settings import Settings
from tests.drawing import photo
from tests.keyed import new_key
from tests.patience import PATIENCE_S, until
from tests.proxy import answering, free_port, missing, proxied, read_head, start_script
from tests.server import Server, serving

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")

LIMITS = {"COOC_MAX_UPLOAD_MB": "1", "COOC_MAX_BULK_MB": "8"}


class Site:
    """A service with a key, and a proxy before it."""

    def __init__(self, server: Server, url: str, key: str, log: Path) -> None:
        self.server, self.key, self.log = server, key, log
        self.port = int(urlsplit(url).port or 0)
        self.http = httpx.Client(base_url=url, timeout=PATIENCE_S)
        self.headers = {"Authorization": f"Bearer {key}"}

    def send(self, data: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        connection.sendall(data)
        return connection


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    key = new_key(folder / "index", Scope.ADMIN)
    with (
        serving(folder / "index", **LIMITS) as server,
        proxied(folder / "nginx", server.port, **LIMITS) as url,
    ):
        site = Site(server, url, key, folder / "nginx" / "access.log")
        yield site
        site.http.close()


def problem(answer: httpx.Response) -> ProblemOut:
    assert answer.headers["Content-Type"] == "application/problem+json"
    found = ProblemOut.model_validate(answer.json())
    assert found.status == answer.status_code
    assert found.request_id == answer.headers["X-Request-ID"]
    return found


def is_of_the_proxy(answer: httpx.Response) -> bool:
    """The service sends its policy for browsers with all answers, and more besides."""
    return "Permissions-Policy" not in answer.headers


def response(connection: socket.socket) -> httpx.Response:
    """The answer on a connection that was written to by hand."""
    with connection:
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())


def test_images_are_added_and_found_through_the_proxy(site: Site) -> None:
    answer = site.http.put("/images/a%2Fb c.jpg", files={"image": photo(1)}, headers=site.headers)
    assert answer.status_code == 201
    assert answer.json()["id"] == "a/b c.jpg"
    answer = site.http.post("/search", files={"image": photo(1)}, headers=site.headers)
    assert answer.json()["results"][0]["match_type"] == "exact"
    thumbnail = site.http.get(answer.json()["results"][0]["thumbnail_url"], headers=site.headers)
    assert thumbnail.headers["Content-Type"] == "image/jpeg"
    assert site.http.get("/").text.startswith("<!doctype html>")
    assert site.http.get("/jobs").status_code == 401


def test_the_name_of_a_request_goes_through_and_is_logged_and_no_query_is(site: Site) -> None:
    given = site.http.get("/livez?secret=42", headers={"X-Request-ID": "from-a-client"})
    assert given.headers["X-Request-ID"] == "from-a-client"
    made = site.http.get("/livez", headers={"X-Request-ID": "not one; at all"})
    assert len(made.headers["X-Request-ID"]) == 32
    until(lambda: made.headers["X-Request-ID"] in site.log.read_text())
    log = site.log.read_text()
    assert "GET /livez 200" in log
    assert log.count("from-a-client") == 1
    assert "secret" not in log
    assert site.key not in log


def test_a_long_photo_is_no_reason_to_log_a_query(tmp_path: Path) -> None:
    def taking(connection: socket.socket) -> None:
        head, _, content = read_head(connection).partition(b"\r\n\r\n")
        (length,) = re.findall(rb"Content-Length: (\d+)", head)
        while len(content) < int(length):
            content += connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with answering(taking) as port, proxied(tmp_path, port) as url:
        answer = httpx.post(f"{url}/search?secret=42", content=bytes(300_000), timeout=PATIENCE_S)
        assert answer.status_code == 200
        until(lambda: "POST /search 200" in (tmp_path / "access.log").read_text())
    assert "secret" not in (tmp_path / "error.log").read_text()


def test_bodies_are_refused_where_the_service_would_refuse_them(site: Site) -> None:
    app = create_app(Settings(max_upload_mb=1, max_bulk_mb=8))
    limit: dict[str, Any] = next(m.kwargs for m in app.user_middleware if "others" in m.kwargs)
    bounds = {"/images/a.jpg": limit["max_bytes"], "/other": limit["max_bytes"], **limit["others"]}
    assert len(bounds) >= 4
    for path, bytes_ in bounds.items():
        head = f"POST {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: "
        passed = response(site.send(f"{head}{bytes_}\r\n\r\n".encode() + bytes_ * b"x"))
        # The service speaks, not the proxy.
        assert passed.status_code == (415 if path == "/session" else 401), path
        assert not is_of_the_proxy(passed)
        known = head.replace("Host:", f"X-API-Key: {site.key}\r\nHost:")
        passed = response(site.send(f"{known}{bytes_}\r\n\r\n".encode() + bytes_ * b"x"))
        assert not is_of_the_proxy(passed), path
        refused = response(site.send(f"{head}{bytes_ + 1}\r\n\r\n".encode()))
        assert refused.status_code == 413, path
        assert is_of_the_proxy(refused)
        assert problem(refused).code == "payload_too_large"
        assert problem(refused).instance == path
        assert "a photo may have 1 MB, a bulk upload 8 MB" in problem(refused).detail


def test_bodies_of_unknown_length_are_refused_too(site: Site) -> None:
    def body() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
        for _ in range(64):
            yield b"x" * (1 << 18)

    answer = site.http.post(
        "/search",
        content=body(),
        headers={**site.headers, "Content-Type": "multipart/form-data; boundary=x"},
    )
    assert answer.status_code == 413
    assert problem(answer).code == "payload_too_large"


@pytest.mark.parametrize(("path", "bytes_"), [("/index/add", 8 << 20), ("/search", 1 << 20)])
def test_strangers_are_answered_though_they_go_on_sending(
    site: Site, path: str, bytes_: int
) -> None:
    # Over and over through one client, which takes the connection that it had if it may.
    for _ in range(20):
        answer = site.http.post(path, content=bytes_ * b"x")
        assert answer.status_code == 401
        assert problem(answer).code == "key_required"


UPLOADS = ("POST /search", "POST /search/batch", "POST /compare", "PUT /images/a.jpg", "PATCH /a")


LENGTH = "Content-Length: 1000000\r\n\r\nx"
CHUNKED = "Transfer-Encoding: chunked\r\n\r\n1\r\nx"


@pytest.mark.parametrize("line", UPLOADS)
@pytest.mark.parametrize(
    ("rest", "code"),
    [
        (LENGTH, "key_required"),
        (CHUNKED, "key_required"),
        (f"X-API-Key: cooc_mine\r\n{LENGTH}", "key_refused"),
    ],
)
def test_strangers_are_answered_before_their_upload_is_kept(
    site: Site, line: str, rest: str, code: str
) -> None:
    # Nothing more of the body ever comes.
    answer = response(site.send(f"{line} HTTP/1.1\r\nHost: here\r\n{rest}".encode()))
    assert (answer.status_code, problem(answer).code) == (401, code)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
    assert not is_of_the_proxy(answer)


def test_what_has_no_body_gets_no_room_for_one(site: Site) -> None:
    for line in ("GET /livez", "GET /search", "HEAD /", "DELETE /images/a", "GET /jobs/a/events"):
        head = f"{line} HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: "
        with site.send(f"{head}8193\r\n\r\n".encode()) as connection:
            assert b" 413 " in read_head(connection).split(b"\r\n")[0], line
        with site.send(f"{head}2\r\n\r\n{{}}".encode()) as connection:
            assert b" 413 " not in read_head(connection).split(b"\r\n")[0], line


@pytest.mark.parametrize("status", ["404 Not Found", "429 Too Many", "503 Out", "500 Internal"])
def test_an_upload_is_passed_on_where_the_service_cannot_be_asked(
    tmp_path: Path, status: str
) -> None:
    def refusing(connection: socket.socket) -> None:
        first = read_head(connection).split(b" ")[0]
        said = status if first == b"GET" else "507 Its Own"
        connection.sendall(f"HTTP/1.1 {said}\r\nContent-Length: 0\r\n\r\n".encode())

    head = b"PUT /images/a HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n"
    with answering(refusing) as port, proxied(tmp_path, port) as url:
        place = ("127.0.0.1", int(urlsplit(url).port or 0))
        connection = socket.create_connection(place, timeout=PATIENCE_S)
        connection.sendall(head)
        assert response(connection).status_code == 507


def test_a_service_that_sees_a_photo_sees_all_of_it(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def reading(connection: socket.socket) -> None:
        seen.append(read_head(connection))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def body() -> Iterator[bytes]:
        yield b"first"
        # Its workers do not wait for each other.
        until(lambda: seen)
        # Whether nginx has passed it on by now does not depend on a clock: it has answered another.
        httpx.get(f"{url}/other", timeout=PATIENCE_S)
        assert {head.split(b" ")[1] for head in seen} == {b"/version", b"/other"}
        yield b"second"

    with answering(reading) as port, proxied(tmp_path, port) as url:
        length = {"Content-Length": str(len(b"firstsecond"))}
        httpx.post(f"{url}/search", content=body(), headers=length, timeout=PATIENCE_S)
    assert seen[-1].startswith(b"POST /search ")
    assert len(seen) == 3


def test_a_bulk_upload_goes_through_and_is_followed(site: Site) -> None:
    files = [("files", (f"{number}.jpg", photo(100 + number))) for number in range(5)]
    answer = site.http.post("/index/add", files=files, headers=site.headers)
    assert answer.status_code == 202
    url = f"{answer.headers['Location']}/events"
    with site.http.stream("GET", url, headers=site.headers, timeout=PATIENCE_S) as events:
        lines = [line for line in events.iter_lines() if line.startswith(("event", "data"))]
    assert lines[-2] == "event: end"
    job = json.loads(lines[-1].removeprefix("data: "))
    assert (job["state"], job["progress"]["added"]) == ("succeeded", 5)


@pytest.mark.parametrize(
    ("request_line", "headers", "status", "code"),
    [
        ("TRACE / HTTP/1.1", "", 405, "method_not_allowed"),
        ("PROPFIND /images HTTP/1.1", "", 405, "method_not_allowed"),
        ("OPTIONS /search HTTP/1.1", "", 405, "method_not_allowed"),
        ("CONNECT here:80 HTTP/1.1", "", 400, "bad_request"),
        ("GET /" + 20_000 * "a" + " HTTP/1.1", "", 414, "uri_too_long"),
        ("GET / HTTP/1.1", f"X: {20_000 * 'a'}\r\n", 431, "request_header_fields_too_large"),
        ("GET / HTTP/1.1", "Content-Length: many\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1", "Host: another\r\n", 400, "bad_request"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_the_service_does_not_know_is_refused_with_a_problem(
    site: Site, request_line: str, headers: str, status: int, code: str
) -> None:
    sent = f"{request_line}\r\nHost: here\r\nConnection: close\r\n{headers}\r\n".encode()
    answer = response(site.send(sent))
    assert answer.status_code == status
    assert problem(answer).code == code
    assert is_of_the_proxy(answer)


def test_an_address_cannot_break_out_of_a_problem(site: Site) -> None:
    sent = b'TRACE /a"},{"b":"\\x HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n'
    assert problem(response(site.send(sent))).instance == ""


def test_json_is_compressed_and_nothing_tells_the_version(site: Site) -> None:
    answer = site.http.get("/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert "paths" in answer.json()
    assert answer.headers["Server"] == "nginx"


def test_what_a_client_claims_about_itself_is_replaced(site: Site) -> None:
    claimed = {**site.headers, "X-Forwarded-Proto": "https", "X-Forwarded-For": "10.1.1.1"}
    assert "Strict-Transport-Security" not in site.http.get("/jobs", headers=claimed).headers


def echo(connection: socket.socket) -> None:
    head = read_head(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(head), head))


def seen_headers(answer: httpx.Response) -> dict[str, str]:
    _, *lines = answer.text.strip().split("\r\n")
    return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}


def test_another_proxy_in_front_is_believed_if_it_is_named(tmp_path: Path) -> None:
    sent = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https", "Forwarded": "for=me"}
    with answering(echo) as port:
        with proxied(tmp_path / "alone", port) as url:
            alone = seen_headers(httpx.get(url, headers=sent, timeout=PATIENCE_S))
        named = "198.51.100.1,127.0.0.0/8"
        with proxied(tmp_path / "behind", port, FRONT_PROXIES=named) as url:
            behind = seen_headers(httpx.get(url, headers=sent, timeout=PATIENCE_S))
    assert (alone["x-forwarded-for"], alone["x-forwarded-proto"]) == ("127.0.0.1", "http")
    assert (behind["x-forwarded-for"], behind["x-forwarded-proto"]) == ("192.0.2.7", "https")
    assert behind["host"] == urlsplit(url).netloc
    assert "forwarded" not in alone | behind


def test_events_arrive_when_they_are_sent(tmp_path: Path) -> None:
    arrived = threading.Event()

    def events(connection: socket.socket) -> None:
        read_head(connection)
        # Says nothing of buffering itself.
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        connection.sendall(b"data: first\n\n")
        assert arrived.wait(PATIENCE_S)
        connection.sendall(b"data: second\n\n")

    with (
        answering(events) as port,
        proxied(tmp_path, port, COOC_ROOT_PATH="/photos") as url,
        httpx.stream("GET", f"{url}/photos/jobs/abc/events", timeout=PATIENCE_S) as answer,
    ):
        lines = (line for line in answer.iter_lines() if line)
        assert next(lines) == "data: first"
        arrived.set()
        assert next(lines) == "data: second"


def test_a_bulk_upload_is_passed_on_while_it_arrives(tmp_path: Path) -> None:
    begun = threading.Event()

    def reading(connection: socket.socket) -> None:
        received = read_head(connection)
        while b"first" not in received:
            received += connection.recv(65536)
        begun.set()
        while not received.endswith(b"second"):
            received += connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def body() -> Iterator[bytes]:
        yield b"first"
        assert begun.wait(PATIENCE_S)
        yield b"second"

    with answering(reading) as port, proxied(tmp_path, port) as url:
        length = {"Content-Length": str(len(b"firstsecond"))}
        answer = httpx.post(f"{url}/index/add", content=body(), headers=length, timeout=PATIENCE_S)
        assert answer.status_code == 200


def test_a_service_that_does_not_answer_is_a_problem(tmp_path: Path) -> None:
    with proxied(tmp_path / "none", free_port()) as url:
        answer = httpx.post(f"{url}/search", content=b"x", timeout=PATIENCE_S)
        assert problem(answer).code == "bad_gateway"
        answer = httpx.get(f"{url}/readyz", timeout=PATIENCE_S)
        assert problem(answer).code == "bad_gateway"
        assert answer.headers["Retry-After"] == "5"
    enough = threading.Event()

    def silent(connection: socket.socket) -> None:
        read_head(connection)
        enough.wait(PATIENCE_S)

    with (
        answering(silent) as port,
        proxied(tmp_path / "slow", port, COOC_DEADLINE_S="0.5", MARGIN_S="1") as url,
    ):
        answer = httpx.get(f"{url}/readyz", timeout=PATIENCE_S)
        enough.set()
    assert problem(answer).code == "gateway_timeout"


def test_below_a_prefix_everything_is_there(tmp_path: Path) -> None:
    key = new_key(tmp_path / "index", Scope.ADMIN)
    root = {"COOC_ROOT_PATH": "/shop/photos"}
    with (
        serving(tmp_path / "index", **root) as server,
        proxied(tmp_path / "nginx", server.port, **root) as url,
        httpx.Client(base_url=url, headers={"X-API-Key": key}, timeout=PATIENCE_S) as http,
    ):
        moved = http.get("/shop/photos")
        assert (moved.status_code, moved.headers["Location"]) == (308, f"{url}/shop/photos/")
        styles = re.findall(r'rel="stylesheet" href="([^"/][^"]*)"', http.get("/shop/photos/").text)
        assert styles
        for style in styles:
            assert http.get(f"/shop/photos/{style}").status_code == 200
        answer = http.put("/shop/photos/images/a%2Fb%25.jpg", files={"image": photo(1)})
        assert answer.json()["id"] == "a/b%.jpg"
        found = http.post("/shop/photos/search", files={"image": photo(1)}).json()["results"][0]
        assert found["thumbnail_url"].startswith("/shop/photos/")
        assert http.get(found["thumbnail_url"]).status_code == 200
        added = http.post("/shop/photos/index/add", files={"files": ("b.jpg", photo(2))})
        assert added.headers["Location"].startswith("/shop/photos/jobs/")
        assert http.get(added.headers["Location"]).status_code == 200
        for elsewhere in ("/", "/search", "/shop/photosearch"):
            assert problem(http.get(elsewhere)).code == "not_found"


@pytest.mark.parametrize("published", ["", "127.0.0.1:"])
def test_with_certificates_it_speaks_https_and_sends_http_there(
    tmp_path: Path, published: str
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    tls = tmp_path / "tls"
    tls.mkdir()
    certificate.private_key_pem.write_to_path(str(tls / "privkey.pem"))
    for part in certificate.cert_chain_pems:
        part.write_to_path(str(tls / "fullchain.pem"), append=True)
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    port = free_port()
    settings = {
        "TLS": "on",
        "TLS_DIR": str(tls),
        "HTTPS_LISTEN": f"127.0.0.1:{port}",
        "HTTPS_PORT": f"{published}{port}",
    }
    key = new_key(tmp_path / "index", Scope.SEARCH)
    https = f"https://127.0.0.1:{port}"
    with (
        serving(tmp_path / "index") as server,
        proxied(tmp_path / "nginx", server.port, **settings) as url,
        httpx.Client(base_url=https, verify=trusted, timeout=PATIENCE_S) as http,
    ):
        answer = http.get("/jobs?limit=1", headers={"X-API-Key": key})
        assert answer.status_code == 200
        assert "max-age" in answer.headers["Strict-Transport-Security"]
        signed_in = http.post("/session", json={"key": key})
        assert "secure" in signed_in.headers["Set-Cookie"].lower()
        moved = httpx.get(f"{url}/jobs?limit=1", timeout=PATIENCE_S)
        assert moved.status_code == 308
        assert moved.headers["Location"] == f"{https}/jobs?limit=1"
        plain = httpx.get(f"http://127.0.0.1:{port}/a", timeout=PATIENCE_S)
        assert plain.headers["Location"].startswith("https://")


def test_the_configuration_is_one_that_nginx_reads(tmp_path: Path) -> None:
    everything = {**LIMITS, "FRONT_PROXIES": "10.0.0.0/8,fc00::/7", "COOC_ROOT_PATH": "a//b/"}
    process = start_script(tmp_path, "check", **everything)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, said) == (0, "")
    assert "location /a/b/ {" in (tmp_path / "service.conf").read_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COOC_MAX_UPLOAD_MB", "a lot"),
        ("COOC_MAX_BULK_MB", "-1"),
        ("COOC_DEADLINE_S", "soon"),
        ("COOC_ROOT_PATH", "/a; return 200"),
        ("HTTPS_PORT", "https"),
        ("FRONT_PROXIES", "everybody"),
        ("TLS", "maybe"),
        ("TLS", "on"),
    ],
)
def test_settings_that_make_no_sense_are_named(tmp_path: Path, name: str, value: str) -> None:
    process = start_script(tmp_path, "check", **{name: value}, TLS_DIR=str(tmp_path))
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert name.removesuffix("_DIR") in said
    assert said.startswith("start.sh: ")
