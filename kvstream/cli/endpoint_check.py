"""What an endpoint answers and sends: an engine, a running ``kvstream serve``, or the brokers of a fleet."""

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import anyio
import msgspec
from anyio import to_thread

from kvstream.cli.server_client import advice
from kvstream.errors import KVStreamError, MalformedInputError
from kvstream.events.frame import EventFrame
from kvstream.events.types import EVENT_NAMES, Malformed, Op
from kvstream.faults.connecting import ConnectionFailure, connection_failure
from kvstream.sources.discovery import ENGINE_URLS, DiscoveryError, Engine
from kvstream.sources.engine_input import EngineInput
from kvstream.sources.http_client import FetchError, fetch
from kvstream.text.addresses import without_password
from kvstream.text.numbers import behind
from kvstream.transport.endpoint import Endpoint
from kvstream.transport.messages import HURRY, MAX_HELLO_BYTES, Hello, MessageReader, with_length
from kvstream.transport.sender import open_stream
from kvstream.transport.tls import client_context

_SOURCES_SHOWN = 5
_KAFKA = "kafka://"
_ENDPOINTS = "zmq://HOST:PORT, http://HOST:PORT, unix:PATH, tcp://HOST:PORT, tls://HOST:PORT or kafka://HOST:PORT/PREFIX"
_SOCKETS = ("unix:", "tcp:", "tls:")
_MAY_PASS = ("refused", "unknown_host", "unreachable", "timeout", "closed")
_AGAIN_SECONDS = 0.5
_NO_SGLANG = "vLLM publishes at zmq://HOST:5557, not over HTTP"


class _Health(msgspec.Struct):
    """What ``/healthz`` of ``kvstream serve`` answers."""

    status: str
    clients: dict[str, int]


class Found(msgspec.Struct, frozen=True):
    """What was found at an endpoint.

    Attributes:
        endpoint: Where that is, without a password.
        state: Whether something is wrong.
        what: What was found.
        advice: What to do about it; empty if nothing.
        may_pass: Whether a check in a moment may find more, as the server may be starting.
    """

    endpoint: str
    state: Literal["ok", "warning", "error"]
    what: str
    advice: str = ""
    may_pass: bool = False


async def check_endpoint(
    endpoint: str, seconds: float, token: str | None, kafka_settings: Mapping[str, str]
) -> Found:
    """Return what an endpoint does within some seconds; whatever it does, that is no error of the check.

    Where nobody answers, the check is repeated until that time is over.
    """
    end = anyio.current_time() + seconds
    left = seconds
    while True:
        found = await _look(endpoint, left, token, kafka_settings)
        left = end - anyio.current_time()
        if not found.may_pass or left <= 2 * _AGAIN_SECONDS:
            return msgspec.structs.replace(found, endpoint=without_password(found.endpoint))
        await anyio.sleep(_AGAIN_SECONDS)
        left = max(end - anyio.current_time(), _AGAIN_SECONDS)


async def _look(endpoint: str, seconds: float, token: str | None, kafka_settings: Mapping[str, str]) -> Found:
    try:
        if endpoint.startswith(":"):
            endpoint = f"http://127.0.0.1{endpoint}"
        if endpoint.startswith(_KAFKA):
            return await to_thread.run_sync(_fleet, endpoint, seconds, kafka_settings)
        if endpoint.startswith(("http://", "https://")):
            found = await _page(endpoint)
            return found if found is not None else await _engine(endpoint, seconds)
        if endpoint.startswith(ENGINE_URLS):
            return await _engine(endpoint, seconds)
        if not endpoint.startswith(_SOCKETS):
            return Found(endpoint, "error", "is no endpoint", f"write {_ENDPOINTS}")
        return await _server(endpoint, seconds, token)
    except KVStreamError as error:
        return Found(endpoint, "error", str(error))


async def _page(url: str) -> Found | None:
    """Return whether ``kvstream serve --http`` answers, or nobody; None if somebody else does.

    Raises:
        ConfigError: If the URL cannot be used.
    """
    Engine.parse(url)
    try:
        answer = await fetch(f"{url.rstrip('/')}/healthz")
        if msgspec.json.decode(answer, type=_Health).status == "ok":
            return Found(url, "ok", "kvstream serve is there and answers")
    except FetchError as error:
        if error.failure is not None:
            return _unanswered(url, error.failure, "the engine or kvstream serve --http", "http://")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return None


def _unanswered(endpoint: str, failure: ConnectionFailure, what: str, plain: str) -> Found:
    may_pass = failure.kind in _MAY_PASS
    return Found(endpoint, "error", failure.words, advice(failure.kind, what, plain), may_pass)


