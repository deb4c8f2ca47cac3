"""What a server answers over HTTP, whatever it sends."""

import gzip
import ssl

import httpx2
import pytest

from kvstream.sources import http_client
from kvstream.sources.http_client import FetchError, fetch
from tests.ports import answering, saying


@pytest.fixture
def no_certificates(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    http_client._certificates.cache_clear()


async def test_certificates_that_cannot_be_read_are_an_error_of_https_alone(no_certificates):
    with answering(lambda path: (200, b"answer")) as url:
        assert await fetch(url) == b"answer"
        with pytest.raises(
            FetchError, match="certificates that it is checked by cannot be read: No such"
        ) as caught:
            await fetch(url.replace("http:", "https:"))
    assert caught.value.failure.kind == "certificate"


async def test_certificates_are_read_once(monkeypatch, certificates):
    read, contexts = httpx2.create_ssl_context, []
    monkeypatch.setattr(httpx2, "create_ssl_context", lambda: contexts.append(read()) or contexts[-1])
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.root))
    http_client._certificates.cache_clear()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server, certificates.server_key)
    with saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", context) as port:
        assert [await fetch(f"{scheme}://127.0.0.1:{port}") for scheme in ("https", "HTTPS")] == [
            b"ok",
            b"ok",
        ]
    http_client._certificates.cache_clear()
    assert len(contexts) == 1


async def test_an_answer_is_not_decompressed():
    body = gzip.compress(bytes(2 * http_client._MOST_BYTES))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    with saying(head.encode() + body) as port:
        assert await fetch(f"http://127.0.0.1:{port}") == body
