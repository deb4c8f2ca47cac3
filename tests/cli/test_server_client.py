"""What commands say that ask a running server, where it does not answer as one does."""

import ssl

import pytest

from tests.ports import answering, free_port, saying

BROKEN_OFF = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"


def refused(kvstream, url, says, **options):
    """Each command that asks a server says why it cannot, and what to do, in a line."""
    for command in (["mark"], ["mark", "--remove", "x"], ["silence", "list"]):
        ran = kvstream(*command, "--server", url, **options)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.startswith(f"kvstream: {url}: ")
        assert says in ran.err
        assert len(ran.err.splitlines()) == 1


def test_where_nothing_listens(kvstream):
    refused(kvstream, f"http://127.0.0.1:{free_port()}", "nothing listens there; start kvstream serve --http")


def test_a_host_that_is_not_known(kvstream):
    refused(kvstream, "http://no-such-host.invalid:9109", "correct the address")


@pytest.mark.parametrize("words", [b"\0garbage\n\n", BROKEN_OFF, b""])
def test_what_speaks_no_http(kvstream, words):
    with saying(words) as port:
        refused(kvstream, f"http://127.0.0.1:{port}", "check that kvstream serve --http is there")


@pytest.mark.parametrize("body", [b"<html>", b'{"another": "program"}', b"[" * 100_000])
def test_another_program(kvstream, body):
    with answering(lambda path: (200, body)) as url:
        ran = kvstream("silence", "list", "--server", url)
        assert ran.code == 1
        assert ran.err == (
            f"kvstream: {url}: its answer to GET /api/silences is not that of kvstream serve --http; "
            "correct the address, or use the same version of kvstream on both sides\n"
        )


@pytest.mark.parametrize(
    ("status", "token", "says"),
    [
        (401, "", "it asks for a token; give it by --token-file or $KVSTREAM_TOKEN"),
        (401, "é", "it refuses the token; give the server's own by --token-file"),
        (403, "", "it answers 403 Forbidden; check that the address is that of kvstream serve --http"),
        (421, "", "it does not serve that host name"),
        (599, "", "it answers 599; check"),
    ],
)
def test_a_refusal(kvstream, status, token, says):
    with answering(lambda path: (status, b"<html>")) as url:
        ran = kvstream("silence", "list", "--server", url, env={"KVSTREAM_TOKEN": token} if token else None)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert says in ran.err


def test_tls_that_cannot_be_used(kvstream, certificates):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server, certificates.server_key)
    with saying(BROKEN_OFF, context) as port:
        refused(kvstream, f"https://127.0.0.1:{port}", "name the roots to trust by SSL_CERT_FILE=FILE.pem")
        trusting = {"env": {"SSL_CERT_FILE": str(certificates.root)}}
        refused(kvstream, f"https://127.0.0.1:{port}", "broke off its answer", **trusting)
    with saying(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        refused(kvstream, f"https://127.0.0.1:{port}", "write http:// if it serves without TLS")


def test_certificates_that_cannot_be_read(kvstream):
    advice = "No such file or directory; name the roots to trust by SSL_CERT_FILE=FILE.pem"
    refused(kvstream, "https://127.0.0.1:1", advice, env={"SSL_CERT_FILE": "/no/such/file"})


def test_a_host_that_can_be_none(kvstream):
    refused(kvstream, "http://☃☃\u0300:9109", "it is no URL: Invalid IDNA hostname")


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://h:", "http://h:0", "http://h:99999", "ftp://h", "h:1"]
)
def test_what_is_no_url_of_a_server(kvstream, url):
    ran = kvstream("mark", "--server", url)
    assert (ran.code, ran.err) == (1, f"kvstream: {url!r} is no server; write http://HOST:PORT\n")


def test_a_password_in_the_url_is_not_shown(kvstream):
    ran = kvstream("mark", "--server", f"http://me:s3cret@127.0.0.1:{free_port()}")
    assert ran.code == 1
    assert "s3cret" not in ran.err
