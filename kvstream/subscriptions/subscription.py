"""Subscription: an asynchronous iterator of what is published, and its accounts."""

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

import anyio

from kvstream.faults.containment import described, ends_everything
from kvstream.faults.log import FaultLog
from kvstream.subscriptions.buffer import Buffer, MessageBuffer, SubscriberPolicy

T = TypeVar("T")


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


class Subscription(Generic[T]):
    """An asynchronous iterator of alerts, summaries or evictions.

    It receives what is published from the moment it was made, and ends when the stream does. It never makes
    the stream wait: items that do not fit into its buffer are dropped or superseded, as the buffer decides.
    If waiting for an item is cancelled, the item is not lost.

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
        self._failures = self._undelivered = 0

    def publish(self, item: T) -> None:
        """Add an item to the buffer; called by the stream."""
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
            self._failures += 1
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
        self._undelivered += left
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

    def note_failure(self, undelivered: int = 0) -> None:
        """Count a failure of the handler, and the items that it will not be called with again."""
        self._failures += 1
        self._undelivered += undelivered

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
            failures=self._failures,
            superseded=self._waiting.superseded,
            undelivered=self._undelivered,
            topic=self._topic,
            destination=self._destination,
        )
