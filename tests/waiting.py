"""Waiting for what must happen: until it has, or long after a busy machine would have done it."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.lowlevel import checkpoint

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


@asynccontextmanager
async def numbered_turns() -> AsyncIterator[Callable[[], int]]:
    """Yield what returns how often other tasks have had their turn so far."""
    number = 0

    async def take_turns() -> None:
        nonlocal number
        while True:
            number += 1
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take_turns)
        yield lambda: number
        tasks.cancel_scope.cancel()


async def turns_while(awaited: Awaitable[object]) -> int:
    """Return how often another task gets its turn while something is awaited."""
    async with numbered_turns() as turn:
        await awaited
    return turn()


def note_calls(monkeypatch, note: Callable[[], None], *functions: tuple[object, str]) -> None:
    """Let ``note`` be called before each call of some functions, and before each item of a generator's."""

    def noting(function):
        def call(*args, **options):
            note()
            return function(*args, **options)

        def generate(*args, **options):
            for item in function(*args, **options):
                note()
                yield item

        return generate if inspect.isgeneratorfunction(function) else call

    for owner, name in functions:
        monkeypatch.setattr(owner, name, noting(getattr(owner, name)))
