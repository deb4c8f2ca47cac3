"""Live events: alerts and states to every browser that follows, as server-sent events."""

import itertools
import secrets
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple

import anyio
import msgspec
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from kvstream.alerts.types import CacheAlert
from kvstream.stream import KVStream
from kvstream.web.state import EVERY_SECONDS, Place, States

_ALERTS_KEPT = 1000
_SLOW_SECONDS = 5.0


class AlertLog:
    """The alerts of a stream since the application was made, numbered from 1; the last thousand are kept."""

    def __init__(self, stream: KVStream) -> None:
        self.boot = secrets.token_hex(4)  # tells the numbers of one run from those of another
        self.newest = 0
        self._alerts: deque[tuple[int, CacheAlert]] = deque(maxlen=_ALERTS_KEPT)
        self._changed = anyio.Event()
        stream.on_alert(self._add)

    async def _add(self, alert: CacheAlert) -> None:
        self.newest += 1
        self._alerts.append((self.newest, alert))
        self.wake()

    def after(self, number: int) -> list[tuple[int, CacheAlert]]:
        """The alerts kept that came after one of them, oldest first."""
        newer = itertools.takewhile(lambda entry: entry[0] > number, reversed(self._alerts))
        return list(newer)[::-1]

    def wake(self) -> None:
        """Ends the waiting."""
        self._changed.set()

    async def wait(self, seconds: float) -> None:
        """Waits for the next alert, for so long at most."""
        with anyio.move_on_after(seconds):
            if self._changed.is_set():
                self._changed = anyio.Event()
            await self._changed.wait()

    def resume_after(self, last_event_id: str) -> int:
        """The number after which a client wants alerts; all that are kept if it knew another run."""
        boot, _, number = last_event_id.partition("-")
        if boot == self.boot and number.isdigit():
            return int(number)
        return 0 if last_event_id else self.newest


class ClientStatistics(NamedTuple):
    """Who follows, at one moment.

    Attributes:
        connected: Clients now.
        refused: Clients that were one too many.
        dropped: Clients that did not keep up.
    """

    connected: int
    refused: int
    dropped: int


class LiveEvents:
    """Sends alerts and states to clients.

    Each client is sent the alerts it has not had and then the newest state, once a second; nothing is
    buffered for it but what the network holds, so that a slow one misses states and no alert that is
    still kept. One that takes nothing for five seconds is dropped.

    Args:
        stream: The stream.
        log: Its alerts.
        states: Its states.
        max_clients: Clients at once.
    """

    def __init__(self, stream: KVStream, log: AlertLog, states: States, max_clients: int) -> None:
        self._stream, self._log, self._states = stream, log, states
        self._max_clients = max_clients
        self._connected = self._refused = self._dropped = 0
        self._ending = False

    def statistics(self) -> ClientStatistics:
        """Who follows now."""
        return ClientStatistics(self._connected, self._refused, self._dropped)

    def end(self) -> None:
        """Takes leave of every client."""
        self._ending = True
        self._log.wake()

    def admits(self) -> bool:
        """Whether there is room for one more client; one that is turned away is counted."""
        if self._connected < self._max_clients:
            return True
        self._refused += 1
        return False

    def follow(self, place: Place, last_event_id: str) -> "_Following":
        """The response to a client that follows."""
        return _Following(self, self._events(place, self._log.resume_after(last_event_id)))

    async def serve(self, response: EventSourceResponse, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends to a client until it goes, or is too slow."""
        self._connected += 1
        try:
            await response(scope, receive, send)
        except SendTimeoutError:
            self._dropped += 1
        finally:
            self._connected -= 1

    async def _events(self, place: Place, sent: int) -> AsyncIterator[ServerSentEvent]:
        log = self._log
        yield ServerSentEvent(log.boot, event="hello", id=f"{log.boot}-{sent}", retry=1000)
        due = anyio.current_time()
        while self._stream.is_open and not self._ending:
            newer = log.after(sent)
            if newer and newer[0][0] > sent + 1:
                yield ServerSentEvent(str(newer[0][0] - sent - 1), event="missed")
            for sent, alert in newer:
                text = msgspec.json.encode(alert).decode()
                yield ServerSentEvent(text, event="alert", id=f"{log.boot}-{sent}")
            if anyio.current_time() >= due:
                yield ServerSentEvent(await self._states.get(place), event="state")
                due = anyio.current_time() + EVERY_SECONDS
            await log.wait(max(0.0, due - anyio.current_time()))
        yield ServerSentEvent("the stream has ended", event="end")


class _Following:
    """The response to one client, as an ASGI application."""

    def __init__(self, live: LiveEvents, events: AsyncIterator[ServerSentEvent]) -> None:
        self._live = live
        self._response = EventSourceResponse(events, send_timeout=_SLOW_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._live.serve(self._response, scope, receive, send)
