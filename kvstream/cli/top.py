"""``kvstream top``: what the caches do, on a screen of the terminal."""

import sys
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import msgspec
import typer

from kvstream.alerts.types import CacheAlert
from kvstream.cli.chosen_rules import RuleFiles
from kvstream.cli.command import Attempts
from kvstream.cli.handlers import RulesFile
from kvstream.cli.options import CacheOptions, Follow, Speed, TraceOptions
from kvstream.cli.render import console, summary_table
from kvstream.cli.server_client import ServerClient
from kvstream.cli.tokens import VARIABLE, token_from
from kvstream.errors import ConfigError
from kvstream.metrics.history import History
from kvstream.reports.overview import Selection, State, history, state_of
from kvstream.sources.engine_input import EngineInput
from kvstream.sources.files import STDIN
from kvstream.sources.inputs import live_and_recorded, open_inputs
from kvstream.sources.options import ReadOptions
from kvstream.sources.timing import paced
from kvstream.stream import KVStream
from kvstream.transport.endpoint import Endpoint
from kvstream.transport.server import FrameServer

if TYPE_CHECKING:
    from kvstream.cli.top_app import TopApp

EXAMPLES = """
[bold]Examples[/bold]

  kvstream top http://127.0.0.1:9109          a running kvstream serve --http

  kvstream top unix:/run/kvstream.sock        takes frames there, as kvstream serve does

  kvstream top zmq://vllm-0:5557 zmq://vllm-1:5557

  kvstream top day.kvlog --speed 60           an hour of the recording each minute

[bold]Keys[/bold]: arrows and Enter choose a cache, a all; s sorts, / filters, ? lists the keys, q leaves.
"""
_ALERTS_SHOWN = 200
_TIMEOUT_SECONDS = 5.0
_SOCKETS = ("unix:", "tcp:")
_SERVERS = ("http://", "https://")


def top_command(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="URL|FILE|zmq://HOST:PORT|unix:PATH|tcp://HOST:PORT...",
            help="A running server, or event logs, publishers and sockets to take frames at.",
            show_default=False,
        ),
    ],
    *,
    follow: Follow = False,
    speed: Speed = 1.0,
    rules: RulesFile = None,
    cache: CacheOptions,
    traces: TraceOptions,
) -> None:
    """Show what caches do now: hit ratios, evictions, lifetimes and alerts, once a second."""
    if not (sys.stdout.isatty() and sys.stderr.isatty()):  # it draws on standard error
        raise ConfigError("kvstream top needs a terminal; kvstream run prints what it finds")
    inputs = [f"http://127.0.0.1{name}" if name.startswith(":") else name for name in inputs]
    if inputs[0].startswith(_SERVERS):
        if len(inputs) > 1:
            raise ConfigError("one server at a time; its streams can have any number of sources")
        token = token_from(None)
        anyio.run(_watch_server, ServerClient(inputs[0], token, f"${VARIABLE}", _TIMEOUT_SECONDS))
        return
    if STDIN in inputs:
        raise ConfigError("kvstream top needs standard input for its keys; pipe events into kvstream run")
    with Attempts() as attempt:
        config = attempt(cache.stream_config)
        chosen = attempt(RuleFiles(cache.config, rules).read)
    metrics = msgspec.structs.replace(config.metrics, export_interval=0.0)
    stream = KVStream(
        msgspec.structs.replace(config, metrics=metrics), chosen.rules, silences=chosen.silences
    )
    feeds = _feeds(stream, inputs, follow, speed, traces.reading(metrics.capacity))
    anyio.run(_watch_stream, stream, feeds, " ".join(inputs))
    console().print(summary_table(stream.summary_nowait()))


Feed = Callable[[], Coroutine[Any, Any, None]]


def _feeds(
    stream: KVStream, names: Sequence[str], follow: bool, speed: float, options: ReadOptions
) -> list[Feed]:
    """Return what puts events into the stream.

    Raises:
        ConfigError: If an input cannot be used.
    """
    token = token_from(None)
    servers = [FrameServer(stream, Endpoint.parse(n), token=token) for n in names if n.startswith(_SOCKETS)]
    opened = open_inputs([name for name in names if not name.startswith(_SOCKETS)], follow)
    live, recorded = live_and_recorded(opened, options)

    def serving(server: FrameServer) -> Feed:
        async def serve() -> None:
            await server.bind()
            await server.serve()

        return serve

    def reading(items: Any) -> Feed:
        return lambda: stream.feed(items)

    def following(engine: EngineInput) -> Feed:
        stream.watch_inputs(engine.statistics)
        return lambda: engine.deliver(stream.take, stream.forget, is_alone=len(names) == 1)

    engines = [each.engine for each in opened if each.engine is not None]
    return [
        *map(serving, servers),
        *map(following, engines),
        *map(reading, live),
        *(reading(paced(r, speed)) for r in recorded),
    ]


class StreamWatch:
    """A stream of this process."""

    def __init__(self, stream: KVStream) -> None:
        self._stream = stream
        self._alerts: deque[CacheAlert] = deque(maxlen=_ALERTS_SHOWN)
        stream.on_alert(self._keep)

    async def _keep(self, alert: CacheAlert) -> None:
        self._alerts.append(alert)

    async def state(self, selection: Selection) -> State:
        """Return the state of the selected caches now."""
        return await state_of(self._stream, selection)

    async def history(self, selection: Selection, windows: int) -> History:
        """Return the last windows of the selected caches."""
        return await history(self._stream, selection, windows)

    async def alerts(self) -> Sequence[CacheAlert]:
        """Return the last alerts, oldest first."""
        return list(self._alerts)


class _Answer(msgspec.Struct):
    """What ``/api/alerts`` answers."""

    alerts: list[CacheAlert]


class ServerWatch:
    """The stream of a running server.

    Args:
        server: Asks it.
        http: An HTTP client.
    """

    def __init__(self, server: ServerClient, http: Any) -> None:
        self._server, self._http = server, http

    async def state(self, selection: Selection) -> State:
        """Return the state of the selected caches now."""
        return await self._server.ask(self._http, "GET", "/api/state", State, _query(selection))

    async def history(self, selection: Selection, windows: int) -> History:
        """Return the last windows of the selected caches."""
        query = _query(selection) | {"windows": str(windows)}
        return await self._server.ask(self._http, "GET", "/api/history", History, query)

    async def alerts(self) -> Sequence[CacheAlert]:
        """Return the last alerts, oldest first."""
        query = {"limit": str(_ALERTS_SHOWN)}
        return (await self._server.ask(self._http, "GET", "/api/alerts", _Answer, query)).alerts[::-1]


def _query(selection: Selection) -> dict[str, str]:
    return {"source": selection.source or "", "tier": selection.tier or ""}


async def _watch_server(server: ServerClient) -> None:
    """Watch a server until the user leaves.

    Raises:
        KVStreamError: If it does not answer the first question; later, the screen says so and asks again.
    """
    async with await server.connect("kvstream top", "top") as http:
        watch = ServerWatch(server, http)
        await watch.alerts()
        await _app(watch, server.name).run_async()


async def _watch_stream(stream: KVStream, feeds: Sequence[Feed], name: str) -> None:
    app = _app(StreamWatch(stream), name)
    async with stream, anyio.create_task_group() as tasks:
        for feed in feeds:
            tasks.start_soon(feed)
        await app.run_async()
        tasks.cancel_scope.cancel()


def _app(watched: StreamWatch | ServerWatch, name: str) -> "TopApp":
    from kvstream.cli.top_app import TopApp  # here, as it needs an extra

    return TopApp(watched, name)
