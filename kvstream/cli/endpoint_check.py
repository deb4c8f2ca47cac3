"""What an endpoint answers and sends: an engine that publishes, or a running ``kvstream serve``."""

from collections import Counter
from typing import Literal

import anyio
import msgspec

from kvstream.errors import KVStreamError
from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed, Op
from kvstream.sources.discovery import ENGINE_URLS
from kvstream.sources.engine_input import EngineInput
from kvstream.sources.http_client import FetchError, fetch
from kvstream.transport.endpoint import HURRY, MAX_HELLO_BYTES, Endpoint, Hello, MessageReader, with_length
from kvstream.transport.sender import open_stream
from kvstream.transport.tls import client_context

_VERBS = {
    Op.ALLOC: "allocations",
    Op.ACCESS: "accesses",
    Op.EVICT: "evictions",
    Op.CLEAR: "clears",
    Op.STORE: "stores",
    Op.PREFIX: "lookups of prefixes",
    Op.REMOVE: "removals of copies",
}
_SOURCES_SHOWN = 5


class _Health(msgspec.Struct):
    """What ``/healthz`` of ``kvstream serve`` answers."""

    status: str
    clients: dict[str, int]


class Found(msgspec.Struct, frozen=True):
    """What was found at an endpoint."""

    endpoint: str
    state: Literal["ok", "warning", "error"]
    what: str
    advice: str = ""


async def check_endpoint(endpoint: str, seconds: float, token: str | None) -> Found:
    """Return what an endpoint does within some seconds; whatever it does, that is no error of the check."""
    try:
        if endpoint.startswith(":"):
            endpoint = f"http://127.0.0.1{endpoint}"
        if endpoint.startswith(("http://", "https://")) and await _is_kvstream(endpoint):
            return Found(endpoint, "ok", "kvstream serve is there and answers")
        if endpoint.startswith(ENGINE_URLS):
            return await _engine(endpoint, seconds)
        return await _server(endpoint, seconds, token)
    except (KVStreamError, OSError, msgspec.DecodeError, anyio.BrokenResourceError) as error:
        return Found(endpoint, "error", str(error))


async def _is_kvstream(url: str) -> bool:
    try:
        answer = await fetch(f"{url.rstrip('/')}/healthz")
        return msgspec.json.decode(answer, type=_Health).status == "ok"
    except (FetchError, msgspec.DecodeError, UnicodeDecodeError):
        return False


async def _server(endpoint: str, seconds: float, token: str | None) -> Found:
    """Return whether a server lets producers in; it is sent no frame, so that nothing is counted there."""
    place = Endpoint.parse(endpoint)
    tls = client_context(None, None, None) if place.tls else None
    answer: bytes | None = None
    with anyio.move_on_after(seconds):
        async with await open_stream(place, tls) as stream:
            hello = msgspec.msgpack.encode(Hello(token=token))
            await stream.send(with_length(hello) + with_length(HURRY))
            answer = await MessageReader(stream, MAX_HELLO_BYTES).next()
    said = None if answer is None else msgspec.msgpack.decode(answer, type=int | str)
    if isinstance(said, int):
        return Found(endpoint, "ok", "kvstream serve is there and takes frames")
    advice = "" if said else f"is kvstream serve --listen {endpoint} running?"
    return Found(endpoint, "error", said or "does not answer", advice)


async def _engine(url: str, seconds: float) -> Found:
    """Return what an engine publishes."""
    heard = _Heard()
    engine = EngineInput(url)
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
    what = f"{heard.in_words()} in {seconds:g} s, {lag:.1f} s behind the engine"
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
        self._verbs: Counter[int] = Counter()
        self._sources: set[str] = set()

    async def take(self, item: EventFrame | Malformed) -> None:
        """Count a frame."""
        if isinstance(item, Malformed):
            self.malformed = str(item)
            return
        self.events += len(item)
        self._sources.add(f"{item.source}/{item.tier}")
        self._verbs.update(item.ops.tolist())

    @property
    def has_hits(self) -> bool:
        """Return whether it publishes what requests find in the cache."""
        return bool(self._verbs[Op.ACCESS] or self._verbs[Op.PREFIX])

    def in_words(self) -> str:
        """Return what was sent, and of what."""
        verbs = ", ".join(f"{count:,} {_VERBS[op]}" for op, count in self._verbs.most_common())
        sources = sorted(self._sources)
        more = f" and {len(sources) - _SOURCES_SHOWN} more" if len(sources) > _SOURCES_SHOWN else ""
        return f"{verbs} of {', '.join(sources[:_SOURCES_SHOWN])}{more}"
