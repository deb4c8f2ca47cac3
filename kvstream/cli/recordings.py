"""Recordings: inputs that have an end, read as a whole."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any

import anyio

from kvstream.cli.messages import MalformedReport, note
from kvstream.cli.render import progress_on_stderr
from kvstream.config import MetricsConfig
from kvstream.errors import ConfigError
from kvstream.events.frame import EventFrame
from kvstream.sources.inputs import Input, open_inputs
from kvstream.sources.options import ReadOptions
from kvstream.sources.timing import FrameCutter, OnEnd, merge_by_time


def recordings(names: Sequence[str], why: str) -> list[Input]:
    """Return the inputs that are files.

    Raises:
        ConfigError: If one of them is live, where ``why`` says why that cannot be, or several cannot be used.
        OSError: If one cannot be read.
    """
    inputs = open_inputs(names)
    if any(each.is_live and not each.is_pipe for each in inputs):
        raise ConfigError(f"{why}; record what is live first")
    return inputs


def read_recordings(
    inputs: Sequence[Input],
    options: ReadOptions,
    take: Callable[[EventFrame], Any],
    on_end: OnEnd | None = None,
) -> int:
    """Hand over every frame, merged by time, with progress on a terminal; say what was malformed.

    Args:
        inputs: Recordings.
        options: How to read.
        take: Takes a frame.
        on_end: Called when one of several recordings has ended (``merge_by_time``).

    Returns:
        How many pieces were malformed.

    Raises:
        UnreadableInputError: If nothing or nearly nothing of one could be read.
    """
    with progress_on_stderr() as progress:
        endless = any(each.is_pipe for each in inputs)
        total = None if endless else sum(each.size for each in inputs)
        task = progress.add_task("reading", total=total)
        report = MalformedReport()

        def on_bytes(count: int) -> None:
            progress.advance(task, count)

        async def read() -> None:
            merged = merge_by_time([each.read(options, on_bytes) for each in inputs], on_end)
            async with aclosing(merged) as items:
                async for item in items:
                    if isinstance(item, EventFrame):
                        take(item)
                    else:
                        report.add(item)

        anyio.run(read)
    report.finish()
    say_simulated(inputs)
    return report.count


def read_in_windows(
    inputs: Sequence[Input],
    options: ReadOptions,
    config: MetricsConfig,
    take: Callable[[EventFrame], Any],
) -> int:
    """Hand over every frame as ``read_recordings`` does, in parts that span no more windows than are kept."""
    cutter = FrameCutter(config.window_ns * max(1, config.windows // 2))

    def take_parts(frame: EventFrame) -> None:
        for _, part in cutter.cut(frame):
            take(part)

    return read_recordings(inputs, options, take_parts)


def say_simulated(inputs: Iterable[Input]) -> None:
    """Say of which inputs the cache was simulated, and what that means."""
    for each in inputs:
        if each.simulated_source is not None:
            note(f"kvstream: {each.name}: {each.simulation}")
