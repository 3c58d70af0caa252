"""What is taken for a URL, what for a public address, what for allowed: tables of cases."""

from __future__ import annotations

import ipaddress

import pytest

from app.fetching.addresses import is_public
from app.fetching.parsing import BadUrl, parse_url, redirected, without_secrets
from app.fetching.policy import Policy, parse_rule

GOOD = [
    ("http://example.com", "http://example.com/"),
    ("HTTPS://Example.COM/A?b=C#part", "https://example.com/A?b=C"),
    ("http://example.com:80/", "http://example.com/"),
    ("https://example.com:80/", "https://example.com:80/"),
    ("http://example.com?x=1", "http://example.com/?x=1"),
    ("https://bücher.example/ä/%20.jpg?x=ü", "https://xn--bcher-kva.example/%C3%A4/%20.jpg?x=%C3%BC"),
    ("http://faß.de/", "http://xn--fa-hia.de/"),
    ("http://a_b.example.com/", "http://a_b.example.com/"),
    ("http://8.8.8.8/x", "http://8.8.8.8/x"),
    ("http://[2606:4700:0:0::1]:8080/x", "http://[2606:4700::1]:8080/x"),
    # Full-width digits and dots are an address: it is seen as one.
    ("http://１２７。0．0.1/", "http://127.0.0.1/"),
    ('http://example.com/<"|>', "http://example.com/%3C%22%7C%3E"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), GOOD)
def test_a_url_is_read_in_one_way(text: str, expected: str) -> None:
    target = parse_url(text)
    assert str(target) == expected
    assert str(parse_url(str(target))) == expected


BAD = [
    ("", "no address"),
    ("example.com/a.jpg", "no address"),
    ("//example.com/a.jpg", "no address"),
    ("/a.jpg", "no address"),
    ("ftp://example.com/a.jpg", "no address"),
    ("file:///etc/passwd", "no address"),
    ("gopher://example.com/", "no address"),
    ("data:image/png;base64,AAAA", "no address"),
    ("http:/example.com/", "no address"),
    ("http:///example.com/", "no address"),
    ("http:\\\\example.com\\", "backslash"),
    ("http://example.com\\@127.0.0.1/", "backslash"),
    ("http://user@example.com/", "user name or password"),
    ("http://user:secret@example.com/", "user name or password"),
    ("http://example.com@127.0.0.1/", "user name or password"),
    ("http://exa mple.com/", "space"),
    (" http://example.com/", "space"),
    ("http://example.com/\u2028", "space"),
    ("http://example.com/\r\nHost:other", "cannot be sent"),
    ("http://example.com/\t", "cannot be sent"),
    ("http://example.com/\x00", "cannot be sent"),
    ("http://example.com/\ud800", "cannot be sent"),
    ("http://0x7f.1/", "number for a host"),
    ("http://0x7f000001/", "number for a host"),
    ("http://2130706433/", "number for a host"),
    ("http://127.1/", "number for a host"),
    ("http://0177.0.0.1/", "number for a host"),
    ("http://127.0.0.01/", "number for a host"),
    ("http://1.2.3.4.5/", "number for a host"),
    ("http://256.1.1.1/", "number for a host"),
    ("http://example.0x/", "number for a host"),
    ("http://example.com./", "dot at its end"),
    ("http://127.0.0.1./", "dot at its end"),
    ("http://.example.com/", "no name"),
    ("http://a..b/", "no name"),
    ("http://-a.example/", "no name"),
    ("http://%31%32%37.0.0.1/", "no name"),
    ("http://" + "a" * 64 + ".example/", "no name"),
    ("http://" + "a." * 127 + "example/", "no name"),
    ("http://xn--/", "no name"),
    ("http://\u2100.example/", "no internationalised name"),
    ("http://example.com:/", "told apart"),
    ("http://example.com:8o/", "told apart"),
    ("http://a:b:80/", "told apart"),
    ("http://[fe80::1%25eth0]/", "told apart"),
    ("http://[::1/", "told apart"),
    ("http://::1/", "told apart"),
    ("http://[1.2.3.4]/", "IPv6"),
    ("http://[:::]/", "IPv6"),
    ("http://example.com:0/", "port"),
    ("http://example.com:65536/", "port"),
    ("http://example.com/" + "a" * 2048, "2,067 characters"),
]


@pytest.mark.parametrize(("text", "word"), BAD)
def test_what_could_be_read_in_two_ways_is_refused(text: str, word: str) -> None:
    with pytest.raises(BadUrl, match=word):
        parse_url(text)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("b.jpg", "http://example.com/a/b.jpg"),
        ("/b.jpg", "http://example.com/b.jpg"),
        ("?x=1", "http://example.com/a/c?x=1"),
        ("//other.example/b", "http://other.example/b"),
        ("HTTPS://other.example:8443/b#c", "https://other.example:8443/b"),
        ("", "http://example.com/a/c"),
    ],
)
def test_redirects_lead_where_browsers_go(location: str, expected: str) -> None:
    assert str(redirected(parse_url("http://example.com/a/c"), location)) == expected


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://example.com/", "\\\\evil", "//user@evil/", "http://[", "/a\tb",
     "javascript:alert(1)", "http://0x7f.1/", "/" + "a" * 3000],
)  # fmt: skip
def test_redirects_are_read_as_strictly(location: str) -> None:
    with pytest.raises(BadUrl):
        redirected(parse_url("http://example.com/a/c"), location)


