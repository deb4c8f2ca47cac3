"""Buffers: items that wait for one subscriber, and which of them are dropped without room."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Literal, Protocol, TypeVar

T = TypeVar("T")

SubscriberPolicy = Literal["drop_oldest", "drop_newest"]


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
