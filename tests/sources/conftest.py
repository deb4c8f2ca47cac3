"""Certificates that are read anew by the requests of a test."""

import pytest

from kvstream.sources.http_client import _certificates


@pytest.fixture
def unread_certificates():
    """Has certificates read by the first request of a test, and again after it."""
    _certificates.cache_clear()
    yield
    _certificates.cache_clear()


@pytest.fixture
def no_certificates(unread_certificates, monkeypatch, tmp_path):
    """Names a file of certificates that does not exist."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
