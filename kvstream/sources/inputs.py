"""Any input by its name: a file, standard input, or publishers over ZMQ."""

import os
import stat
import sys
from collections.abc import Callable, Sequence

from kvstream.sources.files import STDIN, read_events
from kvstream.sources.timing import Items, OnEnd, merge_by_time
from kvstream.sources.zmq_events import KVEventSubscriber

_ZMQ = ("zmq:", "zmq+ipc:")


class Input:
    """One input of a run.

    Args:
        name: A path, ``-``, or a URL as ``ZmqAddress`` has it.
        follow: Go on at the end of a file as it grows.

    Attributes:
        subscriber: What subscribes, if the input is a URL.
        is_live: Whether it is read as it comes; otherwise by recorded time, beside other recordings. Standard
            input is a recording if it comes from a file, as by ``< FILE``.
        is_pipe: Whether it is a named pipe or a device.

    Raises:
        ConfigError: If it is a URL that cannot be used.
        MissingExtraError: If it needs a package that is not installed.
        OSError: If it is a file that cannot be read.
    """

    def __init__(self, name: str, follow: bool = False) -> None:
        self.name = name
        self.subscriber = KVEventSubscriber(name) if name.startswith(_ZMQ) else None
        is_path = self.subscriber is None and name != STDIN
        self.is_pipe = is_path and not (stat.S_ISREG(mode := os.stat(name).st_mode) or stat.S_ISDIR(mode))
        is_file = not self.is_pipe if is_path else name == STDIN and _stdin_is_file()
        self.is_live = follow or not is_file
        self._follow = follow
        if is_path and not self.is_pipe:  # who closed a pipe would end its writer
            with open(name, "rb"):
                pass

    @property
    def size(self) -> int:
        """Return bytes in a recording."""
        return os.stat(sys.stdin.fileno() if self.name == STDIN else self.name).st_size

    def read(self, capacity: int | None = None, on_bytes: Callable[[int], None] | None = None) -> Items:
        """Return its frames and what was malformed.

        Args:
            capacity: Blocks of the simulated cache that a hash trace runs through.
            on_bytes: Told how many bytes each read of a file brought.
        """
        if self.subscriber is not None:
            return self.subscriber.read()
        return read_events(self.name, follow=self._follow, capacity=capacity, on_bytes=on_bytes)


def _stdin_is_file() -> bool:
    return sys.stdin is not None and stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode)


def live_and_recorded(
    inputs: Sequence[Input],
    capacity: int | None = None,
    on_bytes: Callable[[int], None] | None = None,
    on_end: OnEnd | None = None,
) -> tuple[list[Items], list[Items]]:
    """Return the items of several inputs: live ones as they come, recorded ones merged by time.

    Args:
        inputs: The inputs.
        capacity: Blocks of the simulated cache that a hash trace runs through.
        on_bytes: Told how many bytes each read of a file brought.
        on_end: Called when one of several recordings has ended (``merge_by_time``).
    """
    live = [each.read(capacity, on_bytes) for each in inputs if each.is_live]
    recorded = [each.read(capacity, on_bytes) for each in inputs if not each.is_live]
    return live, [merge_by_time(recorded, on_end)] if recorded else []