async def _server(endpoint: str, seconds: float, token: str | None) -> Found:
    """Return whether a server lets producers in; it is sent no frame, so that nothing is counted there."""
    place = Endpoint.parse(endpoint)
    tls = client_context(None, None, None) if place.tls else None
    what = f"kvstream serve --listen {endpoint}"
    try:
        with anyio.fail_after(seconds):
            async with await open_stream(place, tls) as stream:
                hello = msgspec.msgpack.encode(Hello(token=token))
                await stream.send(with_length(hello) + with_length(HURRY))
                answer = await MessageReader(stream, MAX_HELLO_BYTES).next()
        if answer is None:
            raise anyio.EndOfStream
        said = msgspec.msgpack.decode(answer, type=int | str)
    except (msgspec.DecodeError, UnicodeDecodeError, MalformedInputError):
        return Found(endpoint, "error", "what answers there is not kvstream serve", "correct the address")
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        return _unanswered(endpoint, connection_failure(error, seconds), what, "tcp://")
    if isinstance(said, str):
        return Found(endpoint, "error", said)
    return Found(endpoint, "ok", "kvstream serve is there and takes frames")


def _fleet(url: str, seconds: float, settings: Mapping[str, str]) -> Found:
    """Return what the brokers have of a fleet."""
    from kvstream.fleet.address import KafkaAddress  # here, as it needs an extra
    from kvstream.fleet.inspection import inspect

    address = KafkaAddress.parse(url)
    fleet = inspect(address, settings, seconds)
    brokers = f"{fleet.brokers:,} broker{'s' * (fleet.brokers != 1)}"
    if fleet.absent:
        return Found(
            url,
            "error",
            f"{brokers}, but no topic {', '.join(fleet.absent)}",
            "kvstream fleet agent --create-topics makes them, as docs/fleet.md has them",
        )
    what = f"{brokers}, {address.frames} has {fleet.partitions:,} partitions and {fleet.records:,} records"
    for group in fleet.groups:
        what += f"; {group.name} has committed {group.committed:,} of {group.partitions:,} partitions"
        if group.committed:
            what += f" and is {group.behind:,} records behind"
    workers = fleet.groups[0]
    if fleet.without_leader:
        what += f"; {fleet.without_leader:,} partitions have no leader"
        return Found(url, "error", what, "are all brokers of the cluster up?")
    if not fleet.records:
        return Found(url, "warning", what, f"nothing is written there: start kvstream fleet agent --to {url}")
    if not workers.committed:
        return Found(url, "warning", what, f"nobody judges it: start kvstream fleet worker --from {url}")
    return Found(url, "ok", what)


async def _engine(url: str, seconds: float) -> Found:
    """Return what an engine publishes."""
    heard = _Heard()
    engine = EngineInput(url)
    try:
        await Engine.parse(url).addresses()
    except DiscoveryError as error:
        is_other = url.startswith("http") and error.__cause__ is not None  # than SGLang
        return Found(url, "error", str(error), _NO_SGLANG if is_other else "", may_pass=not is_other)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.deliver, heard.take)
        await anyio.sleep(seconds)
        statistics = engine.statistics()
        tasks.cancel_scope.cancel()
    away = [seen for seen in statistics if seen.state != "connected"]
    if away:
        why = "; ".join(f"{seen.state}{seen.error and f': {seen.error}'}" for seen in away)
        return Found(url, "error", why, "does the engine publish there, and does a firewall let it through?")
    malformed = sum(seen.malformed for seen in statistics)
    if malformed and not heard.events:
        return Found(url, "error", f"{malformed:,} messages and none could be decoded: {heard.malformed}")
    if not heard.events:
        what = f"connected, and nothing was sent in {seconds:g} s"
        return Found(
            url, "warning", what, "engines publish while they serve: send a request, or --wait longer"
        )
    lag = max(seen.lag_seconds for seen in statistics)
    what = f"{heard.in_words()} in {seconds:g} s, {behind(lag)}"
    if malformed:
        return Found(url, "warning", f"{what}; {malformed:,} malformed: {heard.malformed}")
    if not heard.has_hits:
        return Found(
            url, "ok", what, "hits are not published, so that hit ratios stay unknown (docs/engines.md)"
        )
    return Found(url, "ok", what)


class _Heard:
    """What an engine sent."""

    def __init__(self) -> None:
        self.events = 0
        self.malformed = ""
        self._ops: Counter[int] = Counter()
        self._sources: set[str] = set()

    async def take(self, item: EventFrame | Malformed) -> None:
        """Count a frame."""
        if isinstance(item, Malformed):
            self.malformed = str(item)
            return
        self.events += len(item)
        self._sources.add(f"{item.source}/{item.tier}")
        self._ops.update(item.ops.tolist())

    @property
    def has_hits(self) -> bool:
        """Return whether it publishes what requests find in the cache."""
        return bool(self._ops[Op.ACCESS] or self._ops[Op.PREFIX])

    def in_words(self) -> str:
        """Return what was sent, and of what."""
        events = ", ".join(f"{count:,} {EVENT_NAMES[op]}" for op, count in self._ops.most_common())
        sources = sorted(self._sources)
        more = f" and {len(sources) - _SOURCES_SHOWN} more" if len(sources) > _SOURCES_SHOWN else ""
        return f"{events} of {', '.join(sources[:_SOURCES_SHOWN])}{more}"
