"""Containment: calls of foreign code, such as handlers, that end nothing but themselves."""

import inspect
import traceback
from collections.abc import Callable
from typing import Any

import anyio
from anyio.lowlevel import checkpoint_if_cancelled


async def contained(function: Callable[..., Any], *args: Any) -> BaseException | None:
    """Call a function in a task of its own and return what it raised, a cancellation of its own included.

    If the caller is cancelled, so is that task, and the cancellation is raised here, whatever the function
    makes of it.

    Args:
        function: A coroutine function or a plain one; what it returns is awaited if it can be.
        *args: Its arguments.

    Raises:
        KeyboardInterrupt: If the function raised it; so is a group that holds it.
        SystemExit: Likewise.
    """
    raised: list[BaseException] = []

    async def run() -> None:
        try:
            result = function(*args)
            if inspect.isawaitable(result):
                await result
        except BaseException as error:
            raised.append(error)

    await checkpoint_if_cancelled()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
    if not raised:
        return None
    if ends_everything(raised[0]):
        raise raised[0]
    await checkpoint_if_cancelled()  # trio's task group raises no cancellation that its tasks have taken
    return raised[0]


def outcome(function: Callable[..., Any], *args: Any) -> tuple[Any, BaseException | None]:
    """Return what a plain function returns and what it raises, for results that cross threads as values.

    Event loops take some of them, such as a coroutine, a StopIteration or a GeneratorExit, for their own.
    """
    try:
        return function(*args), None
    except BaseException as error:
        return None, error


def ends_everything(error: BaseException) -> bool:
    """Return whether an error is meant for the whole process, alone or in a group."""
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if isinstance(each, (KeyboardInterrupt, SystemExit)):
            return True
        if isinstance(each, BaseExceptionGroup):
            waiting.extend(each.exceptions)
    return False


def described(error: BaseException) -> str:
    """Return an error's type, text and line of origin, as ``ValueError: no pager (page.py:12)``."""
    text = text_of(error)
    frame = next(reversed(traceback.extract_tb(error.__traceback__, limit=-1)), None)
    where = f" ({frame.filename.rpartition('/')[2]}:{frame.lineno})" if frame else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


def text_of(error: BaseException) -> str:
    """Return an error's text, empty if the error cannot say it."""
    try:
        return str(error)
    except Exception:  # foreign code once more
        return ""