PUBLIC = ["8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1",
          "192.169.0.1", "223.255.255.255", "2606:4700::1", "2a00:1450:4001::1", "2001:4860::1",
          "2400::1"]  # fmt: skip
NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "100.127.255.255",
    "127.0.0.1", "127.255.255.255", "168.63.129.16", "169.254.169.254", "172.16.0.1",
    "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1",
    "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.7", "224.0.0.1",
    "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:8.8.8.8",
    "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:1:2::3",
    "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1",
    "3ffe::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "febf::1", "fec0::1",
    "feff::1", "ff02::1", "ff0e::1", "4000::1",
]  # fmt: skip


def test_public_addresses_are_public() -> None:
    assert [text for text in PUBLIC if not is_public(ipaddress.ip_address(text))] == []


def test_addresses_that_only_look_public_are_not() -> None:
    assert [text for text in NOT_PUBLIC if is_public(ipaddress.ip_address(text))] == []
    # Why `is_global` is not asked alone: it says yes to some of them.
    assert any(ipaddress.ip_address(text).is_global for text in NOT_PUBLIC)


@pytest.mark.parametrize(
    ("rule", "yes", "no"),
    [
        ("example.com", ["http://example.com/", "https://EXAMPLE.com/a", "https://example.com:80/"],
         ["http://www.example.com/", "http://example.com.evil/", "http://example.com:8080/"]),
        ("*.example.com", ["http://a.example.com/", "http://a.b.example.com/"],
         ["http://example.com/", "http://badexample.com/"]),
        ("https://example.com", ["https://example.com/"], ["http://example.com/"]),
        ("example.com:8080", ["http://example.com:8080/"], ["http://example.com/"]),
        ("https://*.example.com:8443", ["https://a.example.com:8443/"],
         ["http://a.example.com:8443/", "https://a.example.com/"]),
        ("*", ["http://anything/", "https://8.8.8.8/", "http://[2606:4700::1]/"],
         ["http://anything:8080/"]),
        ("*:8080", ["http://anything:8080/"], ["http://anything/"]),
        ("bücher.example", ["http://xn--bcher-kva.example/"], ["http://bucher.example/"]),
        ("[2606:4700::1]:81", ["http://[2606:4700:0::1]:81/"], ["http://[2606:4700::1]/"]),
        ("*.4.4", [], ["http://8.8.4.4/"]),
    ],
)  # fmt: skip
def test_rules_name_hosts_schemes_and_ports(rule: str, yes: list[str], no: list[str]) -> None:
    if rule == "*.4.4":  # an address has no names below it
        with pytest.raises(ValueError, match="number for a host"):
            parse_rule(rule)
        return
    policy = Policy((parse_rule(rule),))
    assert [url for url in yes if not policy.permits(parse_url(url))] == []
    assert [url for url in no if policy.permits(parse_url(url))] == []


@pytest.mark.parametrize(
    "rule", ["", "ftp://a", "a/b", "http://a/b", "a:b", "a:0", "a:70000", "*.", "**", "a.*", "u@a",
             "127.1", "a b", "[::1"]
)  # fmt: skip
def test_rules_that_mean_nothing_are_errors(rule: str) -> None:
    with pytest.raises(ValueError, match="'"):
        parse_rule(rule)


def test_private_networks_are_for_hosts_that_are_named() -> None:
    policy = Policy.parse(("*", "*.corp.example", "10.1.2.3"), ("10.1.0.0/16", "fd00::/8"))
    inside, mapped = ipaddress.ip_address("10.1.2.3"), ipaddress.ip_address("::ffff:10.1.2.3")
    named, other = parse_url("http://img.corp.example/"), parse_url("http://evil.example/")
    assert policy.permits_address(named, inside)
    assert policy.permits_address(named, ipaddress.ip_address("fd00::1"))
    assert policy.permits_address(parse_url("http://10.1.2.3/"), inside)
    assert not policy.permits_address(named, mapped)
    assert not policy.permits_address(named, ipaddress.ip_address("10.2.0.1"))
    assert not policy.permits_address(other, inside)
    assert policy.permits(other)
    assert policy.permits_address(other, ipaddress.ip_address("8.8.8.8"))


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("https://example.com/a.jpg", "https://example.com/a.jpg"),
        ("https://example.com/a.jpg?Signature=4711#x", "https://example.com/a.jpg?..."),
        ("https://example.com/a.jpg#token=4711", "https://example.com/a.jpg#..."),
        ("https://me:4711@example.com/a@2.jpg", "https://...@example.com/a@2.jpg"),
        ("https://me:47@11@example.com", "https://...@example.com"),
        ("no address?4711\n4711", "no address?..."),
        ("", ""),
    ],
)
def test_what_may_be_a_secret_is_not_told(sent: str, told: str) -> None:
    assert without_secrets(sent) == told
