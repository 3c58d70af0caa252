"""What an operator allows: hosts by name, and private networks by number. Pure functions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_network

from app.fetching.addresses import Address, Network, in_any, is_public
from app.fetching.parsing import PORTS, BadUrl, Target, parse_host

ANY = "*"
_RULE = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>\[[^\]]+\]|[^:/\[\]]+)(?::(?P<port>\d{1,5}))?/?", re.I
)


@dataclass(frozen=True)
class Rule:
    """`host`: a name or address, `*.name` for all names below it, or `*` for every public host.

    Without a `scheme` both, without a `port` 80 and 443.
    """

    host: str
    scheme: str | None = None
    port: int | None = None

    def matches(self, target: Target) -> bool:
        if self.scheme not in (None, target.scheme):
            return False
        if target.port not in (PORTS.values() if self.port is None else (self.port,)):
            return False
        if self.host.startswith("*."):
            return target.address is None and target.host.endswith(self.host[1:])
        return self.host in (ANY, target.host)


def parse_rule(text: str) -> Rule:
    """`example.com`, `*.example.com`, `https://images.example.com:8443`, `*`. Raises ValueError."""
    found = _RULE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no host, `*.host`, `scheme://host:port` or `*`")
    host = found["host"]
    below = host.startswith("*.")
    try:
        name = ANY if host == ANY else parse_host(host[2:] if below else host)[0]
    except BadUrl as error:
        raise ValueError(f"{text!r} {error}") from error
    port = int(found["port"]) if found["port"] else None
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"{text!r} has a port outside 1 to 65535")
    scheme = found["scheme"].lower() if found["scheme"] else None
    return Rule(f"*.{name}" if below else name, scheme, port)


def parse_network(text: str) -> Network:
    """`10.1.0.0/16`. Raises ValueError."""
    return ip_network(text.strip())


@dataclass(frozen=True)
class Policy:
    """`private`: networks that hosts named in a rule may be in, besides the public internet."""

    rules: tuple[Rule, ...] = ()
    private: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, rules: tuple[str, ...], private: tuple[str, ...]) -> Policy:
        """Raises ValueError."""
        return cls(tuple(map(parse_rule, rules)), tuple(map(parse_network, private)))

    @property
    def off(self) -> bool:
        return not self.rules

    @property
    def open(self) -> bool:
        """Whether clients choose the host."""
        return any(rule.host == ANY for rule in self.rules)

    def permits(self, target: Target) -> bool:
        """Whether the host is on the list; its addresses have to be asked for then."""
        return any(rule.matches(target) for rule in self.rules)

    def permits_address(self, target: Target, address: Address) -> bool:
        """Whether to connect to an address that the host has."""
        if is_public(address):
            return True
        # `*` names nobody: whoever owns a name could point it into the private network.
        named = any(rule.host != ANY and rule.matches(target) for rule in self.rules)
        return named and in_any(address, self.private)
