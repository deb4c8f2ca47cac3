"""What a server answers over HTTP, whatever it sends."""

import gzip
import ssl

import httpx2
import pytest

from kvstream.sources import http_client
from kvstream.sources.http_client import FetchError, fetch
from tests.ports import answering, saying

PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "http_proxy", "https_proxy")


async def test_certificates_that_cannot_be_read_are_an_error_of_https_alone(no_certificates):
    with answering(lambda path: (200, b"answer")) as url:
        assert await fetch(url) == b"answer"
        words = "the certificates that verify the server cannot be read: No such"
        with pytest.raises(FetchError, match=words) as caught:
            await fetch(url.replace("http:", "https:"))
    assert caught.value.failure.kind == "certificate"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("variable", "proxy", "why"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1", "SOCKS"),
        ("HTTPS_PROXY", "nonsense://x", "Unknown scheme"),
        ("HTTP_PROXY", "http://u:pw@[::1", "Invalid port"),
    ],
)
async def test_a_proxy_that_cannot_be_used_is_named(monkeypatch, scheme, variable, proxy, why):
    for each in PROXIES:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(variable, proxy)
    words = f"^{scheme}://10.0.0.1:1/: the proxy that the environment names cannot be used: .*{why}"
    with pytest.raises(FetchError, match=words) as caught:
        await fetch(f"{scheme}://10.0.0.1:1/")
    assert caught.value.failure.kind == "other"


@pytest.mark.parametrize("url", ["http://[::1", "https://[::1", "http://h:port"])
async def test_what_is_no_url_is_an_error_of_the_request(url):
    with pytest.raises(FetchError, match="is no URL"):
        await fetch(url)


async def test_certificates_are_read_once(unread_certificates, monkeypatch, certificates):
    read, contexts = httpx2.create_ssl_context, []
    monkeypatch.setattr(httpx2, "create_ssl_context", lambda: contexts.append(read()) or contexts[-1])
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.root))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server, certificates.server_key)
    with saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", context) as port:
        assert [await fetch(f"{scheme}://127.0.0.1:{port}") for scheme in ("https", "HTTPS")] == [
            b"ok",
            b"ok",
        ]
    assert len(contexts) == 1


async def test_an_answer_is_not_decompressed():
    body = gzip.compress(bytes(2 * http_client._MOST_BYTES))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    with saying(head.encode() + body) as port:
        assert await fetch(f"http://127.0.0.1:{port}") == body
