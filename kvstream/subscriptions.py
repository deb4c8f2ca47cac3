"""Subscriptions: what a stream publishes, for each listener through a bounded buffer of its own."""

import inspect
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar, Union

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled

from kvstream.errors import KVStreamError, UndeliveredError
from kvstream.faults.containment import (
    contained,
    described,
    ends_everything,
    outcome,
    text_of,
)
from kvstream.faults.log import FaultLog
from kvstream.faults.retries import pause_seconds

T = TypeVar("T")

SubscriberPolicy = Literal["drop_oldest", "drop_newest"]
Handler = Union[Callable[[Any], Awaitable[Any] | Any], "Delivery"]

_LONGEST_PAUSE = 30.0
_LONGEST_PAUSE_AT_THE_END = 1.0

logger = logging.getLogger("kvstream")


class SubscriptionStatistics(NamedTuple):
    """A subscription's accounts at one moment: published = delivered + buffered + dropped + superseded.

    Attributes:
        name: Name of the handler, or of the kind of subscription.
        published: Items that the stream had for it.
        delivered: Items taken, or given to a handler that did not ask for another try.
        buffered: Items waiting.
        dropped: Items dropped as the buffer was full, or the subscription closed.
        failures: Times that the handler raised.
        superseded: Alerts left out as a newer state of the same alert was waiting.
        undelivered: Items that the handler failed on for good, or had not taken when the stream ended.
        topic: What the items are: ``alerts``, ``summaries`` or ``evictions``.
        destination: Where a handler delivers to, without secrets; its name if it does not say.
    """

    name: str
    published: int
    delivered: int
    buffered: int
    dropped: int
    failures: int
    superseded: int
    undelivered: int
    topic: str
    destination: str


class Buffer(Protocol[T]):
    """Items that wait for one subscriber.

    Attributes:
        dropped: Items dropped for want of room.
        superseded: Items left out as a newer one says all that they said.
    """

    dropped: int
    superseded: int

    def __len__(self) -> int:
        """Return how many items wait."""

    def put(self, item: T) -> None:
        """Add an item, at the cost of another if there is no room."""

    def put_back(self, items: Sequence[T]) -> None:
        """Return items that were taken and not delivered to the front."""

    def items(self) -> Iterable[T]:
        """Return what waits, oldest first."""

    def take(self) -> T:
        """Remove and return the oldest item."""

    def take_all(self, wanted: Callable[[T], bool]) -> list[T]:
        """Remove and return the items that are wanted, oldest first."""


