import asyncio
import concurrent.futures

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kvstream.faults.containment import contained, described, ends_everything

backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])
ERRORS = {
    "ValueError": ValueError("no"),
    "asyncio's CancelledError": asyncio.CancelledError(),
    "futures' CancelledError": concurrent.futures.CancelledError(),
    "GeneratorExit": GeneratorExit(),
    "StopIteration": StopIteration(),
    "StopAsyncIteration": StopAsyncIteration(),
    "BaseException": BaseException("bare"),
    "group": BaseExceptionGroup("several", [asyncio.CancelledError(), ValueError("no")]),
}
errors = pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
FOR_ALL = [
    KeyboardInterrupt(),
    SystemExit(3),
    BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [ValueError(), SystemExit(3)])]),
]


def raising(error, form):
    """Raise an error from an async function, a plain one, or what a plain one returns."""

    def plain():
        raise error

    async def later():
        await checkpoint()
        raise error

    return {"async": later, "plain": plain, "awaitable": lambda: later()}[form]


forms = pytest.mark.parametrize("form", ["async", "plain", "awaitable"])


@backends
@forms
@errors
def test_an_error_of_a_call_is_returned(backend, form, error):
    async def main():
        raised = await contained(raising(error, form))
        await checkpoint()  # the caller was not cancelled
        return raised

    raised = anyio.run(main, backend=backend)
    # Python makes a RuntimeError of a StopIteration that leaves a coroutine.
    assert raised is error or (type(error) is StopIteration and isinstance(raised, RuntimeError))


@backends
@forms
@pytest.mark.parametrize("error", FOR_ALL, ids=repr)
def test_what_ends_the_process_goes_through(backend, form, error):
    async def main():
        try:
            await contained(raising(error, form))
        except BaseException as through:
            return through

    assert anyio.run(main, backend=backend) is error
    assert ends_everything(error)


@backends
def test_a_real_cancellation_goes_through_whatever_the_call_makes_of_it(backend):
    began = []

    async def stubborn():
        began.append(True)
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("not you")

    async def main():
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(contained, stubborn)
                while not began:
                    await checkpoint()
                scope.cancel()
        return scope.cancelled_caught

    assert anyio.run(main, backend=backend)


def test_a_call_that_cancels_its_own_task_cancels_no_other():
    async def suicidal(wait):
        asyncio.current_task().cancel()
        if wait:
            await anyio.sleep(1)

    async def main():
        raised = [await contained(suicidal, wait) for wait in (True, False)]
        await checkpoint()
        return raised

    first, second = anyio.run(main)
    assert isinstance(first, asyncio.CancelledError)
    assert second is None


def test_a_description_names_type_text_and_place():
    class MuteError(Exception):
        def __str__(self):
            raise ValueError

    async def main():
        return [
            described(await contained(raising(error, "async"))) for error in (ValueError("no"), MuteError())
        ]

    first, second = anyio.run(main)
    assert first.startswith("ValueError: no (test_containment.py:")
    assert second.startswith("MuteError (test_containment.py:")
