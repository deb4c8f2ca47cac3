"""Addresses: what is refused, and what of them is shown."""

import pytest

from kvstream.text.addresses import http_url, without_password, wrong_port


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("tcp://user:pass@127.0.0.1:9", "tcp://…@127.0.0.1:9"),
        ("http://token@host/path?x=1", "http://…@host/path?x=1"),
        ("http://user:pa/ss@host/", "http://…@host/"),
        ("http://user:pa#s?s@host/", "http://…@host/"),
        ("http://host:80/?to=me@example.com", "http://host:80/?to=me@example.com"),
        ("zmq://h:1?replay=tcp://user:pass@h:2", "zmq://h:1?replay=tcp://…@h:2"),
        ("kafka://u:pass@a:1,u:pass@b:1/kv", "kafka://…@b:1/kv"),
        ("user:pass@127.0.0.1:9109", "…@127.0.0.1:9109"),
        ("http://[::1", "http://[::1"),
        ("http://host/?to=me@example.com", "http://host/?to=me@example.com"),
        ("unix:/run/a@b.sock", "unix:/run/a@b.sock"),
        ("a@b:9109", "a@b:9109"),
        ("http://host:80 mail me@example.com", "http://host:80 mail me@example.com"),
        ("http://u:a@b?c@h http://u:d@h", "http://…@b?c@h http://…@h"),
        ("http://u:?@h and http://u:#://x@h", "http://…@h and http://…@h"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_a_password(given, shown):
    assert without_password(given) == shown


@pytest.mark.parametrize("part", ["@", "/", ":", "://", "://a:b", "?://a:b", "://a:?", ":@", "@://"])
def test_a_long_text_is_searched_once(part):
    without_password(part * 250_000)  # otherwise, this would take an hour


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("ftp://host/", "begins with neither"),
        ("http://user:secret@host/", "a name and password"),
        ("http://", "names no host"),
        ("http://host:0/", "0 is no port"),
        ("http://host:65536/", "not one of 1 to 65535"),
        ("http://user:secret/word@host/", "not one of 1 to 65535"),
        ("http://user:secret#word@host/", "not one of 1 to 65535"),
        ("http://[::1/", "IPv6"),
    ],
)
def test_a_url_that_cannot_be_asked_says_why(url, wrong):
    with pytest.raises(ValueError, match=wrong) as refused:
        http_url(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("port", ["", "0", "65536", "1e3", "-1", "١٢", "000001"])
def test_what_is_no_port(port):
    assert wrong_port(port) == f"{port} is no port; write 1 to 65535"


def test_ports():
    assert {wrong_port("1"), wrong_port("65535"), wrong_port("0", first=0)} == {""}
