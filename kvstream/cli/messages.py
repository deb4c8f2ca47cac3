"""What commands say on standard error: one line each, with nothing in it that a terminal acts on."""

import sys

from kvstream.events.types import Malformed
from kvstream.text.escape import for_terminal

_MALFORMED_SHOWN = 20


def say(message: str) -> None:
    """Print a line on standard error.

    Args:
        message: The line; may hold text from outside.
    """
    print(for_terminal(message), file=sys.stderr)


class MalformedReport:
    """Says what of an input could not be decoded: the first pieces each, the others as a count.

    Attributes:
        count: Malformed pieces so far.
    """

    def __init__(self) -> None:
        self.count = 0

    def add(self, malformed: Malformed) -> None:
        """Count a piece, and print it if it is one of the first."""
        self.count += 1
        if self.count <= _MALFORMED_SHOWN:
            say(f"malformed  {malformed}")
        if self.count == _MALFORMED_SHOWN:
            say("malformed  further pieces are counted only")

    def finish(self, where: str = "") -> None:
        """Print how many pieces were left out, if any were."""
        if self.count:
            say(f"kvstream: {self.count:,} malformed pieces{where and f' of {where}'} were left out")
