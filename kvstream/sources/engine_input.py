"""EngineInput: the events of an engine by its name, wherever its publishers are."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from kvstream.engine.inputs import InputStatistics
from kvstream.errors import ConfigError
from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed
from kvstream.sources.connection_state import InputConnection
from kvstream.sources.discovery import DiscoveryError, Engine
from kvstream.sources.http_client import require_http
from kvstream.sources.zmq_address import ZmqAddress
from kvstream.sources.zmq_events import KVEventSubscriber
from kvstream.state.resumption import MarkerOf, no_marker
from kvstream.text.escape import for_terminal

REFRESH_SECONDS = 30.0
"""Between two looks where an engine's publishers are."""

_PAUSE_SECONDS = 1.0  # before it is tried again, at first
_LONGEST_PAUSE_SECONDS = 30.0
_LOOK_SECONDS = 0.5  # between two looks at the states of connections

logger = logging.getLogger("kvstream")

Take = Callable[[EventFrame | Malformed], Awaitable[None]]
"""Takes what an input brings; what it raises ends the input."""

Forget = Callable[[str], Awaitable[None]]
"""Forgets a source that no input has any more."""


class LiveInput(Protocol):
    """What brings events until it is cancelled."""

    async def deliver(
        self,
        take: Take,
        forget: Forget | None = None,
        *,
        is_alone: bool = True,
        marker_of: MarkerOf = no_marker,
    ) -> None:
        """Hand over what comes after the saved state; where it ``is_alone``, raise what cannot be mended."""

    def statistics(self) -> list[InputStatistics]:
        """Return the accounts of each of its connections."""


