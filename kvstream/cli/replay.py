"""``kvstream replay``: recorded events to a stream or to subscribers, at their own pace or faster."""

from collections.abc import AsyncIterator
from typing import Annotated

import anyio
import typer
from anyio.lowlevel import checkpoint

from kvstream.cli.render import progress_on_stderr
from kvstream.cli.session import stop_on_signal, tell_malformed
from kvstream.config import StreamConfig
from kvstream.errors import ConfigError
from kvstream.events.frame import EventFrame
from kvstream.sinks.kv_events import KVEventEncoder
from kvstream.sinks.socket import connect
from kvstream.sinks.zmq_publisher import KVEventPublisher
from kvstream.sources.inputs import Input
from kvstream.sources.timing import Pace, paced
from kvstream.sources.wire_capture import read_wire_messages
from kvstream.sources.zmq_events import ZmqAddress

EXAMPLES = """
[bold]Examples[/bold]

  kvstream replay run.kvlog --to unix:/run/kvstream.sock --speed 10

  kvstream replay capture.wire.gz --to 'zmq://*:5557?replay=tcp://*:5558'   as the engine published it

  kvstream replay run.kvlog --to zmq://*:5557 --speed 0                     as fast as possible
"""


def replay_command(
    recording: Annotated[
        str, typer.Argument(metavar="FILE", help="A recording: any file that kvstream run reads.")
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="ENDPOINT",
            help="unix:PATH or tcp://HOST:PORT of a kvstream serve, or zmq://*:PORT to publish as vLLM does.",
        ),
    ],
    speed: Annotated[
        float, typer.Option(min=0.0, metavar="N", help="N times recorded time; 0: as fast as possible.")
    ] = 1.0,
    source: Annotated[
        str | None, typer.Option(help="Only the events of this source.", show_default=False)
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="KVSTREAM_TOKEN", help="What the server asks for.", show_default=False),
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="How long to wait for a first subscriber.")
    ] = 60.0,
) -> int:
    """Sends recorded events again, spaced as they were."""
    given = Input(recording)
    if given.subscriber is not None:
        raise ConfigError(f"{recording} is live; record it first")
    progress = progress_on_stderr()
    task = progress.add_task(f"replaying {recording}", total=None)
    sent = 0
    stopped: list[int] = []

    def count(number: int) -> None:
        nonlocal sent
        sent += number
        progress.advance(task, number)

    async def frames() -> AsyncIterator[EventFrame]:
        async for item in paced(given.read(), speed):
            if not isinstance(item, EventFrame):
                tell_malformed(item)
            elif source in (None, item.source):
                yield item

    async def to_stream() -> None:
        async with connect(to, token=token, config=StreamConfig(shutdown_timeout=wait)) as remote:
            async for frame in frames():
                await remote.send(frame)
                count(len(frame))
            with anyio.fail_after(wait):
                await remote.flush()

    async def to_subscribers() -> None:
        async with KVEventPublisher(ZmqAddress.parse(to)) as publisher:
            with anyio.move_on_after(wait) as waiting:
                await publisher.subscribed()
            if waiting.cancelled_caught:
                raise ConfigError(f"nobody has subscribed at {to} within {wait:g} s")
            messages = None if source else read_wire_messages(recording)
            if messages is not None:
                pace = Pace(speed)
                for message in messages:
                    await pace.wait(message.received_ns)
                    publisher.publish(message.number, message.payload)
                    count(1)
                return
            encoder, seq = KVEventEncoder(), 0
            async for frame in frames():
                for _, payload in encoder.batches(frame):
                    await checkpoint()  # replays and signals get their turn
                    publisher.publish(seq, payload)
                    seq += 1
                count(len(frame))

    async def replay() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop_on_signal, tasks.cancel_scope, stopped)
            await (to_subscribers() if to.startswith("zmq") else to_stream())
            tasks.cancel_scope.cancel()

    with progress:
        anyio.run(replay)
    typer.echo(f"{sent:,} sent", err=True)
    return 128 + stopped[0] if stopped else 0
