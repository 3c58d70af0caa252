"""URLs, taken apart so strictly that nobody else can read them differently. Pure functions."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote, unquote, urljoin

from app.fetching.addresses import Address

MAX_URL = 2048
"""Characters."""
PORTS = {"http": 80, "https": 443}

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*):(?://(?P<place>[^/?#]*))?(?P<rest>.*)", re.I)
_PLACE = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?", re.I)
_USER = re.compile("//[^/]*@")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_KEPT = "%/?:@!$&'()*+,;=~-._[]"
"""Characters of a path and a query that are sent as they are."""


class BadUrl(ValueError):
    """Not an address that can be fetched from; the message says why, without quoting it."""


@dataclass(frozen=True)
class Target:
    """Where a URL leads.

    `host` is lower-case ASCII, an IPv6 address without brackets; `path` is ASCII, has the query
    with it, and begins with a slash; `address` is that of a host which is one.
    """

    scheme: str
    host: str
    port: int
    path: str
    address: Address | None = None

    @property
    def place(self) -> str:
        """Host and port as the header `Host` has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def name(self) -> str:
        """Host and path for people, without the query: what an image may be called after."""
        return self.host + unquote(self.path.partition("?")[0], errors="replace")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.place}{self.path}"


def without_secrets(text: str) -> str:
    """A URL, good or bad, with `...` for its user, password and query: addresses that were signed
    have in the query what lets anybody in."""
    start = re.split("[?#]", text, maxsplit=1)[0]
    query = text[len(start) : len(start) + 1]
    return _USER.sub("//...@", start) + (f"{query}..." if query else "")


def parse_url(text: str) -> Target:
    """Raises BadUrl."""
    if len(text) > MAX_URL:
        raise BadUrl(f"has {len(text):,} characters; at most {MAX_URL:,}")
    _check_characters(text)
    found = _URL.fullmatch(text)
    scheme = found["scheme"].lower() if found else ""
    if found is None or scheme not in PORTS or not found["place"]:
        raise BadUrl("is no address that begins with http:// or https://")
    if "@" in found["place"]:
        raise BadUrl("has a user name or password in it; none is sent")
    place = _PLACE.fullmatch(found["place"])
    if place is None:
        raise BadUrl("has no host and port that can be told apart")
    port = int(place["port"]) if place["port"] else PORTS[scheme]
    if not 1 <= port <= 65535:
        raise BadUrl("has a port outside 1 to 65535")
    host, address = parse_host(place["host"])
    # A fragment is for the one who asks, not for the server.
    path = quote(found["rest"].partition("#")[0], safe=_KEPT)
    return Target(scheme, host, port, path if path.startswith("/") else f"/{path}", address)


def redirected(target: Target, location: str) -> Target:
    """Where a redirect leads. Raises BadUrl."""
    if len(location) > MAX_URL:
        raise BadUrl(f"has more than {MAX_URL:,} characters")
    # Before they are joined, which would drop some characters in silence.
    _check_characters(location)
    try:
        return parse_url(urljoin(str(target), location))
    except BadUrl:
        raise
    except ValueError as error:
        raise BadUrl("cannot be read") from error


def parse_host(text: str) -> tuple[str, Address | None]:
    """A host in the form in which it is compared and looked up; its address if it is one.

    Raises BadUrl, also for numbers that some systems take for an IPv4 address (127.1, 0x7f.1,
    2130706433, 017700000001) and others do not.
    """
    if text.startswith("["):
        try:
            v6 = IPv6Address(text[1:-1])
        except ValueError as error:
            raise BadUrl("has an IPv6 address that is none") from error
        return v6.compressed, v6
    host = text.lower() if text.isascii() else _ascii(text)
    labels = host.split(".")
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise BadUrl("has a host that is no name (a dot at its end is none either)")
    if not _NUMBER.fullmatch(labels[-1]):
        return host, None
    try:
        v4 = IPv4Address(host)
    except ValueError as error:
        raise BadUrl("has a number for a host; write an IPv4 address as 192.0.2.1") from error
    return str(v4), v4


def _ascii(host: str) -> str:
    """An internationalised name as it is looked up (UTS 46, IDNA 2008)."""
    import idna  # its tables take a while to load

    try:
        return idna.encode(host, uts46=True, std3_rules=True).decode().lower()
    except (idna.IDNAError, UnicodeError) as error:
        raise BadUrl("has a host that is no internationalised name") from error


def _check_characters(text: str) -> None:
    if "\\" in text:
        raise BadUrl("has a backslash; write %5C")
    if any(unicodedata.category(character)[0] == "Z" for character in text):
        raise BadUrl("has a space; write %20")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise BadUrl("has a character that cannot be sent")
