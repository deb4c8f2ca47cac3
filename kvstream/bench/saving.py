"""What it costs to save a stream: bytes, CPU beside numpy's own files, and throughput meanwhile."""

import io
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any

import anyio
import msgspec
import numpy as np

from kvstream.bench.streams import busy, filling
from kvstream.config import MetricsConfig, StreamConfig
from kvstream.engine.source import SourceMonitor
from kvstream.events.frame import EventFrame
from kvstream.state.saver import Saver
from kvstream.state.sections import source_section
from kvstream.state.snapshot import pack_section
from kvstream.stream import KVStream, consumers_of, keeper_of

CASES = ((1, 16_384, False), (1, 16_384, True), (1000, 16_384, True), (1, 10_000_000, True))
"""Caches, blocks of each, and whether they are content hashes."""

_FRAME_EVENTS = 4096
_REPEATS = 3
_LEAST_SECONDS = 1.0
_TICK_SECONDS = 0.001


class Saving(msgspec.Struct, frozen=True, kw_only=True):
    """What snapshots of some caches cost.

    Attributes:
        caches: How many caches, each a source of its own.
        blocks: Live blocks of each.
        content: Whether blocks are content hashes, otherwise slots.
        bytes_per_cache: Length of a snapshot by caches.
        seconds: To take a snapshot while events come as fast as they can be applied; median.
        cost_seconds: What of that counts as taken from events, by which the interval is chosen.
        held_seconds: The longest that the event loop stands still for a snapshot while no event comes.
        of_savez: CPU to pack one cache, relative to ``numpy.savez`` and zstd of the same arrays.
        interval_seconds: From one snapshot to the next, so that they take a twentieth of the time.
        throughput_meanwhile: Events a second while a snapshot is taken, relative to those without; median of
            the ratios within each repeat.
        throughput: The same over the whole interval.
    """

    caches: int
    blocks: int
    content: bool
    bytes_per_cache: int
    seconds: float
    cost_seconds: float
    held_seconds: float
    of_savez: float
    interval_seconds: float
    throughput_meanwhile: float
    throughput: float


def measure_saving(
    on_case: Callable[[str], Any], cases: Sequence[tuple[int, int, bool]] = CASES
) -> list[Saving]:
    """Measure snapshots of each case; a thousand caches take three gigabytes of memory."""
    results = []
    for caches, blocks, content in cases:
        kind = "content hashes" if content else "slots"
        on_case(f"saving {caches:,} x {blocks:,} blocks, {kind}")
        results.append(anyio.run(_measure, caches, blocks, content))
    return results


async def _measure(caches: int, blocks: int, content: bool) -> Saving:
    metrics = MetricsConfig(export_interval=0.0, forget_seconds=0.0)
    with tempfile.TemporaryDirectory() as directory:
        stream = KVStream(StreamConfig(metrics=metrics), state=directory)
        keeper = keeper_of(stream)
        assert keeper is not None  # noqa: S101
        saver = keeper.saver
        saver.interval = 1e9  # it is asked for each snapshot
        async with stream:
            for number in range(caches):
                for frame in filling(blocks, content=content, source=f"engine-{number}").cut(_FRAME_EVENTS):
                    await stream.send(frame)
            await stream.flush()
            frames = cycle(_frames(caches, blocks, content))
            await _feed(stream, frames, 0.0)
            taken = [await _repeat(stream, saver, frames) for _ in range(_REPEATS)]
            await stream.flush()
            held = await _longest_hold(saver)
            of_savez = _of_savez(consumers_of(stream).sources()[0])
            length, interval = saver.bytes, saver.interval
    seconds = statistics.median(each[0] for each in taken)
    meanwhile = statistics.median(each[2] for each in taken)
    return Saving(
        caches=caches,
        blocks=blocks,
        content=content,
        bytes_per_cache=length // caches,
        seconds=seconds,
        cost_seconds=statistics.median(each[1] for each in taken),
        held_seconds=held,
        of_savez=of_savez,
        interval_seconds=interval,
        throughput_meanwhile=meanwhile,
        throughput=(interval + seconds * meanwhile) / (interval + seconds),
    )


def _frames(caches: int, blocks: int, content: bool) -> list[EventFrame]:
    """Return frames of every cache by turns."""
    each = [
        busy(blocks, 8 * _FRAME_EVENTS, content=content, source=f"engine-{number}", seed=number)
        for number in range(caches)
    ]
    return [
        frame for turn in zip(*(whole.cut(_FRAME_EVENTS) for whole in each), strict=True) for frame in turn
    ]


async def _repeat(stream: KVStream, saver: Saver, frames: Iterator[EventFrame]) -> tuple[float, float, float]:
    """Return seconds and cost of a snapshot, and throughput meanwhile, relative to that without."""
    saved: list[float] = []

    async def save() -> None:
        began = time.perf_counter()
        await saver.save()
        saved.append(time.perf_counter() - began)

    alone = await _feed(stream, frames, _LEAST_SECONDS)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(save)
        meanwhile = await _feed(stream, frames, 0.0, lambda: not saved)
    return saved[0], saver.cost, meanwhile / alone


async def _longest_hold(saver: Saver) -> float:
    """Return the longest time between two turns of the event loop while a snapshot is taken."""
    saved: list[bool] = []

    async def save() -> None:
        saved.append(await saver.save())

    longest = 0.0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(save)
        last = time.perf_counter()
        while not saved:
            await anyio.sleep(_TICK_SECONDS)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
    return longest


async def _feed(
    stream: KVStream,
    frames: Iterator[EventFrame],
    seconds: float,
    goes_on: Callable[[], bool] = lambda: False,
) -> float:
    """Send frames for some seconds and as long as something goes on; return events processed a second."""
    began, before = time.perf_counter(), stream.accounts().processed
    while goes_on() or time.perf_counter() - began < seconds:
        await stream.send(next(frames))
    processed = stream.accounts().processed - before
    return processed / max(time.perf_counter() - began, 1e-9)


def _of_savez(source: SourceMonitor) -> float:
    """Return CPU seconds to pack a source, relative to numpy's way with the same arrays."""
    section = source_section(source)
    ours = _cpu_seconds(lambda: pack_section(section))
    arrays = list(_arrays_in(section.body))

    def savez() -> None:
        file = io.BytesIO()
        np.savez(file, *arrays)
        try:
            import zstandard
        except ImportError:
            zlib.compress(file.getbuffer(), 1)
        else:
            zstandard.ZstdCompressor(level=1).compress(file.getbuffer())

    return ours / _cpu_seconds(savez)


def _cpu_seconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(_REPEATS):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def _arrays_in(value: object) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the arrays of a body, those that are worked out when it is packed as they are then."""
    if callable(value):
        value = value()
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _arrays_in(each)
