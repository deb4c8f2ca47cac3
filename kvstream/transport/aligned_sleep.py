"""Sleeps that end together: to wake once costs less than to wake for each."""

import anyio


async def sleep_aligned(seconds: float) -> None:
    """Sleep until the time of the event loop is next a multiple of ``seconds``, as for all who call this."""
    now = anyio.current_time()
    await anyio.sleep((now // seconds + 1) * seconds - now)
