"""Containment: calls of foreign code, such as handlers, that end nothing but themselves."""

import inspect
import traceback
from collections.abc import Callable
from typing import Any

import anyio
from anyio import to_thread
from anyio.lowlevel import checkpoint_if_cancelled


async def contained(
    function: Callable[..., Any], *args: Any, in_thread: bool = False
) -> BaseException | None:
    """Call a function and return what it raised, a cancellation of its own making included.

    Args:
        function: A coroutine function or a plain one; what it returns is awaited if it can be.
        *args: Its arguments.
        in_thread: Call it in a worker thread, which is abandoned if this call is cancelled.

    Raises:
        KeyboardInterrupt: If the function raised it; so is a group that holds it.
        SystemExit: Likewise.
    """
    if in_thread:
        result, error = await to_thread.run_sync(_outcome, function, args, abandon_on_cancel=True)
        if error is None and inspect.isawaitable(result):
            error = await _in_own_task(lambda: result)
    else:
        error = await _in_own_task(lambda: function(*args))
    if error is not None and ends_everything(error):
        raise error
    return error


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


def _outcome(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    """Return errors as values, as a CancelledError out of a thread would look like a real one."""
    try:
        return function(*args), None
    except BaseException as error:
        return None, error


async def _in_own_task(call: Callable[[], Any]) -> BaseException | None:
    """Await a call in a task of its own, so that only a real cancellation reaches the caller's task.

    Whatever the call raises ends its task alone. If the caller is cancelled, so is that task, and the
    cancellation is raised here.
    """
    await checkpoint_if_cancelled()
    raised: list[BaseException] = []

    async def run() -> None:
        try:
            result = call()
            if inspect.isawaitable(result):
                await result
        except BaseException as error:
            raised.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
    if not raised:
        return None
    await checkpoint_if_cancelled()  # trio's task group raises no cancellation that its tasks have taken
    return raised[0]
