"""TLS contexts of servers and clients, from files of certificates and keys."""

import os
import ssl

from kvstream.errors import ConfigError

File = str | os.PathLike[str]


def server_context(certificate: File, key: File, client_ca: File | None = None) -> ssl.SSLContext:
    """Return the TLS context of a server.

    Args:
        certificate: PEM file with the server's certificate, and those between it and its root.
        key: PEM file with its private key, without a passphrase.
        client_ca: PEM file with the roots of client certificates; clients must then bring one.

    Raises:
        ConfigError: If a file cannot be used; the message names it.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # whatever the system's default is
    _load_certificate(context, certificate, key)
    if client_ca is not None:
        _load_roots(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(
    ca: File | None = None, certificate: File | None = None, key: File | None = None
) -> ssl.SSLContext:
    """Return the TLS context of a client, which checks the server's certificate and name.

    Args:
        ca: PEM file with the roots to trust; by default those of the system (or of ``SSL_CERT_FILE``).
        certificate: PEM file with the client's own certificate, if the server asks for one.
        key: PEM file with its private key, without a passphrase.

    Raises:
        ConfigError: If a file cannot be used; the message names it.
    """
    if (certificate is None) != (key is None):
        raise ConfigError("a client certificate and its key are given together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is None:
        context.load_default_certs()
    else:
        _load_roots(context, ca)
    if certificate is not None and key is not None:
        _load_certificate(context, certificate, key)
    return context


def asks_for_certificates(context: ssl.SSLContext | None) -> bool:
    """Return whether a server's context lets in only clients with a certificate."""
    return context is not None and context.verify_mode is ssl.CERT_REQUIRED


def _load_certificate(context: ssl.SSLContext, certificate: File, key: File) -> None:
    for file in (certificate, key):
        _require_readable(file)
    try:
        # Without a password callback, OpenSSL would ask at the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{certificate} and {key} are no certificate with its key: {_why(error)}"
        ) from error


def _load_roots(context: ssl.SSLContext, file: File) -> None:
    _require_readable(file)
    try:
        context.load_verify_locations(cafile=file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} holds no certificates: {_why(error)}") from error


def _require_readable(file: File) -> None:
    try:
        with open(file, "rb"):
            pass
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: {_why(error)}") from error


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):  # its text names a place in OpenSSL's source
        if error.reason is None:
            return "what stands in them is not PEM"
        return error.reason.replace("_", " ").lower()
    return str(getattr(error, "strerror", None) or error)
