"""Forks: what a child process does with its copies of streams, connections and collectors.

A child has none of the threads that its parent had, and the locks as they stood at that moment. So each copy
there gets new locks and is closed: what it is asked to record is dropped and counted, and nothing waits.
"""

import logging
import os
from typing import Protocol
from weakref import WeakSet

logger = logging.getLogger("kvstream")


class Forkable(Protocol):
    """What must be closed in a forked child."""

    def close_after_fork(self) -> None:
        """Replace every lock and close, without waiting, calling back or touching an event loop."""


_open: WeakSet[Forkable] = WeakSet()


def close_in_children(resource: Forkable) -> None:
    """Have an object closed in every child that this process forks; only a weak reference is kept."""
    _open.add(resource)


def _close_copies() -> None:
    for resource in list(_open):
        try:
            resource.close_after_fork()
        except Exception:  # whatever one of them does, the others must be closed
            logger.exception("a copy in a forked child could not be closed")
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)