class MessageBuffer(Generic[T]):
    """A buffer in which each item matters by itself: the oldest, or the newest, is dropped when it is full.

    Args:
        limit: Items at most.
        policy: Which to drop.
    """

    def __init__(self, limit: int, policy: SubscriberPolicy = "drop_oldest") -> None:
        self.dropped = self.superseded = 0
        self._limit, self._policy = limit, policy
        self._items: deque[T] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Add an item, at the cost of another if there is no room."""
        if len(self._items) >= self._limit:
            self.dropped += 1
            if self._policy == "drop_newest":
                return
            self._items.popleft()
        self._items.append(item)

    def put_back(self, items: Sequence[T]) -> None:
        """Return items that were taken and not delivered to the front, as far as there is room."""
        for item in reversed(items):
            if len(self._items) >= self._limit:
                self.dropped += 1
            else:
                self._items.appendleft(item)

    def items(self) -> Iterable[T]:
        """Return what waits, oldest first."""
        return self._items

    def take(self) -> T:
        """Remove and return the oldest item."""
        return self._items.popleft()

    def take_all(self, wanted: Callable[[T], bool]) -> list[T]:
        """Remove and return the items that are wanted, oldest first."""
        taken = [item for item in self._items if wanted(item)]
        self._items = deque(item for item in self._items if not wanted(item))
        return taken


class Subscription(Generic[T]):
    """An asynchronous iterator of alerts, summaries or evictions.

    It holds what is published from the moment it was made, ends when the stream does, and never makes
    the stream wait: what does not fit into its buffer is dropped or superseded, as the buffer does it.
    An item is not lost when waiting for it is cancelled.

    Args:
        name: Name in statistics.
        buffer: Items that it holds.
        policy: Which item to drop when the buffer is full.
        wanted: Which items it is for; all by default. An item for which this raises is left out.
        waiting: Its buffer, by default a ``MessageBuffer``.
        faults: Where errors of ``wanted`` are noted.
        topic: What the items are, for statistics.
        destination: Where they go, for statistics.
    """

    def __init__(
        self,
        name: str,
        buffer: int,
        policy: SubscriberPolicy = "drop_oldest",
        wanted: Callable[[T], bool] | None = None,
        *,
        waiting: Buffer[T] | None = None,
        faults: FaultLog | None = None,
        topic: str = "",
        destination: str = "",
    ) -> None:
        self._name, self._topic, self._destination = name, topic or name, destination or name
        self._wanted = wanted
        self._faults = faults or FaultLog()
        self._waiting: Buffer[T] = MessageBuffer(buffer, policy) if waiting is None else waiting
        self._arrived = anyio.Event()
        self._closing = anyio.Event()
        self._published = self._delivered = self._abandoned = 0
        self.failures = self.undelivered = 0

    def publish(self, item: T) -> None:
        """Hand over an item; called by the stream."""
        if self.closed or not self._wants(item):
            return
        self._published += 1
        self._waiting.put(item)
        self._arrived.set()

    def _wants(self, item: T) -> bool:
        if self._wanted is None:
            return True
        try:
            return bool(self._wanted(item))
        except BaseException as error:
            if ends_everything(error):
                raise
            self.failures += 1
            self._faults.note("handler", "filter", f"the filter of {self._name} failed: {described(error)}")
            return False

    def close(self) -> None:
        """End the subscription once what is buffered has been taken."""
        self._closing.set()
        self._arrived.set()

    def abandon(self) -> None:
        """End the subscription at once; what is buffered is dropped and counts as undelivered."""
        left = len(self._waiting.take_all(lambda _: True))
        self._abandoned += left
        self.undelivered += left
        self.close()

    @property
    def closed(self) -> bool:
        """Return whether nothing more will come."""
        return self._closing.is_set()

    @property
    def is_taken(self) -> bool:
        """Return whether all that was published was taken, and nothing abandoned; from any thread."""
        return not len(self._waiting) and not self._abandoned

    async def wait_closed(self) -> None:
        """Wait until nothing more will come; what is buffered may still be taken."""
        await self._closing.wait()

    async def wait(self) -> bool:
        """Wait until an item is buffered; return False once there is none and none will come."""
        while not len(self._waiting):
            if self.closed:
                return False
            if self._arrived.is_set():
                self._arrived = anyio.Event()
            await self._arrived.wait()
        return True

    def buffered(self) -> Iterable[T]:
        """Return the items that wait, oldest first; valid until something is taken or published."""
        return self._waiting.items()

    def take(self) -> T:
        """Remove and return the oldest item of a buffer that holds one."""
        item = self._waiting.take()
        self._delivered += 1
        return item

    def take_all(self, wanted: Callable[[T], bool]) -> list[T]:
        """Remove and return the buffered items for which ``wanted`` is true, oldest first."""
        taken = self._waiting.take_all(wanted)
        self._delivered += len(taken)
        return taken

    def give_back(self, items: Sequence[T]) -> None:
        """Return items that were taken and could not be delivered; they are the next to be taken."""
        self._delivered -= len(items)
        self._waiting.put_back(items)
        self._arrived.set()

    def __aiter__(self) -> "Subscription[T]":
        return self

    async def __anext__(self) -> T:
        if not len(self._waiting) and not await self.wait():
            raise StopAsyncIteration
        return self.take()

    def statistics(self) -> SubscriptionStatistics:
        """Return the subscription's accounts now."""
        return SubscriptionStatistics(
            name=self._name,
            published=self._published,
            delivered=self._delivered,
            buffered=len(self._waiting),
            dropped=self._waiting.dropped + self._abandoned,
            failures=self.failures,
            superseded=self._waiting.superseded,
            undelivered=self.undelivered,
            topic=self._topic,
            destination=self._destination,
        )


class Delivery(ABC):
    """A handler that makes one attempt at a time and leaves it to the stream when to try again.

    Attributes:
        destination: Where it delivers to, as operators may read it; holds no secrets.
    """

    destination: str

    @abstractmethod
    async def deliver(self, item: Any) -> None:
        """Make one attempt.

        Raises:
            UndeliveredError: If it failed and may succeed later.
        """


class Batching(NamedTuple, Generic[T]):
    """How a handler takes the items of its subscription.

    Attributes:
        batches: Makes of a subscription what the handler is called with, one after the other.
        parts: The items of the subscription that one of these is made of.
    """

    batches: Callable[[Subscription[T]], AsyncIterator[Any]]
    parts: Callable[[Any], Sequence[T]]


_SINGLE: Batching[Any] = Batching(lambda subscription: subscription, lambda item: (item,))


