"""``kvstream replay``: recorded events to a stream or to subscribers, at their own pace or faster."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import anyio
import typer
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from kvstream.cli.messages import note
from kvstream.cli.options import Speed
from kvstream.cli.render import progress_on_stderr
from kvstream.cli.session import say_malformed, stop_on_signal
from kvstream.cli.tokens import TokenFile, token_from
from kvstream.cli.values import number
from kvstream.errors import ConfigError, KVStreamError
from kvstream.events.frame import EventFrame
from kvstream.sinks.kv_events import KVEventEncoder
from kvstream.sinks.zmq_publisher import KVEventPublisher
from kvstream.sources.inputs import Input
from kvstream.sources.timing import Pace, paced
from kvstream.sources.wire_capture import read_wire_messages
from kvstream.sources.zmq_address import ZmqAddress
from kvstream.transport.client import Connection, connect

EXAMPLES = """
[bold]Examples[/bold]

  kvstream replay run.kvlog --to unix:/run/kvstream.sock --speed 10

  kvstream replay capture.wire.gz --to 'zmq://*:5557?replay=tcp://*:5558'   as the engine published it

  kvstream replay run.kvlog --to 'zmq://*:5557' --speed 0                   as fast as possible
"""
_SERVER_SECONDS = 10.0
_SUBSCRIBER_SECONDS = 60.0
_LOOK_SECONDS = 0.05


def replay_command(
    recording: Annotated[
        str, typer.Argument(metavar="FILE", help="A recording: any file that kvstream run reads.")
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="ENDPOINT",
            help="unix:PATH, tcp://HOST:PORT or tls://HOST:PORT of a kvstream serve, "
            "or zmq://*:PORT to publish as vLLM does.",
        ),
    ],
    speed: Speed = 1.0,
    source: Annotated[
        str | None, typer.Option(help="Only the events of this source.", show_default=False)
    ] = None,
    token_file: TokenFile = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.pem", help="Roots to trust at tls://, if not the system's.", show_default=False
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.pem", help="Client certificate, if the server asks for one.", show_default=False
        ),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE.pem", help="Its private key.", show_default=False)
    ] = None,
    wait: Annotated[
        float | None,
        number(
            "duration",
            "--wait",
            metavar="DURATION",
            low=0,
            help=f"How long to wait for a server ({_SERVER_SECONDS:.0f}s by default) "
            f"or a first subscriber ({_SUBSCRIBER_SECONDS:.0f}s).",
        ),
    ] = None,
) -> int:
    """Send recorded events again, at their recorded pace."""
    recorded = Input.find(recording)
    if recorded.engine is not None:
        raise ConfigError(f"{recording} is live; record it first")
    progress = progress_on_stderr()
    task = progress.add_task(f"replaying {recording}", total=None)
    sent = 0
    stopped: list[int] = []
    failure: list[KVStreamError | OSError] = []
    tasks: TaskGroup

    def count(number: int) -> None:
        nonlocal sent
        sent += number
        progress.advance(task, number)

    async def frames() -> AsyncIterator[EventFrame]:
        async for item in paced(recorded.read(), speed):
            if not isinstance(item, EventFrame):
                say_malformed(item)
            elif source in (None, item.source):
                yield item

    async def to_stream() -> None:
        token = token_from(token_file)
        async with connect(to, token=token, ca=tls_ca, certificate=tls_cert, key=tls_key) as remote:
            tasks.start_soon(watch, remote)
            async for frame in frames():
                await remote.send(frame)
                await remote.accepted()
                count(len(frame))
            await remote.flush()

    async def watch(remote: Connection) -> None:
        try:
            await _until_stuck(remote, _SERVER_SECONDS if wait is None else wait)
        except KVStreamError as error:
            failure.append(error)
            tasks.cancel_scope.cancel()

    async def to_subscribers() -> None:
        patience = _SUBSCRIBER_SECONDS if wait is None else wait
        end = anyio.current_time() + patience
        async with KVEventPublisher(ZmqAddress.parse(to), patience) as publisher:
            with anyio.move_on_after(end - anyio.current_time()) as waiting:
                await publisher.subscribed()
            if waiting.cancelled_caught:
                raise ConfigError(f"nobody has subscribed at {to} within {patience:g} s")
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
        nonlocal tasks
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop_on_signal, tasks.cancel_scope, stopped)
            try:
                await (to_subscribers() if to.startswith("zmq") else to_stream())
            except (KVStreamError, OSError) as error:  # out of the group it would come wrapped
                failure.append(error)
            tasks.cancel_scope.cancel()

    with progress:
        anyio.run(replay)
    if failure:
        raise failure[0]
    note(f"{sent:,} sent")
    return 128 + stopped[0] if stopped else 0


async def _until_stuck(remote: Connection, seconds: float) -> None:
    """Wait until frames have been waiting for a time in which the server took none.

    Raises:
        KVStreamError: Then; says what is known of why.
    """
    frames, since = -1, anyio.current_time()
    while anyio.current_time() - since < seconds:
        await anyio.sleep(max(_LOOK_SECONDS, seconds / 20))
        now = remote.statistics()
        if now.frames != frames or not now.queue.events + now.queue.processing_events:
            frames, since = now.frames, anyio.current_time()
    why = remote.statistics().last_error or "the server takes no frames"
    raise KVStreamError(
        f"nothing could be sent to {remote.endpoint} for {seconds:g} s: {why}; "
        f"check kvstream serve --listen {remote.endpoint}, or --wait longer"
    )
