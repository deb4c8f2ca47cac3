"""What runs beside each other in a service: listeners and inputs, none of which ends the others."""

from collections.abc import Awaitable, Callable, Sequence

import anyio

from kvstream.faults.log import FaultLog


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