class Topic(Generic[T]):
    """Everyone who listens to one kind of item: subscriptions to iterate over, and handlers.

    Args:
        name: What the items are, for statistics.
        buffer: Items that a subscription holds unless it says otherwise.
        waiting: Makes the buffer of a subscription.
        faults: Where errors of handlers are noted.
    """

    def __init__(
        self,
        name: str,
        buffer: int,
        waiting: Callable[[int, SubscriberPolicy], Buffer[T]] = MessageBuffer,
        faults: FaultLog | None = None,
    ) -> None:
        self._name = name
        self._buffer = buffer
        self._waiting = waiting
        self._faults = faults or FaultLog()
        self._subscriptions: list[Subscription[T]] = []
        self._handled: list[_Handled[T]] = []
        self._tasks: TaskGroup | None = None

    def subscribe(
        self,
        buffer: int | None = None,
        policy: SubscriberPolicy = "drop_oldest",
        wanted: Callable[[T], bool] | None = None,
        name: str | None = None,
        destination: str = "",
        first: Iterable[T] = (),
    ) -> Subscription[T]:
        """Return a new subscription; those that were closed are forgotten.

        Args:
            buffer: Items that it holds.
            policy: Which item to drop when the buffer is full.
            wanted: Which items it is for.
            name: Name in statistics, by default the topic's.
            destination: Where the items go, for statistics.
            first: Items that it begins with.
        """
        self._subscriptions = [s for s in self._subscriptions if not s.closed]
        made: Subscription[T] = Subscription(
            name or self._name,
            buffer or self._buffer,
            wanted=wanted,
            waiting=self._waiting(buffer or self._buffer, policy),
            faults=self._faults,
            topic=self._name,
            destination=destination,
        )
        for item in first:
            made.publish(item)
        self._subscriptions.append(made)
        return made

    def handle(
        self,
        handler: Handler,
        wanted: Callable[[T], bool] | None = None,
        batching: Batching[T] = _SINGLE,
        first: Iterable[T] = (),
    ) -> None:
        """Call a handler with each item, from now or from the moment the stream opens.

        Args:
            handler: A coroutine function, a plain one, or a ``Delivery``.
            wanted: Which items.
            batching: How it takes them, by default one by one.
            first: Items that it begins with.
        """
        subscription = self.subscribe(
            wanted=wanted, name=handler_name(handler), destination=destination_of(handler), first=first
        )
        handled = _Handled(subscription, handler, batching, self._faults)
        self._handled.append(handled)
        if self._tasks is not None:
            self._tasks.start_soon(handled.run)

    def open(self, tasks: TaskGroup) -> None:
        """Start the handlers."""
        self._tasks = tasks
        for handled in self._handled:
            tasks.start_soon(handled.run)

    def owed(self) -> list[tuple[str, list[T]]]:
        """Return each destination of a ``Delivery``, and the items that it has not been delivered yet."""
        return [(each.destination, each.owed()) for each in self._handled if each.is_delivery]

    def go_on(self, owed: Iterable[tuple[str, Sequence[T]]], current: Sequence[T]) -> None:
        """Go on from what another process owed; whoever is not among that begins with what is current.

        Args:
            owed: What ``owed`` returned there.
            current: Items that stand for the state now, which those destinations had been delivered.
        """
        left = list(owed)
        deliveries = {each.subscription: each.destination for each in self._handled if each.is_delivery}
        for subscription in self._subscriptions:
            for item in current:
                subscription.publish(item)
            destination = deliveries.get(subscription)
            known = next((entry for entry in left if entry[0] == destination), None)
            if known is not None:
                left.remove(known)
                subscription.take_all(lambda _: True)
                for item in known[1]:
                    subscription.publish(item)

    @property
    def listening(self) -> bool:
        """Return whether anyone listens."""
        return any(not subscription.closed for subscription in self._subscriptions)

    @property
    def is_handled(self) -> bool:
        """Return whether the handlers have had every item that was published so far."""
        return all(handled.is_idle for handled in self._handled)

    def publish(self, item: T) -> None:
        """Hand an item to everyone who listens."""
        for subscription in self._subscriptions:
            subscription.publish(item)

    def close(self) -> None:
        """End every subscription once what is buffered has been taken."""
        for subscription in self._subscriptions:
            subscription.close()

    async def handled(self, patience: float) -> None:
        """Wait until the handlers have had every item of the closed topic.

        A handler that has had no success for ``patience`` seconds is not waited for any longer.
        """
        async with anyio.create_task_group() as tasks:
            for handled in self._handled:
                tasks.start_soon(handled.wait_ended, patience)

    def abandon_handlers(self) -> None:
        """Drop what is buffered for handlers, which are gone; iterators keep what is theirs."""
        for handled in self._handled:
            handled.subscription.abandon()

    def statistics(self) -> list[SubscriptionStatistics]:
        """Return one entry a subscription or handler."""
        return [subscription.statistics() for subscription in self._subscriptions]


class _Handled(Generic[T]):
    """A handler, and the subscription that it is called for."""

    def __init__(
        self, subscription: Subscription[T], handler: Handler, batching: Batching[T], faults: FaultLog
    ) -> None:
        self.subscription = subscription
        self._batching, self._faults = batching, faults
        self._ended = anyio.Event()
        self._successes = 0
        self._tries = 0  # that failed, since the last success or the end of the stream
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
        """Return whether the handler has had everything, and is called with nothing; from any thread."""
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
                if isinstance(error, Exception):  # not the handler's, whose are dealt with there
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
                    self._tries = 0
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
        self.subscription.undelivered += len(self._in_hand)
        self._in_hand = None
        self.subscription.failures += 1
        logger.debug("handler %s failed", self._name, exc_info=error)
        text = text_of(error) if isinstance(error, KVStreamError) else described(error)
        self._faults.note("handler", _reason(error), f"handler {self._name} failed: {text}")

    async def wait_ended(self, patience: float) -> None:
        """Wait until the handler has had every item, or has had no success for ``patience`` seconds."""
        successes = -1
        while successes < self._successes:
            successes = self._successes
            with anyio.move_on_after(patience):
                await self._ended.wait()
                return

    async def _pause(self, error: UndeliveredError) -> None:
        """Wait before the next try, for less long once the stream ends."""
        self.subscription.failures += 1
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
