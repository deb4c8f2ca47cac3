"""Topic: the subscribers to one kind of item."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

from kvstream.faults.log import FaultLog
from kvstream.subscriptions.buffer import Buffer, MessageBuffer, SubscriberPolicy
from kvstream.subscriptions.handler import (
    SINGLE,
    Batching,
    Delivery,
    Handled,
    Handler,
    destination_of,
    handler_name,
)
from kvstream.subscriptions.subscription import Subscription, SubscriptionStatistics

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

T = TypeVar("T")


class Topic(Generic[T]):
    """Subscribers to one kind of item: subscriptions to iterate over, and handlers.

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
        self._handled: list[Handled[T]] = []
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
        batching: Batching[T] = SINGLE,
        first: Iterable[T] = (),
    ) -> None:
        """Call a handler with each item, from now or from the moment the stream opens.

        Args:
            handler: A coroutine function, a plain one, or a ``Delivery``.
            wanted: Which items.
            batching: How it takes them, by default one by one.
            first: Items that it begins with.

        Raises:
            Exception: What a ``Delivery`` raises that cannot be prepared.
        """
        if isinstance(handler, Delivery):
            handler.prepare()
        subscription = self.subscribe(
            wanted=wanted, name=handler_name(handler), destination=destination_of(handler), first=first
        )
        handled = Handled(subscription, handler, batching, self._faults)
        self._handled.append(handled)
        if self._tasks is not None:
            self._tasks.start_soon(handled.run)

    def open(self, tasks: "TaskGroup") -> None:
        """Start the handlers."""
        self._tasks = tasks
        for handled in self._handled:
            tasks.start_soon(handled.run)

    def owed(self) -> list[tuple[str, list[T]]]:
        """Return each destination of a ``Delivery``, and the items that it has not been delivered yet."""
        return [(each.destination, each.owed()) for each in self._handled if each.is_delivery]

    def go_on(self, owed: Iterable[tuple[str, Sequence[T]]], current: Sequence[T]) -> None:
        """Restore the items that another process still owed; other handlers begin with the current ones.

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
        """Return whether every item published so far was passed to the handlers."""
        return all(handled.is_idle for handled in self._handled)

    def publish(self, item: T) -> None:
        """Publish an item to all subscribers."""
        for subscription in self._subscriptions:
            subscription.publish(item)

    def close(self) -> None:
        """End every subscription once what is buffered has been taken."""
        for subscription in self._subscriptions:
            subscription.close()

    async def handled(self, patience: float) -> None:
        """Wait until every item of the closed topic was passed to the handlers.

        A handler without success for ``patience`` seconds is not waited for any longer.
        """
        async with anyio.create_task_group() as tasks:
            for handled in self._handled:
                tasks.start_soon(handled.wait_ended, patience)

    def abandon_handlers(self) -> None:
        """Drop what is buffered for handlers, which have ended; iterators keep their items."""
        for handled in self._handled:
            handled.subscription.abandon()

    def statistics(self) -> list[SubscriptionStatistics]:
        """Return one entry a subscription or handler."""
        return [subscription.statistics() for subscription in self._subscriptions]
