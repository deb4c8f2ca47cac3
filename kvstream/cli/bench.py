"""``kvstream bench``: what each part costs, beside a plain per-event collector in the same run."""

import os
import platform
import random
import statistics
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Any

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from kvstream.blocks.table import BlockTable
from kvstream.collector import BatchMetricsCollector, KVCacheMetricsCollector
from kvstream.events.codec import decode_frame, decode_lines, encode_frame, encode_lines
from kvstream.events.frame import EventFrame
from kvstream.monitor import Monitor
from kvstream.sources.synthetic import generate

EXAMPLES = """
[bold]Examples[/bold]

  kvstream bench                     a table, about half a minute

  kvstream bench --events 1000000 --json > figures.json
"""


class Result(msgspec.Struct, frozen=True):
    """One measured part.

    Attributes:
        part: What was done.
        ns_per_event: Median of the repeats.
        spread: (slowest - fastest) / median.
        events_per_second: ``1e9 / ns_per_event``.
        of_plain: Cost relative to the plain collector at 100 %.
    """

    part: str
    ns_per_event: float
    spread: float
    events_per_second: float
    of_plain: float


class PlainCollector:
    """The rival: a dictionary of blocks, one Python call an event, as vLLM's own collector works.

    Each allocation draws a random number; only sampled blocks are followed.
    """

    def __init__(self, sample_rate: float) -> None:
        self.sample_rate = sample_rate
        self.blocks: dict[int, tuple[int, deque[int]]] = {}
        self.evicted: list[tuple[float, float, tuple[float, ...]]] = []

    def allocated(self, block: int) -> None:
        """A block was handed out."""
        if random.random() < self.sample_rate:  # noqa: S311
            self.blocks[block] = (time.monotonic_ns(), deque(maxlen=4))

    def accessed(self, block: int) -> None:
        """A block was found."""
        state = self.blocks.get(block)
        if state is not None:
            state[1].append(time.monotonic_ns())

    def evicted_block(self, block: int) -> None:
        """A block was given up."""
        state = self.blocks.pop(block, None)
        if state is not None:
            now, times = time.monotonic_ns(), list(state[1])
            last = times[-1] if times else state[0]
            gaps = tuple((b - a) / 1e9 for a, b in pairwise(times))
            self.evicted.append(((now - state[0]) / 1e9, (now - last) / 1e9, gaps))


def bench_command(
    events: Annotated[int, typer.Option(min=1000, help="Events a repeat.")] = 400_000,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of each part; the median counts.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Measures record, encode, decode, apply and end to end, on a synthetic chat stream."""
    console = Console(stderr=True)
    with console.status("measuring", spinner="line") as status:
        results = measure(events, repeats, lambda part: status.update(f"measuring {part}"))
    machine = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
    if json:
        document = {"machine": machine, "events": events, "repeats": repeats, "results": results}
        typer.echo(msgspec.json.format(msgspec.json.encode(document)).decode())
        return
    table = Table(title=f"{events:,} events, median of {repeats}")
    for name in ("part", "ns/event", "M events/s", "spread", "of plain 100 %"):
        table.add_column(name, justify="left" if name == "part" else "right")
    for r in results:
        table.add_row(
            r.part,
            f"{r.ns_per_event:.1f}",
            f"{r.events_per_second / 1e6:.2f}",
            f"{r.spread:.0%}",
            f"{r.of_plain:.3f}",
        )
    Console().print(table)
    Console().print(", ".join(f"{key} {value}" for key, value in machine.items()), style="dim")


def measure(events: int, repeats: int, on_part: Callable[[str], Any]) -> list[Result]:
    """Measures every part; each repeat starts from fresh state made outside the timing."""
    frames = list(generate("chat", events, blocks=16_384, seed=1))
    encoded = [encode_frame(frame) for frame in frames]
    lines = [encode_lines(frame.to_events()) for frame in frames]
    calls = [(op, block) for f in frames for op, block in zip(f.ops.tolist(), f.blocks.tolist(), strict=True)]
    parts: list[tuple[str, Callable[[], Callable[[], object]]]] = [
        ("plain collector, 100 %", lambda: _plain(calls, 1.0)),
        ("plain collector, 1 %", lambda: _plain(calls, 0.01)),
        ("record one at a time, all included", lambda: _record_each(calls)),
        ("record 64 a call, all included", lambda: _record_batches(events)),
        ("encode frames", lambda: lambda: [encode_frame(frame) for frame in frames]),
        ("decode frames", lambda: lambda: [decode_frame(data) for data in encoded]),
        ("decode JSON lines", lambda: lambda: [list(decode_lines(data, _no_bad)) for data in lines]),
        ("apply to block state", lambda: _apply(frames)),
        ("end to end: decode, state, metrics, rules", lambda: _end_to_end(encoded)),
    ]
    timed: list[tuple[str, float, float]] = []
    for part, prepare in parts:
        on_part(part)
        seconds = []
        for _ in range(repeats):
            work = prepare()
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        median = statistics.median(seconds)
        timed.append((part, median / events * 1e9, (max(seconds) - min(seconds)) / median))
    plain = timed[0][1]
    return [Result(part, ns, spread, 1e9 / ns, ns / plain) for part, ns, spread in timed]


def _plain(calls: list[tuple[int, int]], rate: float) -> Callable[[], object]:
    collector = PlainCollector(rate)
    methods = (collector.allocated, collector.accessed, collector.evicted_block)

    def work() -> None:
        for op, block in calls:
            methods[op](block)

    return work


def _record_each(calls: list[tuple[int, int]]) -> Callable[[], object]:
    collector = KVCacheMetricsCollector()
    methods = (collector.on_block_allocated, collector.on_block_accessed, collector.on_block_evicted)

    def work() -> None:
        for op, block in calls:
            methods[op](block)
        collector.flush()

    return work


def _record_batches(events: int) -> Callable[[], object]:
    collector = BatchMetricsCollector()
    steps = [[(64 * step + i) % 16_384 for i in range(64)] for step in range(events // 192)]

    def work() -> None:
        for ids in steps:
            collector.batch_allocate(ids)
            collector.batch_access(ids)
            collector.batch_evict(ids)
        collector.collector.flush()

    return work


def _apply(frames: list[EventFrame]) -> Callable[[], object]:
    table = BlockTable("bench", "gpu", records=False)
    return lambda: [table.apply(frame) for frame in frames]


def _end_to_end(encoded: list[bytes]) -> Callable[[], object]:
    monitor = Monitor()
    return lambda: [monitor.process(decode_frame(data)) for data in encoded]


def _no_bad(number: int, reason: str) -> None:
    raise AssertionError(f"line {number}: {reason}")
