"""Turns: long work on the event loop, a few milliseconds at a time."""

import anyio
from anyio.lowlevel import checkpoint

TURN_SECONDS = 0.002
"""Seconds of work until other tasks have their turn."""


class Turns:
    """Lets other tasks run between the parts of long work; the first turn begins now."""

    def __init__(self) -> None:
        self._began = anyio.current_time()

    async def give_way(self) -> None:
        """Let other tasks run if this turn has taken long enough."""
        if anyio.current_time() - self._began >= TURN_SECONDS:
            await checkpoint()
            self._began = anyio.current_time()
