"""KV-cache events out of a TensorRT-LLM engine, polled in the engine's own process.

Sources: ``LLM.get_kv_cache_events_async`` in TensorRT-LLM's ``tensorrt_llm/llmapi/llm.py`` and
``IterationResult`` in ``tensorrt_llm/executor/result.py``. The engine keeps only its last events
(``event_buffer_max_size``), for one reader, which this is then.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

import anyio
import msgspec

from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed
from kvstream.faults.containment import described
from kvstream.faults.log import FaultLog
from kvstream.sources.trtllm import TensorRTDecoder

__all__ = ["EngineWithEvents", "EventPoller", "PollStatistics", "TakesFrames"]

_POLL_SECONDS = 0.1  # that a poll waits for another event
_BATCH_EVENTS = 512
_BATCH_SECONDS = 0.25
_HANG_SECONDS = 30.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_READ_OF_BLOCK = ("block_hash", "cache_level", "lora_id")


class EngineWithEvents(Protocol):
    """A ``tensorrt_llm.LLM`` with block reuse and an ``event_buffer_max_size`` in its KvCacheConfig."""

    def get_kv_cache_events_async(self, timeout: float | None = 2) -> AsyncIterable[Any]:
        """Return events as they come, until none comes for ``timeout`` seconds."""


class TakesFrames(Protocol):
    """A ``KVStream`` or a ``Connection``."""

    async def send(self, frame: EventFrame) -> None:
        """Put a ready frame onto its queue, waiting for room."""


class PollStatistics(NamedTuple):
    """Accounts of polling an engine.

    Attributes:
        polls: Polls that ended.
        failed_polls: Polls that the engine ended with an error, or that hung.
        events: Events of the engine that were read.
        malformed: Events that could not be read.
        lost_events: Events that the engine dropped before they were read, by the gaps in their ids.
    """

    polls: int
    failed_polls: int
    events: int
    malformed: int
    lost_events: int


class EventPoller:
    """Polls an engine for its KV-cache events, without running steps of the engine's own loop.

    Errors of the engine, such as that of a poll before its first request, are counted and logged, and it is
    polled again after a pause of 0.1 s to 5 s.

    Args:
        llm: The engine.
        source: Its name; events of attention-DP rank 1 belong to ``{source}/dp1``.
        clock: Nanoseconds since the Unix epoch, as the events carry no time.

    Examples:
        >>> async def main(llm):
        ...     async with kvstream.connect("unix:/run/kvstream.sock") as connection:
        ...         await EventPoller(llm, "trtllm-0").run(connection)
    """

    def __init__(
        self, llm: EngineWithEvents, source: str = "trtllm", *, clock: Callable[[], int] | None = None
    ) -> None:
        self.faults = FaultLog()
        self._llm, self._source = llm, source
        self._decoder = TensorRTDecoder(source, clock)
        self._lines: list[bytes] = []
        self._next: dict[tuple[str, int], int] = {}  # number of the next frame, by source and epoch
        self._polls = self._failed = self._events = self._malformed = self._lost = 0

    def statistics(self) -> PollStatistics:
        """Return the accounts now."""
        return PollStatistics(self._polls, self._failed, self._events, self._malformed, self._lost)

    async def run(self, to: TakesFrames) -> None:
        """Send every event, until cancelled; while there is no room, the engine keeps what it can."""
        async with aclosing(self.read()) as items:
            async for item in items:
                if isinstance(item, EventFrame):
                    await to.send(item)

    async def read(self) -> AsyncGenerator[EventFrame | Malformed, None]:
        """Yield the engine's events as frames, and what was malformed, without end.

        Frames have numbers, with holes where the engine dropped events, so that ``KVStream.feed`` counts and
        reports them.
        """
        pause = _FIRST_PAUSE
        while True:
            began, before = time.monotonic(), self._events
            try:
                async with aclosing(self._poll()) as items:
                    async for item in items:
                        yield item
            except Exception as error:
                self._failed += 1
                self.faults.note("trtllm", "failed_poll", f"{self._source}: {described(error)}")
                for item in self._decoded():
                    yield item
                await anyio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._polls += 1
            pause = _FIRST_PAUSE
            if self._events == before:  # an engine without requests may answer at once
                await anyio.sleep(max(0.0, began + _POLL_SECONDS - time.monotonic()))

    async def _poll(self) -> AsyncGenerator[EventFrame | Malformed, None]:
        """Yield what one poll brings, to its end: what it has taken from the engine is nowhere else."""
        events = aiter(self._llm.get_kv_cache_events_async(timeout=_POLL_SECONDS))
        began = time.monotonic()
        while True:
            with anyio.fail_after(_HANG_SECONDS):
                event = await anext(events, None)
            if event is None:
                break
            self._take(event)
            now = time.monotonic()
            if len(self._lines) >= _BATCH_EVENTS or now >= began + _BATCH_SECONDS:
                began = now
                for item in self._decoded():
                    yield item
        for item in self._decoded():
            yield item

    def _take(self, event: Any) -> None:
        """Take an event as one version or another gives it: an object, its JSON text, or a list of these."""
        if isinstance(event, list):
            for each in event:
                self._take(each)
            return
        self._events += 1
        self._lines.append(_line(event))

    def _decoded(self) -> Iterator[EventFrame | Malformed]:
        lines, self._lines = self._lines, []
        if not lines:
            return
        first = self._events - len(lines)
        bad: list[Malformed] = []

        def on_bad(number: int, reason: str) -> None:
            bad.append(Malformed(self._source, "event", first + number, reason))

        frames = list(self._decoder.decode_lines(b"\n".join(lines), on_bad))
        self._malformed += len(bad)
        for item in bad:
            self.faults.note("trtllm", "malformed", str(item))
        yield from bad
        for frame in frames:
            kind = (frame.source, frame.epoch)
            lost = frame.seq - self._next.get(kind, frame.seq)
            if lost > 0:
                self._lost += lost
                self.faults.note(
                    "trtllm", "lost_events", f"{frame.source}: the engine dropped {lost:,} events"
                )
            self._next[kind] = frame.seq + 1
            yield frame


def _line(event: Any) -> bytes:
    """Return an event as a line of JSON, without its tokens, which are most of it and private."""
    if isinstance(event, (str, bytes)):
        line = event.encode(errors="replace") if isinstance(event, str) else event
        return line.replace(b"\n", b" ") or b"null"
    try:
        data = event["data"]
        if "blocks" in data:
            blocks = [{key: block[key] for key in _READ_OF_BLOCK if key in block} for block in data["blocks"]]
            event = {**event, "data": {"type": data["type"], "blocks": blocks}}
        return msgspec.json.encode(event)
    except Exception as error:  # whatever the engine has for an event: it is reported as what it is
        return msgspec.json.encode({"event_id": None, "not_readable": type(error).__name__})
