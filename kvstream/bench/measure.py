"""Times the parts by turns, so that a noisy machine is unfair to all of them alike."""

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from inspect import isawaitable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from anyio.lowlevel import checkpoint

from kvstream._core.build import COMPILED
from kvstream.bench.parts import LOOP, ONE_AT_A_TIME, PLAIN, SAMPLED, Parts


class Result(msgspec.Struct, frozen=True):
    """One measured part.

    Attributes:
        part: What was done.
        ns_per_event: Median of the repeats.
        spread: (slowest - fastest) / median.
        events_per_second: ``1e9 / ns_per_event``.
        of_sampled: Cost relative to the plain collector at 1 %, median of the ratios within each repeat.
        of_plain: The same, relative to the plain collector at 100 %.
        net_of_sampled: Cost relative to the plain collector at 1 %, both without the loop that calls; None
            for parts that do not contain that loop.
    """

    part: str
    ns_per_event: float
    spread: float
    events_per_second: float
    of_sampled: float
    of_plain: float
    net_of_sampled: float | None = None


class Report(msgspec.Struct, frozen=True):
    """What ``kvstream bench`` measured, and where.

    Attributes:
        machine: What it ran on.
        events: Events a repeat.
        repeats: Repeats of each part.
        results: The parts.
    """

    machine: dict[str, str]
    events: int
    repeats: int
    results: list[Result]


async def measure(events: int, repeats: int, on_part: Callable[[str], Any]) -> Report:
    """Measure every part; each repeat starts from fresh state, made outside the timing."""
    parts = Parts(events).all()
    gc.collect()
    gc.freeze()  # the inputs are millions of objects that collections would walk through again and again
    seconds: dict[str, list[float]] = {name: [] for name, _ in parts}
    for repeat in range(repeats):
        for name, prepare in parts:
            on_part(f"{name} ({repeat + 1} of {repeats})")
            await checkpoint()  # a signal gets its turn
            work = prepare()
            start = time.perf_counter()
            done = work()
            if isawaitable(done):
                await done
            seconds[name].append(time.perf_counter() - start)
            del work, done  # a million blocks of state must not burden the next part
    return Report(machine(), events, repeats, [_result(name, seconds, events) for name, _ in parts])


def _result(part: str, seconds: dict[str, list[float]], events: int) -> Result:
    taken = seconds[part]
    median = statistics.median(taken)

    def relative_to(other: str) -> float:
        return statistics.median(mine / its for mine, its in zip(taken, seconds[other], strict=True))

    net = None
    if part in ONE_AT_A_TIME:
        net = statistics.median(
            (mine - loop) / (its - loop)
            for mine, its, loop in zip(taken, seconds[SAMPLED], seconds[LOOP], strict=True)
        )

    return Result(
        part,
        median / events * 1e9,
        (max(taken) - min(taken)) / median,
        events / median,
        relative_to(SAMPLED),
        relative_to(PLAIN),
        net,
    )


def machine() -> dict[str, str]:
    """Return what the measurements were made on."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "core": "compiled" if COMPILED else "interpreted",
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(os.cpu_count()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"