class EngineInput:
    """Follows the publishers of one engine as they come and go; none of them ends another.

    Args:
        url: ``zmq://HOST:PORT``, with ``?dp=N`` for N ranks, or ``http://HOST:PORT`` of an SGLang server.
        refresh_seconds: Seconds between two looks where its publishers are.

    Raises:
        ConfigError: If the URL cannot be used.
        MissingExtraError: If ``kvstream[zmq]`` is not installed.
    """

    def __init__(self, url: str, *, refresh_seconds: float = REFRESH_SECONDS) -> None:
        self._engine = Engine.parse(url)
        if self._engine.zmq is None:
            require_http()
        self._refresh_seconds = refresh_seconds
        self._looking = InputConnection()  # whether it is known where the publishers are
        self._followed: dict[ZmqAddress, _Followed] = {}
        if self._engine.is_fixed and self._engine.zmq is not None:
            for address in self._engine.zmq.of_each_rank():
                self._followed[address] = _Followed(url, address)

    def statistics(self) -> list[InputStatistics]:
        """Return the accounts of each publisher; of the engine alone while none is known."""
        if not self._followed:
            looking = self._looking
            return [
                InputStatistics(
                    input=self._engine.url, state=looking.state, since=looking.since, error=looking.error
                )
            ]
        return [followed.statistics() for followed in self._followed.values()]

    async def deliver(
        self,
        take: Take,
        forget: Forget | None = None,
        *,
        is_alone: bool = True,
        marker_of: MarkerOf = no_marker,
    ) -> None:
        """Hand over what comes, until cancelled.

        Args:
            take: Takes frames and what was malformed; what it raises ends the input.
            forget: Forgets the sources of a publisher that is no longer there.
            is_alone: Raise where nothing else is left to do.
            marker_of: Returns what marks the frames of a publisher and says where to go on.

        Raises:
            ConfigError: If its only publisher cannot be used from the start, such as an endpoint that
                cannot be bound to, and it ``is_alone``.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._say_states)
            for followed in self._followed.values():
                tasks.start_soon(followed.run, take, marker_of, is_alone and len(self._followed) == 1)
            if not self._engine.is_fixed:
                await self._look(tasks, take, forget, marker_of)

    async def end(self, forget: Forget | None) -> None:
        """Forget the sources of its publishers, after ``deliver`` was cancelled."""
        while self._followed:
            await self._followed.popitem()[1].end(forget)

    async def _look(self, tasks: TaskGroup, take: Take, forget: Forget | None, marker_of: MarkerOf) -> None:
        """Follow the publishers that there are, again and again."""
        pause = _PAUSE_SECONDS
        while True:
            try:
                addresses = await self._engine.addresses()
            except Exception as error:  # whatever a server answers, those that were known stay
                is_known = isinstance(error, DiscoveryError)
                self._looking.become("not connected" if is_known else "error", str(error))
                await anyio.sleep(min(pause, self._refresh_seconds))
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                continue
            pause = _PAUSE_SECONDS
            self._looking.become("connected")
            for address in [known for known in self._followed if known not in addresses]:
                await self._followed.pop(address).end(forget)
            for address in addresses:
                if address not in self._followed:
                    self._followed[address] = followed = _Followed(self._engine.url, address)
                    tasks.start_soon(followed.run, take, marker_of, False)
            await anyio.sleep(self._refresh_seconds)

    async def _say_states(self) -> None:
        """Say once when something is not connected, and when it is again."""
        said: dict[str, str] = {}
        while True:
            for seen in self.statistics():
                before, said[seen.input] = said.get(seen.input, "connecting"), seen.state
                if seen.state == before or (before == "connecting" and seen.state == "connected"):
                    continue
                why = f": {seen.error}" if seen.error and seen.state != "connected" else ""
                logger.warning("%s", for_terminal(f"{seen.input} is {seen.state}{why}"))
            await anyio.sleep(_LOOK_SECONDS)


class _Followed:
    """One publisher: its subscriber, which is restarted whenever it ends."""

    def __init__(self, url: str, address: ZmqAddress) -> None:
        rank = "" if address.rank is None else f" rank {address.rank}"
        self._name = url if address == _only(url) else f"{url} ({address.endpoint}{rank})"
        self._subscriber = KVEventSubscriber(self._name, address=address)
        self._sources: set[str] = set()
        self._pause = _PAUSE_SECONDS  # before it is tried again
        self._scope: anyio.CancelScope | None = None  # which is of the event loop
        self._is_ended = False

    def statistics(self) -> InputStatistics:
        return self._subscriber.statistics()

    async def run(self, take: Take, marker_of: MarkerOf, is_alone: bool) -> None:
        with anyio.CancelScope() as self._scope:
            while not self._is_ended:
                try:
                    await self._read(take, marker_of)
                except ReadError as wrapped:
                    error = wrapped.error
                    if is_alone and isinstance(error, ConfigError) and not self._sources:
                        raise error from None
                    self._subscriber.connection.become("error", str(error))
                    self._subscriber.faults.note("zmq", "input", f"{self._name}: {error}; trying again")
                await anyio.sleep(self._pause)
                self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)

    async def _read(self, take: Take, marker_of: MarkerOf) -> None:
        async def take_of_source(item: EventFrame | Malformed) -> None:
            if isinstance(item, EventFrame):
                self._sources.add(item.source)
                self._pause = _PAUSE_SECONDS
            await take(item)

        await hand_over(self._subscriber.read(marker_of), take_of_source)

    async def end(self, forget: Forget | None) -> None:
        self._is_ended = True
        if self._scope is not None:
            self._scope.cancel()
        if forget is not None:
            for source in self._sources:
                await forget(source)


class ReadError(Exception):
    """Raised when an input cannot be read further; errors of its consumer are not wrapped.

    Attributes:
        error: Why.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


async def hand_over(items: AsyncGenerator[EventFrame | Malformed, None], take: Take) -> None:
    """Hand over what an input brings until it ends; what it has opened is closed then.

    Raises:
        ReadError: If it cannot be read further; what ``take`` raises is raised as it is.
    """
    async with aclosing(items):
        while True:
            try:
                item = await anext(items)
            except StopAsyncIteration:
                return
            except Exception as error:
                raise ReadError(error) from error
            await take(item)


def _only(url: str) -> ZmqAddress | None:
    """Return the address of a URL that names one publisher."""
    return ZmqAddress.parse(url) if url.startswith("zmq") else None
