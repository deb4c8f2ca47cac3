"""``kvstream demo``: two simulated engines, one of them in trouble now and then, and the dashboard."""

import sys
import time
from collections.abc import Iterator
from typing import Annotated

import anyio
import msgspec
import numpy as np
import typer

from kvstream.cli.messages import note
from kvstream.cli.session import Output, Session, run_session
from kvstream.cli.values import number
from kvstream.config import MetricsConfig, StreamConfig
from kvstream.events.frame import EventFrame
from kvstream.events.types import Labels, Op
from kvstream.sources.synthetic import SCANNED, Workload, generate
from kvstream.stream import KVStream
from kvstream.transport.endpoint import Endpoint

EXAMPLES = """
[bold]Examples[/bold]

  kvstream demo                               then open the address it prints

  kvstream demo --http 127.0.0.1:9200 --seed 7

  kvstream demo & kvstream top http://127.0.0.1:9109
"""
_BLOCKS = 2048
_EVENTS_A_SECOND = 400.0  # at which a scan lasts for three minutes of fifteen
_HISTORY_SECONDS = 1200
_FRAME_EVENTS = 200
_WINDOWS = 3600  # an hour
_BLOCK_TOKENS = 16
_BLOCK_BYTES = 5 * 2**20  # 16 tokens of a model of 70 billion parameters, in 16 bits
_ENGINES: tuple[tuple[str, Workload], ...] = (("vllm-0", "chat"), ("vllm-1", "incidents"))
_TENANTS = (Labels(tenant="chat"), Labels(tenant="nightly-batch"))


def demo_command(
    http: Annotated[
        str, typer.Option(metavar="[HOST]:PORT", help="Address of the dashboard.")
    ] = "127.0.0.1:9109",
    seed: Annotated[
        int,
        number(
            "count", "--seed", metavar="N", low=0, help="Seed of the simulated requests.", show_default=True
        ),
    ] = 0,
) -> int:
    """Show the dashboard of two simulated engines; a batch job hits one every quarter of an hour."""
    from kvstream.web.server import HttpServer  # here, as it needs an extra

    stream = KVStream(
        StreamConfig(
            metrics=MetricsConfig(
                capacity=_BLOCKS, windows=_WINDOWS, block_tokens=16, block_bytes=_BLOCK_BYTES
            )
        )
    )
    server = HttpServer(stream, Endpoint.parse_address(http))
    server.bind()

    async def feed(stream: KVStream, output: Output) -> None:
        note(f"dashboard at {server.url}  (Ctrl-C ends)")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve)
            for number, (source, workload) in enumerate(_ENGINES):
                tasks.start_soon(_play, stream, source, workload, seed + number)

    return run_session(Session(), stream, feed, as_lines=not sys.stdout.isatty())


async def _play(stream: KVStream, source: str, workload: Workload, seed: int) -> None:
    """Send what a simulated engine does, from some minutes ago until now, and on as time goes by."""
    for frame in _frames(source, workload, seed):
        await anyio.sleep(max(0.0, int(frame.ts[-1]) / 1e9 - time.time()))
        await stream.send(frame)


def _frames(source: str, workload: Workload, seed: int) -> Iterator[EventFrame]:
    """Return the frames of a simulated engine; allocations carry tenants."""
    start = time.time_ns() - _HISTORY_SECONDS * 10**9
    for frame in generate(
        workload,
        None,
        blocks=_BLOCKS,
        rate=_EVENTS_A_SECOND,
        seed=seed,
        source=source,
        start_ns=start,
        frame_events=_FRAME_EVENTS,
    ):
        keys = np.zeros(len(frame), np.int64) if frame.keys is None else frame.keys
        label_of = np.where(keys >= SCANNED, 2, 1) * (frame.ops == Op.ALLOC)
        yield msgspec.structs.replace(frame, labels=_TENANTS, label_of=label_of.astype(np.uint16))
