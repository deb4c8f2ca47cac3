"""What two consumers of one process gain over one, beside what two processes do, in the same run."""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import anyio
import msgspec

from kvstream.bench.streams import busy, filling
from kvstream.config import StreamConfig
from kvstream.engine.joining import joined_frames
from kvstream.events.frame import EventFrame
from kvstream.stream import KVStream

SOURCES = ("a", "d")
"""Sources that belong to different consumers."""

_BLOCKS = 16_384
_FRAME_EVENTS = 4096


class Consumers(msgspec.Struct, frozen=True):
    """The same events of two sources, end to end, in three ways by turns.

    Attributes:
        ns_per_event: One process with one consumer, median of the repeats.
        two_processes: How many times as fast two processes are, a source each; median of the ratios within
            each repeat.
        two_consumers: How many times as fast one process with two consumers is, likewise.
    """

    ns_per_event: float
    two_processes: float
    two_consumers: float


def measure_consumers(
    on_repeat: Callable[[str], Any], events: int = 8_000_000, repeats: int = 21
) -> Consumers:
    """Measure one process, two processes and two consumers, which need a core each to gain anything.

    Which of the two comes first alternates, as the second finds both cores awake.

    Args:
        on_repeat: Called with what is measured now.
        events: Events a repeat, of both sources together. Of two million, two consumers would spend a tenth
            of their time on starting.
        repeats: Repeats; a first one is not counted.
    """
    each = [_frames(source, events // 2) for source in SOURCES]
    both = [frame for turn in zip(*each, strict=True) for frame in turn]
    context = multiprocessing.get_context("spawn")
    processes, pipes = [], []
    for source in SOURCES:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(source, events // 2, theirs), daemon=True)
        process.start()
        processes.append(process)
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()  # it is ready
    taken: list[tuple[float, float, float]] = []
    try:
        for repeat in range(repeats + 1):
            on_repeat(f"two consumers ({repeat} of {repeats})")
            one = _seconds(both, 1)
            if repeat % 2:
                processes_took, two = _seconds_of_processes(pipes), _seconds(both, 2)
            else:
                two, processes_took = _seconds(both, 2), _seconds_of_processes(pipes)
            taken.append((one, processes_took, two))
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            pipe.close()
            process.join()
    taken = taken[1:]
    return Consumers(
        statistics.median(one for one, _, _ in taken) / events * 1e9,
        statistics.median(one / processes for one, processes, _ in taken),
        statistics.median(one / consumers for one, _, consumers in taken),
    )


def _frames(source: str, events: int) -> list[EventFrame]:
    fill = filling(_BLOCKS, source=source)
    whole = joined_frames([fill, busy(_BLOCKS, events - len(fill), source=source)])
    return whole.cut(_FRAME_EVENTS)


def _seconds(frames: list[EventFrame], consumers: int) -> float:
    begun = time.perf_counter()
    anyio.run(_stream, frames, consumers)
    return time.perf_counter() - begun


def _seconds_of_processes(pipes: list[Connection]) -> float:
    begun = time.perf_counter()
    for pipe in pipes:
        pipe.send(True)
    for pipe in pipes:
        pipe.recv()
    return time.perf_counter() - begun


async def _stream(frames: list[EventFrame], consumers: int) -> None:
    async with KVStream(StreamConfig(consumers=consumers)) as stream:
        for frame in frames:
            await stream.send(frame)


def _serve(source: str, events: int, pipe: Connection) -> None:
    """Process a source's events each time that it receives a request."""
    frames = _frames(source, events)
    pipe.send(True)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        anyio.run(_stream, frames, 1)
        pipe.send(True)
