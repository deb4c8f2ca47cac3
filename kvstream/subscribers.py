"""Subscriptions: what a stream has to say, to each listener through a bounded buffer of its own."""

import inspect
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

T = TypeVar("T")

Handler = Callable[[T], Awaitable[Any] | Any]
SubscriberPolicy = Literal["drop_oldest", "drop_newest"]

logger = logging.getLogger("kvstream")


class SubscriptionStatistics(NamedTuple):
    """A subscription's accounts at one moment: published = delivered + buffered + dropped.

    Attributes:
        name: Name of the handler, or of the kind of subscription.
        published: Items that the stream had for it.
        delivered: Items taken.
        buffered: Items waiting.
        dropped: Items dropped as the buffer was full, or the subscription closed.
        failures: Times that the handler raised.
    """

    name: str
    published: int
    delivered: int
    buffered: int
    dropped: int
    failures: int


class Subscription(Generic[T]):
    """An asynchronous iterator of alerts, summaries or evictions.

    It holds what is published from the moment it was made, ends when the stream does, and never makes
    the stream wait: once its buffer is full it drops as its policy says. An item is not lost when
    waiting for it is cancelled.
    """

    def __init__(
        self,
        name: str,
        buffer: int,
        policy: SubscriberPolicy = "drop_oldest",
        wanted: Callable[[T], bool] | None = None,
    ) -> None:
        self._name = name
        self._limit = buffer
        self._policy = policy
        self._wanted = wanted
        self._items: deque[T] = deque()
        self._arrived = anyio.Event()
        self._published = self._delivered = self._dropped = self.failures = 0
        self._closed = False

    def publish(self, item: T) -> None:
        """Hands over an item; called by the stream."""
        if self._closed or (self._wanted is not None and not self._wanted(item)):
            return
        self._published += 1
        if len(self._items) >= self._limit:
            self._dropped += 1
            if self._policy == "drop_newest":
                return
            self._items.popleft()
        self._items.append(item)
        self._arrived.set()

    def close(self) -> None:
        """Ends the subscription once what is buffered has been taken."""
        self._closed = True
        self._arrived.set()

    def abandon(self) -> None:
        """Ends the subscription at once; what is buffered is dropped."""
        self._dropped += len(self._items)
        self._items.clear()
        self.close()

    @property
    def closed(self) -> bool:
        """Whether nothing more will come."""
        return self._closed

    def __aiter__(self) -> "Subscription[T]":
        return self

    async def __anext__(self) -> T:
        while not self._items:
            if self._closed:
                raise StopAsyncIteration
            if self._arrived.is_set():
                self._arrived = anyio.Event()
            await self._arrived.wait()
        self._delivered += 1
        return self._items.popleft()

    def statistics(self) -> SubscriptionStatistics:
        """The subscription's accounts now."""
        return SubscriptionStatistics(
            self._name, self._published, self._delivered, len(self._items), self._dropped, self.failures
        )


class Topic(Generic[T]):
    """Everyone who listens to one kind of item: subscriptions to iterate over, and handlers.

    Args:
        name: What the items are, for statistics.
        buffer: Items that a subscription holds unless it says otherwise.
    """

    def __init__(self, name: str, buffer: int) -> None:
        self._name = name
        self._buffer = buffer
        self._subscriptions: list[Subscription[T]] = []
        self._handled: list[_Handled[T]] = []
        self._tasks: TaskGroup | None = None

    def subscribe(
        self,
        buffer: int | None = None,
        policy: SubscriberPolicy = "drop_oldest",
        wanted: Callable[[T], bool] | None = None,
        name: str | None = None,
    ) -> Subscription[T]:
        """A new subscription; those that were closed are forgotten."""
        self._subscriptions = [s for s in self._subscriptions if not s.closed]
        made = Subscription(name or self._name, buffer or self._buffer, policy, wanted)
        self._subscriptions.append(made)
        return made

    def handle(
        self,
        handler: Handler[Any],
        wanted: Callable[[T], bool] | None = None,
        items_of: Callable[[Subscription[T]], AsyncIterator[Any]] | None = None,
    ) -> None:
        """Calls a handler with each item, from now or from the moment the stream opens.

        Args:
            handler: A coroutine function, or a plain one.
            wanted: Which items.
            items_of: What to make of them for the handler.
        """
        subscription = self.subscribe(wanted=wanted, name=handler_name(handler))
        items = subscription if items_of is None else items_of(subscription)
        handled = _Handled(subscription, items, handler, anyio.Event())
        self._handled.append(handled)
        if self._tasks is not None:
            self._tasks.start_soon(handled.run)

    def open(self, tasks: TaskGroup) -> None:
        """Starts the handlers."""
        self._tasks = tasks
        for handled in self._handled:
            tasks.start_soon(handled.run)

    @property
    def listening(self) -> bool:
        """Whether anyone listens."""
        return any(not subscription.closed for subscription in self._subscriptions)

    def publish(self, item: T) -> None:
        """Hands an item to everyone who listens."""
        for subscription in self._subscriptions:
            subscription.publish(item)

    def close(self) -> None:
        """Ends every subscription once what is buffered has been taken."""
        for subscription in self._subscriptions:
            subscription.close()

    async def handled(self) -> None:
        """Waits until the handlers have had every item of the closed topic."""
        for handled in self._handled:
            await handled.ended.wait()

    def abandon_handlers(self) -> None:
        """Drops what is buffered for handlers, which are gone; iterators keep what is theirs."""
        for handled in self._handled:
            handled.subscription.abandon()

    def statistics(self) -> list[SubscriptionStatistics]:
        """One entry a subscription or handler."""
        return [subscription.statistics() for subscription in self._subscriptions]


class _Handled(NamedTuple, Generic[T]):
    """A handler, and where its items come from."""

    subscription: Subscription[T]
    items: AsyncIterator[Any]
    handler: Handler[Any]
    ended: anyio.Event

    async def run(self) -> None:
        """Calls the handler with each item; a plain function runs in a worker thread.

        What it raises is counted, and logged with the handler's name; the next item comes all the same.
        """
        handler, name = self.handler, handler_name(self.handler)
        is_async = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
            getattr(handler, "__call__", None)  # noqa: B004 - an object whose __call__ is async
        )
        async for item in self.items:
            try:
                if is_async:
                    result = handler(item)
                else:
                    result = await to_thread.run_sync(handler, item, abandon_on_cancel=True)
                if inspect.isawaitable(result):
                    await result
            except Exception:
                self.subscription.failures += 1
                logger.exception("handler %s failed", name)
        self.ended.set()


def handler_name(handler: Callable[..., Any]) -> str:
    """The name that a handler goes by in logs and statistics."""
    return getattr(handler, "__qualname__", None) or type(handler).__qualname__
