"""Handlers: functions that are called with what is published, and again with what they could not deliver."""

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, Union

import anyio
from anyio import to_thread
from anyio.lowlevel import checkpoint_if_cancelled

from kvstream.errors import KVStreamError, UndeliveredError
from kvstream.faults.containment import contained, described, outcome, text_of
from kvstream.faults.log import FaultLog
from kvstream.faults.retries import pause_seconds
from kvstream.subscriptions.subscription import Subscription

T = TypeVar("T")

Handler = Union[Callable[[Any], Awaitable[Any] | Any], "Delivery"]

_LONGEST_PAUSE = 30.0
_LONGEST_PAUSE_AT_THE_END = 1.0

logger = logging.getLogger("kvstream")


class Delivery(ABC):
    """A handler that makes one attempt at a time; the stream decides when to try again.

    Attributes:
        destination: Where it delivers to, for operators to read; without secrets.
    """

    destination: str

    def prepare(self) -> None:  # noqa: B027 - there may be nothing to prepare
        """Open or check what can fail before the first item; by default, nothing.

        It is called when this becomes a handler of a stream, and what it raises is raised there.
        """

    @abstractmethod
    async def deliver(self, item: Any) -> None:
        """Make one attempt.

        It is cancelled if the stream is left by an exception or has waited for too long at its end; the item
        then counts as undelivered.

        Raises:
            UndeliveredError: If it failed and may succeed later.
        """


class Batching(NamedTuple, Generic[T]):
    """How a handler takes the items of its subscription.

    Attributes:
        batches: Returns an iterator of the batches that the handler is called with, made of a subscription.
        parts: Returns the items of the subscription that are in a batch.
    """

    batches: Callable[[Subscription[T]], AsyncIterator[Any]]
    parts: Callable[[Any], Sequence[T]]


SINGLE: Batching[Any] = Batching(lambda subscription: subscription, lambda item: (item,))


class Handled(Generic[T]):
    """A handler, and the subscription that it is called for."""

    def __init__(
        self, subscription: Subscription[T], handler: Handler, batching: Batching[T], faults: FaultLog
    ) -> None:
        self.subscription = subscription
        self._batching, self._faults = batching, faults
        self._ended = anyio.Event()
        self._successes = 0
        self._tries = 0  # that failed, since the last success or the end of the stream
        self._refused = ""  # why the last delivery failed for good
        self._name, self.destination = handler_name(handler), destination_of(handler)
        self.is_delivery = isinstance(handler, Delivery)
        self._function: Callable[[Any], Any] = handler.deliver if isinstance(handler, Delivery) else handler
        self._in_thread = not (
            inspect.iscoroutinefunction(self._function)
            or inspect.iscoroutinefunction(getattr(self._function, "__call__", None))  # noqa: B004 - an object whose __call__ is async
        )
        self._in_hand: Sequence[T] | None = None  # what it is called with

    def owed(self) -> list[T]:
        """Return the items that it has not been called with, or may not have been."""
        return [*(self._in_hand or ()), *self.subscription.buffered()]

    @property
    def is_idle(self) -> bool:
        """Return whether every item was passed to the handler and no call is running; from any thread."""
        return self._in_hand is None and self.subscription.is_taken

    async def run(self) -> None:
        """Call the handler with each item; a plain function runs in a worker thread.

        What it raises is counted and noted under its name, and the next item comes all the same. What it
        could not deliver is tried again after a pause, in its newest state.
        """
        try:
            while not self._ended.is_set():
                # A task of its own, that ends if the handler cancels it; the next one goes on from there.
                error = await contained(self._call_with_each)
                if isinstance(error, Exception):  # not the handler's: those are dealt with there
                    raise error
                if error is not None and self._in_hand is not None:
                    self._failed(error)
        finally:
            if self._in_hand is not None:
                self.subscription.give_back(self._in_hand)

    async def _call_with_each(self) -> None:
        batches = self._batching.batches(self.subscription)
        try:
            async for item in batches:
                self._in_hand = self._batching.parts(item)
                try:
                    await self._call(item)
                except UndeliveredError as error:
                    self.subscription.give_back(self._in_hand)
                    self._in_hand = None
                    await self._pause(error)
                except Exception as error:
                    await checkpoint_if_cancelled()
                    self._failed(error)
                else:
                    self._in_hand = None
                    self._successes += 1
                    self._tries, self._refused = 0, ""
                if anyio.get_current_task().has_pending_cancellation():
                    return  # the handler has cancelled this task, if nobody else has
        finally:
            if isinstance(batches, AsyncGenerator):
                with anyio.CancelScope(shield=True):
                    await batches.aclose()
        self._ended.set()

    async def _call(self, item: Any) -> None:
        if not self._in_thread:
            await self._function(item)
            return
        result, error = await to_thread.run_sync(outcome, self._function, item, abandon_on_cancel=True)
        if error is not None:
            raise error
        if inspect.isawaitable(result):
            await result

    def _failed(self, error: BaseException) -> None:
        """Count what the handler was called with as undelivered."""
        assert self._in_hand is not None  # noqa: S101
        self.subscription.note_failure(undelivered=len(self._in_hand))
        self._in_hand = None
        logger.debug("handler %s failed", self._name, exc_info=error)
        text = text_of(error) if isinstance(error, KVStreamError) else described(error)
        if not self.is_delivery:
            self._faults.note("handler", _reason(error), f"handler {self._name} failed: {text}")
            return
        again = text == self._refused
        self._refused = text
        self._faults.note(
            "handler",
            "refused_again" if again else _reason(error),
            f"{self.destination}: not delivered: {text}",
            logging.DEBUG if again else logging.WARNING,
        )

    async def wait_ended(self, patience: float) -> None:
        """Wait until every item was passed to the handler, or it had no success for ``patience`` seconds."""
        successes = -1
        while successes < self._successes:
            successes = self._successes
            with anyio.move_on_after(patience):
                await self._ended.wait()
                return

    async def _pause(self, error: UndeliveredError) -> None:
        """Wait before the next try, for less long once the stream ends."""
        self.subscription.note_failure()
        self._tries += 1
        ending = self.subscription.closed
        seconds = pause_seconds(self._tries, _LONGEST_PAUSE_AT_THE_END if ending else _LONGEST_PAUSE)
        if error.retry_after is not None:
            seconds = error.retry_after
        first = self._tries == 1
        self._faults.note(
            "handler",
            "undelivered" if first else "undelivered_again",
            f"{self.destination}: not delivered, will be tried again: {text_of(error)}",
            logging.WARNING if first else logging.DEBUG,
        )
        if ending or error.retry_after is not None:
            await anyio.sleep(seconds)
            return
        with anyio.move_on_after(seconds):
            await self.subscription.wait_closed()
            self._tries = 1  # what is left is tried in quick succession


def _reason(error: BaseException) -> str:
    """Return the reason that a handler's failure is counted under."""
    return "failed" if isinstance(error, Exception) else "cancelled"


def handler_name(handler: Handler) -> str:
    """Return the name that a handler goes by in logs and statistics."""
    return str(getattr(handler, "__qualname__", None) or type(handler).__qualname__)


def destination_of(handler: Handler) -> str:
    """Return where a handler delivers to; its name if it does not say."""
    return handler.destination if isinstance(handler, Delivery) else handler_name(handler)
