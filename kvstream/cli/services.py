"""What runs beside each other in a service: listeners and inputs, none of which ends the others."""

import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import anyio

from kvstream.errors import ConfigError
from kvstream.faults.log import FaultLog
from kvstream.transport.tls import server_context


async def serve_all(faults: FaultLog, services: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Serve until cancelled; a listener or an input that fails leaves the others alone.

    Raises:
        Exception: Of the last one, if all have failed.
    """
    failed = 0

    async def serve(service: Callable[[], Awaitable[None]]) -> None:
        nonlocal failed
        try:
            await service()
        except Exception as error:
            failed += 1
            if failed == len(services):
                raise
            faults.note("serve", "listener", f"no longer served: {error}")

    async with anyio.create_task_group() as tasks:
        for service in services:
            tasks.start_soon(serve, service)


def server_tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> ssl.SSLContext | None:
    """Return the context that the options ask for; None without a certificate."""
    if certificate is not None and key is not None:
        return server_context(certificate, key, client_ca)
    if (certificate, key, client_ca) != (None, None, None):
        raise ConfigError("--tls-cert and --tls-key are given together, --tls-client-ca with both")
    return None
