"""Live events: alerts and states to every browser that follows, as server-sent events."""

import itertools
import re
import secrets
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

import anyio
from starlette.types import Message, Receive, Scope, Send

from kvstream.alerts.types import CacheAlert
from kvstream.reports.overview import EVERY_SECONDS, Selection, States
from kvstream.stream import KVStream
from kvstream.text.json import encode_json

_ALERTS_KEPT = 1000
_SLOW_SECONDS = 5.0
_START: Message = {
    "type": "http.response.start",
    "status": 200,
    # The last keeps nginx from holding events back.
    "headers": [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")],
}
_EVENT_ID = re.compile(r"([0-9a-f]{8})-([0-9]{1,18})")


class AlertLog:
    """The alerts of a stream since the application was made, numbered from 1; the last thousand are kept.

    Each is kept as JSON, encoded once for everybody who follows.

    Attributes:
        boot: Tells the numbers of one run from those of another.
        newest: Number of the newest alert.
        changed: Event that the next alert or ``wake`` sets and replaces by a new one. To miss no alert, take
            it before looking at the alerts.
    """

    def __init__(self, stream: KVStream) -> None:
        self.boot = secrets.token_hex(4)
        self.newest = 0
        self._alerts: deque[tuple[int, bytes]] = deque(maxlen=_ALERTS_KEPT)
        self.changed = anyio.Event()
        stream.on_alert(self._add)

    async def _add(self, alert: CacheAlert) -> None:
        self.newest += 1
        self._alerts.append((self.newest, encode_json(alert)))
        self.wake()

    def after(self, number: int) -> list[tuple[int, bytes]]:
        """Return the alerts kept that came after one of them, oldest first."""
        newer = itertools.takewhile(lambda entry: entry[0] > number, reversed(self._alerts))
        return list(newer)[::-1]

    def wake(self) -> None:
        """Wake all that wait for a change."""
        changed, self.changed = self.changed, anyio.Event()
        changed.set()

    def resume_after(self, last_event_id: str) -> int:
        """Return the number after which a client wants alerts, whatever it sends.

        All that are kept, if it knew another run or says what is no id; none, if it says nothing.
        """
        if not last_event_id:
            return self.newest
        known = _EVENT_ID.fullmatch(last_event_id)
        if known is None or known[1] != self.boot:
            return 0
        return min(int(known[2]), self.newest)  # beyond the newest, no alert would ever come


class ClientStatistics(NamedTuple):
    """Who follows, at one moment.

    Attributes:
        connected: Clients now.
        displaced: Clients that left their place to another, as all were taken.
        dropped: Clients that did not keep up.
    """

    connected: int
    displaced: int
    dropped: int


class _Follower:
    """A client that follows.

    Attributes:
        address: Where it is.
        scope: Ends the response to it.
        sending: Whether it is being sent something that it has not taken yet.
        is_slow: Whether it did not take something in time.
        is_gone: Whether it has ended the connection.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.scope = anyio.CancelScope()
        self.sending = self.is_slow = self.is_gone = False

    async def send(self, message: Message, send: Send) -> None:
        """Send something; end the response if it is not taken in time."""
        self.sending = True
        with anyio.move_on_after(_SLOW_SECONDS) as limit:
            await send(message)
            self.sending = False
        if limit.cancelled_caught:
            self.is_slow = True
            self.scope.cancel()

    async def wait_until_gone(self, receive: Receive) -> None:
        """End the response when the client ends the connection."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        self.scope.cancel()


class LiveEvents:
    """Sends alerts and states to clients.

    Each client is sent the alerts it has not had and then the newest state, once a second; nothing is
    buffered for it but what the network holds, so that a slow one misses states and no alert that is
    still kept. One that takes nothing for five seconds is dropped. Where all places are taken, a new client
    displaces another: of the address that has the most, one that does not take what it is sent, else the
    one that has followed for the longest time. A browser that is displaced comes again by itself and misses
    nothing; one that is kept out would see nothing, and clients that stay for ever could keep all out.

    Args:
        stream: The stream.
        log: Its alerts.
        states: Its states.
        max_clients: Clients at once.
    """

    def __init__(self, stream: KVStream, log: AlertLog, states: States, max_clients: int) -> None:
        self._stream, self._log, self._states = stream, log, states
        self._max_clients = max_clients
        self._followers: dict[_Follower, None] = {}  # the first has followed for the longest time
        self._displaced = self._dropped = 0
        self._ending = False

    def statistics(self) -> ClientStatistics:
        """Who follows now."""
        return ClientStatistics(len(self._followers), self._displaced, self._dropped)

    def end(self) -> None:
        """Take leave of every client."""
        self._ending = True
        self._log.wake()

    def follow(self, selection: Selection, last_event_id: str) -> "_Following":
        """Return the response to a client that follows."""
        return _Following(self, self._events(selection, self._log.resume_after(last_event_id)))

    async def serve(
        self, events: AsyncGenerator[bytes, None], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send to a client until it goes, is too slow, or leaves its place to another."""
        follower = _Follower((scope.get("client") or ("",))[0])
        self._make_room()
        self._followers[follower] = None
        try:
            with follower.scope:
                async with anyio.create_task_group() as tasks, aclosing(events):
                    tasks.start_soon(follower.wait_until_gone, receive)
                    await follower.send(dict(_START), send)
                    async for event in events:
                        await follower.send(_body(event, more=True), send)
                    tasks.cancel_scope.cancel()
        finally:
            self._followers.pop(follower, None)
            if follower.is_slow:
                self._dropped += 1
                self._stream.faults.note(
                    "http", "slow_client", "dropped a client of /events: it took nothing"
                )
        if not (follower.is_gone or follower.sending):
            await follower.send(_body(b"", more=False), send)

    def _make_room(self) -> None:
        """See to it that there is a place for one more."""
        while len(self._followers) >= self._max_clients:
            at_address = Counter(follower.address for follower in self._followers)
            address, _ = at_address.most_common(1)[0]
            longest_first = [follower for follower in self._followers if follower.address == address]
            displaced = next((f for f in longest_first if f.sending), longest_first[0])
            del self._followers[displaced]
            displaced.scope.cancel()
            self._displaced += 1
            self._stream.faults.note(
                "http", "too_many_clients", f"{self._max_clients} clients of /events are connected already"
            )

    async def _events(self, selection: Selection, sent: int) -> AsyncGenerator[bytes, None]:
        log = self._log
        yield _event("hello", log.boot.encode(), f"{log.boot}-{sent}", retry_ms=1000)
        due = anyio.current_time()
        last = b""
        while self._stream.is_open and not self._ending:
            changed = log.changed
            newer = log.after(sent)
            if newer and newer[0][0] > sent + 1:
                yield _event("missed", str(newer[0][0] - sent - 1).encode())
            for sent, alert in newer:
                yield _event("alert", alert, f"{log.boot}-{sent}")
            if anyio.current_time() >= due:
                state = await self._states.get(selection)
                yield _event("state", state) if state is not last else _event("same", b"")
                last = state
                due = anyio.current_time() + EVERY_SECONDS
            with anyio.move_on_after(max(0.0, due - anyio.current_time())):
                await changed.wait()
        yield _event("end", b"the stream has ended")


def _event(name: str, data: bytes, number: str | None = None, retry_ms: int | None = None) -> bytes:
    """Return an event as it is sent; ``data`` is one line, as JSON is."""
    head = f"id: {number}\r\n" if number is not None else ""
    tail = f"retry: {retry_ms}\r\n" if retry_ms is not None else ""
    return b"%bevent: %b\r\ndata: %b\r\n%b\r\n" % (head.encode(), name.encode(), data, tail.encode())


def _body(data: bytes, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


class _Following:
    """The response to one client, as an ASGI application."""

    def __init__(self, live: LiveEvents, events: AsyncGenerator[bytes, None]) -> None:
        self._live, self._events = live, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._live.serve(self._events, scope, receive, send)
