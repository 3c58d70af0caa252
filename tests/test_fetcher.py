"""The guard against real servers on loopback, with look-ups that a test decides."""

from __future__ import annotations

import gzip
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from app.errors import UrlFetchFailed, UrlNotAllowed
from app.fetching.fetcher import MAX_QUERIES, Fetcher
from app.fetching.policy import Policy
from engine.errors import ImageTooLarge, Overloaded
from tests.patience import PATIENCE_S, until
from tests.web import Web, body, endless, raw, redirect, status, web

PHOTO = bytes(range(256)) * 40
MAX_BYTES = 100_000


class Names:
    """A resolver: the answers of a name in turn, the last one for ever."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): list(found) for name, found in answers.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        left = self.answers[host]
        return left.pop(0) if len(left) > 1 else left[0]


@pytest.fixture
def here() -> Iterator[Web]:
    with web() as server:
        server.answers["/photo"] = body(PHOTO)
        yield server


def fetcher(
    *rules: str,
    names: Names | None = None,
    private: tuple[str, ...] = ("127.0.0.1/32",),
    **options: Any,
) -> Fetcher:
    options = {"max_bytes": MAX_BYTES, "timeout_s": PATIENCE_S, **options}
    lookup = names or Names(photos_test=[["127.0.0.1"]])
    return Fetcher(Policy.parse(rules, private), lookup=lookup, **options)


def own(here: Web, **options: Any) -> Fetcher:
    """Allows photos.test at the port of the server, and every host there that is public."""
    return fetcher(f"photos.test:{here.port}", f"*:{here.port}", **options)


def test_an_allowed_image_is_fetched_from_the_address_that_was_checked(
    here: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    system = socket.getaddrinfo

    def watched(host: Any, *more: Any, **options: Any) -> Any:
        looked_up.append(host)
        return system(host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    assert own(here).fetch(here.url("/photo", "photos.test")) == PHOTO
    (path, headers), = here.asked  # fmt: skip
    assert (path, headers["Host"]) == ("/photo", f"photos.test:{here.port}")
    assert headers["Accept-Encoding"] == "identity"
    assert headers["User-Agent"].startswith("cooc-image-search/")
    assert not {"Cookie", "Authorization", "Referer"} & set(headers)
    assert looked_up == ["127.0.0.1"]  # the system was asked for no name


def test_nothing_is_fetched_unless_hosts_are_allowed(here: Web) -> None:
    with pytest.raises(UrlNotAllowed, match="COOC_URL_ALLOW"):
        fetcher().fetch(here.url("/photo"))
    for rule in ("other.test", f"other.test:{here.port}", f"https://photos.test:{here.port}"):
        with pytest.raises(UrlNotAllowed, match="not on the list"):
            fetcher(rule).fetch(here.url("/photo", "photos.test"))
    # Fragments are not sent, and what is no URL is told so.
    own(here).fetch(here.url("/photo#secret", "photos.test"))
    assert [path for path, _ in here.asked] == ["/photo"]
    with pytest.raises(UrlNotAllowed, match="user name or password"):
        own(here).fetch(f"http://me:secret@photos.test:{here.port}/photo")
    assert len(here.asked) == 1


INNER = [
    ["127.0.0.2"], ["10.0.0.1"], ["192.168.0.1"], ["172.16.0.1"], ["169.254.169.254"],
    ["100.64.0.1"], ["0.0.0.0"], ["::1"], ["::ffff:127.0.0.1"], ["::ffff:10.0.0.1"],
    ["64:ff9b::7f00:1"], ["2002:7f00:1::1"], ["fe80::1%lo"], ["fd00::1"], ["224.0.0.1"],
    ["8.8.8.8", "127.0.0.1"],  # one of them is enough
    [], ["junk"],
]  # fmt: skip


@pytest.mark.parametrize("addresses", INNER, ids=lambda found: ",".join(found) or "none")
def test_names_and_redirects_that_lead_inside_are_refused_and_nothing_is_asked(
    here: Web, addresses: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    names = Names(photos_test=[["127.0.0.1"]], inner_test=[addresses])
    here.answers["/away"] = redirect(here.url("/photo", "inner.test"))
    with web("127.0.0.2", here.port) as inner:
        for url, word in (
            (here.url("/photo", "inner.test"), "not all public"),
            (here.url("/away", "photos.test"), "redirects .number 1."),
        ):
            with caplog.at_level(logging.WARNING), pytest.raises(UrlNotAllowed, match=word) as got:
                own(here, names=names).fetch(url)
            # Who asked is not told what the names of a network mean; the operator is.
            said = str(got.value).replace(url, "")
            assert not any(address in said for address in addresses)
            assert "inner.test" not in said
            assert "the addresses of inner.test are" in caplog.text
    assert inner.asked == []
    assert here.counts() == {"/away": 1}


LOCATIONS = [
    "http://127.0.0.1:{port}/photo", "http://127.0.0.2:{port}/photo", "http://[::1]:{port}/photo",
    "http://[::ffff:127.0.0.1]:{port}/photo", "http://169.254.169.254:{port}/latest/meta-data",
    "http://10.0.0.1:{port}/", "http://2130706433:{port}/", "http://0x7f.1:{port}/",
    "http://0177.0.0.1:{port}/", "http://127.1:{port}/", "http://localhost:{port}/photo",
    "file:///etc/passwd", "ftp://photos.test:{port}/photo", "gopher://photos.test:{port}/",
    "http://me:secret@photos.test:{port}/photo", "//photos.test\\@127.0.0.1:{port}/",
    "http://photos.test:1/photo", "/\x7f", "http://[",
]  # fmt: skip


@pytest.mark.parametrize("location", LOCATIONS)
def test_redirects_are_checked_like_the_url_itself(here: Web, location: str) -> None:
    here.answers["/away"] = redirect(location.format(port=here.port))
    with pytest.raises(UrlNotAllowed, match="to one that"):
        own(here).fetch(here.url("/away", "photos.test"))
    assert here.counts() == {"/away": 1}


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_five_redirects_are_followed_and_no_cookie_comes_along(here: Web, code: int) -> None:
    for number in range(6):
        here.answers[f"/{number}"] = redirect(f"/{number - 1}", code)
    here.answers["/0"] = body(PHOTO)
    names = Names(photos_test=[["127.0.0.1"]])
    assert own(here, names=names).fetch(here.url("/5", "photos.test")) == PHOTO
    assert names.asked == ["photos.test"] * 6  # each is looked up and checked anew
    assert not any("Cookie" in headers for _, headers in here.asked)
    here.answers["/6"] = redirect("/5", code)
    with pytest.raises(UrlFetchFailed, match="more than 5"):
        own(here).fetch(here.url("/6", "photos.test"))


def test_a_name_that_changes_its_address_after_the_check_changes_nothing(here: Web) -> None:
    here.answers["/again"] = redirect("/photo")
    changing = Names(photos_test=[["127.0.0.1"], ["127.0.0.2"]])
    with web("127.0.0.2", here.port) as inner:
        guard = own(here, names=changing)
        # One look-up, and what it said is where the connection goes.
        assert guard.fetch(here.url("/photo", "photos.test")) == PHOTO
        assert changing.asked == ["photos.test"]
        # The next one says 127.0.0.2, which is not allowed: also in the middle of redirects.
        changing.answers["photos.test"] = [["127.0.0.1"], ["127.0.0.2"]]
        with pytest.raises(UrlNotAllowed, match="redirects"):
            guard.fetch(here.url("/again", "photos.test"))
        with pytest.raises(UrlNotAllowed, match="not all public"):
            guard.fetch(here.url("/photo", "photos.test"))
    assert inner.asked == []
    assert here.counts() == {"/photo": 1, "/again": 1}


def test_the_next_address_is_tried_where_one_does_not_answer(here: Web) -> None:
    names = Names(photos_test=[["127.0.0.3", "127.0.0.1"]])
    guard = own(here, names=names, private=("127.0.0.0/8",))
    assert guard.fetch(here.url("/photo", "photos.test")) == PHOTO
    nobody = own(here, names=Names(photos_test=[["127.0.0.3"]]), private=("127.0.0.0/8",))
    with pytest.raises(UrlFetchFailed, match="could not be connected to") as got:
        nobody.fetch(here.url("/photo", "photos.test"))
    assert "127.0.0.3" not in str(got.value)


def test_the_environment_has_no_say(
    here: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine photos.test login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert own(here).fetch(here.url("/photo", "photos.test")) == PHOTO
    assert "Authorization" not in here.asked[0][1]


# --- bodies -----------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\n"


def test_slow_bodies_end_with_the_time_there_is(here: Web) -> None:
    guard = own(here, timeout_s=0.5)
    drips = {
        "body": endless(OK + b"\r\n", b"x", here.stopped, 0.05),
        "headers": endless(OK, b"X: y\r\n", here.stopped, 0.05),
        "interim": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", here.stopped, 0.05),
        "silence": endless(b"", b"", here.stopped, 0.05),
        "chunks": endless(
            OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", here.stopped, 0.05
        ),
    }
    for name, answer in drips.items():
        here.answers[f"/{name}"] = answer
        with pytest.raises(UrlFetchFailed, match=r"within 0\.5 s") as got:
            guard.fetch(here.url(f"/{name}", "photos.test"))
        assert got.value.transient


def test_slow_look_ups_end_with_it_too(here: Web) -> None:
    asked = threading.Event()

    def slow(host: str, port: int) -> list[str]:
        asked.wait(PATIENCE_S)
        return ["127.0.0.1"]

    guard = own(here, names=slow, timeout_s=0.3)
    with pytest.raises(UrlFetchFailed, match="in time"):
        guard.fetch(here.url("/photo", "photos.test"))
    asked.set()
    assert here.asked == []


def test_endless_bodies_end_at_the_size_of_an_image(here: Web) -> None:
    part = bytes(10_000)
    endings: dict[str, tuple[Any, type[Exception], str]] = {
        "plain": (endless(OK + b"\r\n", part, here.stopped), ImageTooLarge, "100,000 bytes"),
        "announced": (raw(OK + b"Content-Length: 900000\r\n\r\n"), ImageTooLarge, "100,000"),
        "lying": (
            endless(OK + b"Content-Length: 900000000000000000000000\r\n\r\n", part, here.stopped),
            Exception, "URL",
        ),
        "chunked": (
            endless(
                OK + b"Transfer-Encoding: chunked\r\n\r\n",
                b"2710\r\n" + part + b"\r\n", here.stopped,
            ),
            ImageTooLarge, "100,000",
        ),
        "framing": (
            endless(
                OK + b"Transfer-Encoding: chunked\r\n\r\n",
                (b"1;" + b"e" * 5000 + b"\r\nx\r\n") * 20, here.stopped,
            ),
            UrlFetchFailed, "far more than an image",
        ),
        "headers": (endless(OK, b"X: y\r\n" * 1000, here.stopped), UrlFetchFailed, "HTTP"),
        "interim": (
            endless(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 500, here.stopped),
            UrlFetchFailed, "far more than an image",
        ),
    }  # fmt: skip
    for name, (answer, kind, word) in endings.items():
        here.answers[f"/{name}"] = answer
        with pytest.raises(kind, match=word):
            own(here).fetch(here.url(f"/{name}", "photos.test"))


def test_an_image_may_have_exactly_the_most_bytes(here: Web) -> None:
    here.answers["/most"] = body(bytes(MAX_BYTES))
    assert len(own(here).fetch(here.url("/most", "photos.test"))) == MAX_BYTES
    here.answers["/more"] = body(bytes(MAX_BYTES + 1))
    with pytest.raises(ImageTooLarge):
        own(here).fetch(here.url("/more", "photos.test"))


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "br", "identity, gzip"])
def test_compressed_answers_are_refused_undecoded(here: Web, coding: str) -> None:
    bomb = gzip.compress(bytes(10 << 20), 1)
    here.answers["/bomb"] = body(bomb, content_encoding=coding)
    with pytest.raises(UrlFetchFailed, match="compressed"):
        own(here).fetch(here.url("/bomb", "photos.test"))
    here.answers["/plain"] = body(PHOTO, content_encoding="identity", content_type="text/html")
    assert own(here).fetch(here.url("/plain", "photos.test")) == PHOTO


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (status(404), "status 404"),
        (status(204), "status 204"),
        (status(206), "status 206"),
        (status(500), "status 500"),
        (status(304), "status 304"),
        (status(302), "not where to go"),
        (raw(b""), "HTTP"),
        (raw(b"SSH-2.0-OpenSSH_9.2\r\nsecret of a service\r\n"), "HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort"), "broke off"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nshort"), "HTTP"),
        (raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
         "HTTP"),
    ],
)  # fmt: skip
def test_answers_that_are_no_image_are_told_without_their_content(
    here: Web, answer: Any, word: str
) -> None:
    here.answers["/x"] = answer
    with pytest.raises(UrlFetchFailed, match=word) as got:
        own(here).fetch(here.url("/x", "photos.test"))
    assert "secret" not in str(got.value)
    assert "SSH" not in str(got.value)


def test_a_busy_server_is_told_apart_from_a_missing_image(here: Web) -> None:
    def failure(answer: Any) -> UrlFetchFailed:
        here.answers["/x"] = answer
        with pytest.raises(UrlFetchFailed) as got:
            own(here).fetch(here.url("/x", "photos.test"))
        return got.value

    told = failure(status(429, retry_after="7"))
    assert (told.transient, told.busy, told.wait_s) == (True, True, 7.0)
    told = failure(status(503, retry_after="Fri, 31 Dec 1999 23:59:59 GMT"))
    assert (told.transient, told.busy, told.wait_s) == (True, True, None)
    told = failure(status(502))
    assert (told.transient, told.busy) == (True, False)
    told = failure(status(404))
    assert (told.transient, told.busy) == (False, False)


def test_a_fetch_can_be_stopped(here: Web) -> None:
    here.answers["/slow"] = endless(OK + b"\r\n", b"", here.stopped, 0.05)
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(InterruptedError):
        own(here, timeout_s=60.0).fetch(here.url("/slow", "photos.test"), stop.is_set)


def test_so_many_searches_fetch_at_a_time_and_no_more(here: Web) -> None:
    go = threading.Event()

    def waiting(request: Any) -> None:
        go.wait(PATIENCE_S)
        body(PHOTO)(request)

    here.answers["/wait"] = waiting
    guard, url = own(here), here.url("/wait", "photos.test")
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(guard.query(url))) for _ in range(MAX_QUERIES)
    ]
    for thread in threads:
        thread.start()
    until(lambda: len(here.asked) == MAX_QUERIES)
    with pytest.raises(Overloaded):
        guard.query(url)
    go.set()
    for thread in threads:
        thread.join()
    assert found == [PHOTO] * MAX_QUERIES
    assert guard.query(url) == PHOTO


# --- certificates -----------------------------------------------------------------------------


def served(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_a_certificate_has_to_be_of_the_name_not_of_the_address() -> None:
    authority = trustme.CA()
    context = served(authority, "photos.test")
    sent: list[str | None] = []
    context.sni_callback = lambda _, name, __: sent.append(name)
    with web(context=context) as here:
        here.answers["/photo"] = body(PHOTO)
        names = Names(photos_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]])
        rules = [f"{host}:{here.port}" for host in ("photos.test", "other.test", "127.0.0.1")]
        guard = fetcher(*rules, names=names, context=trusting(authority))
        assert guard.fetch(here.url("/photo", "photos.test")) == PHOTO
        assert sent == ["photos.test"]
        for host in ("other.test", "127.0.0.1"):
            with pytest.raises(UrlFetchFailed, match="certificate"):
                guard.fetch(here.url("/photo", host))
        # Of an authority that nobody trusts.
        with pytest.raises(UrlFetchFailed, match="certificate"):
            fetcher(*rules, names=names).fetch(here.url("/photo", "photos.test"))
        assert here.counts() == {"/photo": 1}


def test_a_certificate_may_be_of_an_address() -> None:
    authority = trustme.CA()
    with web(context=served(authority, "127.0.0.1")) as here:
        here.answers["/photo"] = body(PHOTO)
        guard = fetcher(f"127.0.0.1:{here.port}", context=trusting(authority))
        assert guard.fetch(here.url("/photo")) == PHOTO


def test_tls_is_not_given_up_for_a_server_without_it(here: Web) -> None:
    url = here.url("/photo", "photos.test").replace("http://", "https://")
    with pytest.raises(UrlFetchFailed, match="TLS"):
        own(here).fetch(url)
    assert here.counts() == {}


def test_trusted_certificates_come_from_the_usual_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with web(context=served(authority, "photos.test")) as here:
        here.answers["/photo"] = body(PHOTO)
        assert own(here).fetch(here.url("/photo", "photos.test")) == PHOTO
