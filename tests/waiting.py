"""Waiting for what must happen: until it has, or long after a busy machine would have done it."""

from collections.abc import Callable

import anyio

DEADLINE = 240
"""Seconds. Only a test that fails waits this long; none may pass or fail by how fast it runs."""


async def until(condition: Callable[[], object], every: float = 0.005) -> None:
    """Look again and again until something is so, for what has no event to wait for.

    Raises:
        TimeoutError: If it is not so within ``DEADLINE``.
    """
    with anyio.fail_after(DEADLINE):
        while not condition():  # noqa: ASYNC110 - by what it is there for
            await anyio.sleep(every)
