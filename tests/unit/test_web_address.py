from __future__ import annotations

import pytest

from distcomp.errors import ConfigError
from distcomp.web_address import WebAddress, is_web, parse_web_address


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("http://a.example:8077", ("http", "a.example", 8077, ""), "http://a.example:8077"),
        (" HTTPS://A.example ", ("https", "a.example", 443, ""), "https://a.example"),
        ("https://a/x/y/", ("https", "a", 443, "/x/y"), "https://a/x/y"),
        ("http://[::1]:80", ("http", "::1", 80, ""), "http://[::1]"),
        ("https://[::1]:80/a", ("https", "::1", 80, "/a"), "https://[::1]:80/a"),
        ("http://a", ("http", "a", 80, ""), "http://a"),
    ],
)
def test_an_address_has_scheme_host_port_and_prefix(
    text: str, address: tuple[str, str, int, str], shown: str
) -> None:
    assert is_web(text)
    assert parse_web_address(text) == WebAddress(*address)
    assert str(parse_web_address(text)) == shown
    assert parse_web_address(shown) == WebAddress(*address)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tcp://a", "begins with http"),
        ("http://", "has to have a host"),
        ("http://a:x", "is not the address of a gateway"),
        ("http://a:0", "a port above 0"),
        ("http://a:99999", "is not the address of a gateway"),
        ("http://dct_1@a", "a token is no part of an address"),
        ("http://:dct_1@a", "a token is no part of an address"),
        ("http://a/?x=1", "it has no query"),
        ("http://a/#x", "it has no query"),
        ("http://a/?", "it has no query"),
        ("http://a/b c", "cannot be a path"),
        ("http://a//b", "cannot be a path"),
        ("http://a/b\r\nX: y", "cannot be a path"),
        ("http://ä.example", "written in ASCII"),
    ],
)
def test_what_is_no_address_is_said(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse_web_address(text)
    assert "dct_1" not in str(caught.value)


def test_other_addresses_are_others_to_read() -> None:
    assert not any(map(is_web, ["tcp://a", "inline:", "a:7077", "httpx://a"]))
