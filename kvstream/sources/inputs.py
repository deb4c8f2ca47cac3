"""Any input by its name: a file, standard input, or an engine."""

import errno
import logging
import os
import re
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Self

import anyio

from kvstream.engine.inputs import InputStatistics
from kvstream.errors import ConfigError, KVStreamError, UnknownFormatError, UnreadableInputError
from kvstream.sources.connection_state import InputConnection
from kvstream.sources.discovery import ENGINE_URLS
from kvstream.sources.engine_input import EngineInput, Forget, LiveInput, ReadError, Take, hand_over
from kvstream.sources.files import STDIN, read_input
from kvstream.sources.formats import LineFormat
from kvstream.sources.hash_trace import SIMULATED
from kvstream.sources.options import ReadOptions
from kvstream.sources.timing import Items, OnEnd, merge_by_time
from kvstream.sources.vllm_cache import simulated_by_vllm
from kvstream.state.resumption import MarkerOf, no_marker
from kvstream.text.addresses import without_password
from kvstream.text.escape import for_terminal
from kvstream.text.suggest import did_you_mean

OnUnreadable = Callable[[KVStreamError | OSError], None]
"""Called with why an input cannot be read further."""

_PAUSE_SECONDS = 5.0  # before a file that cannot be read is tried again

logger = logging.getLogger("kvstream")


class Input:
    """One input of a run.

    Args:
        name: A path, ``-``, or a URL.
        engine: The engine, if the name is a URL.
        is_file: Whether it is a file or a directory, or standard input that comes from a file.
        is_pipe: Whether it is a named pipe or a device.
        follow: Go on at the end of a file as it grows.

    Attributes:
        engine: The engine, if the name is a URL.
        is_live: Whether it is read as it comes; otherwise by recorded time, beside other recordings. Standard
            input is a recording if it comes from a file, as by ``< FILE``.
        is_pipe: Whether it is a named pipe or a device.
        simulated_source: The source of its events if it turns out to be a trace of requests, whose cache is
            simulated; None otherwise.
        simulation: The assumptions of that simulation.
    """

    def __init__(
        self,
        name: str,
        engine: EngineInput | None = None,
        *,
        is_file: bool = False,
        is_pipe: bool = False,
        follow: bool = False,
    ) -> None:
        self.name, self.engine, self.is_pipe = name, engine, is_pipe
        self.simulated_source: str | None = None
        self.simulation = SIMULATED
        self.is_live = follow or not is_file
        self._follow = follow

    @classmethod
    def find(cls, name: str, follow: bool = False) -> Self:
        """Return an input by its name, if it can be read now.

        Args:
            name: A path, ``-``, or a URL as ``EngineInput`` has it.
            follow: Go on at the end of a file as it grows.

        Raises:
            ConfigError: If it is a URL that cannot be used.
            MissingExtraError: If it needs a package that is not installed.
            OSError: If it is a file that cannot be read.
        """
        if name.startswith(ENGINE_URLS):
            return cls(name, EngineInput(name), follow=follow)
        if name == STDIN:
            return cls(name, is_file=_stdin_is_file(), follow=follow)
        try:
            os.lstat(name)
        except FileNotFoundError:
            raise _mistaken_for_file(name) or _no_such_file(name) from None
        mode = os.stat(name).st_mode
        is_file = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
        if is_file:  # who closed a pipe would end its writer
            with open(name, "rb"):
                pass
        return cls(name, is_file=is_file, is_pipe=not is_file, follow=follow)

    @property
    def size(self) -> int:
        """Return bytes in a recording."""
        return os.stat(sys.stdin.fileno() if self.name == STDIN else self.name).st_size

    def read(
        self, options: ReadOptions | None = None, on_bytes: Callable[[int], None] | None = None
    ) -> Items:
        """Return the frames and malformed pieces of an input other than an engine.

        Args:
            options: How to read.
            on_bytes: Called with the number of bytes of each read of a file.
        """
        if options is not None and options.engine == "vllm":
            self.simulation = simulated_by_vllm(options.service)
        return read_input(self.name, self._follow, options, on_bytes, self._note)

    def _note(self, known: LineFormat, source: str) -> None:
        self.simulated_source = source if known.is_trace else None


def open_inputs(names: Sequence[str], follow: bool = False) -> list[Input]:
    """Return inputs by their names; all that cannot be used are named at once.

    Raises:
        ConfigError: If several cannot be used, or one is a URL that cannot.
        MissingExtraError: If one needs a package that is not installed.
        OSError: If one is a file that cannot be read.
    """
    inputs: list[Input] = []
    failed: list[tuple[str, KVStreamError | OSError]] = []
    for name in names:
        try:
            inputs.append(Input.find(name, follow))
        except (KVStreamError, OSError) as error:
            failed.append((name, error))
    if len(failed) == 1:
        raise failed[0][1]
    if failed:
        lines = [f"{name}: {e.strerror}" if isinstance(e, OSError) else str(e) for name, e in failed]
        raise ConfigError(*lines)
    return inputs


def _mistaken_for_file(name: str) -> ConfigError | None:
    """Return the error for a name that is no file and reads like an address, with a suggestion."""
    scheme, is_url, _ = name.partition("://")
    if is_url:
        name = without_password(name)
    if name.startswith(("unix:", "tcp://", "tls://")):
        return ConfigError(
            f"{name} is where producers send frames: kvstream serve --listen {name} takes them; "
            f"an engine publishes at zmq://HOST:PORT"
        )
    if is_url:
        meant = did_you_mean(scheme, ("zmq", "zmq+ipc", "http", "https"))
        return ConfigError(f"{name}: unknown scheme {scheme}{meant or '; engines are zmq:// or http://'}")
    if re.fullmatch(r"[\w.-]+:[0-9]{1,5}", name):
        return ConfigError(f"{name} is no file; an engine is zmq://{name} or http://{name}")
    return None


def _no_such_file(name: str) -> OSError:
    """Return the error for a file that is not there, with a suggestion."""
    folder, file = os.path.split(name)
    try:
        beside = os.listdir(folder or ".")
    except OSError:
        beside = []
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT) + did_you_mean(file, beside), name)


class FollowedFile:
    """Follows a file as it grows, and waits for one that is not there; or reads standard input to its end.

    Args:
        name: A path, or ``-``.
    """

    def __init__(self, name: str) -> None:
        self._name, self._marked_name = name, f"file {os.path.abspath(name)}"
        self._connection = InputConnection()

    def statistics(self) -> list[InputStatistics]:
        """Return whether it is being read."""
        seen = self._connection
        return [InputStatistics(input=self._name, state=seen.state, since=seen.since, error=seen.error)]

    async def deliver(
        self,
        take: Take,
        forget: Forget | None = None,
        *,
        is_alone: bool = True,
        marker_of: MarkerOf = no_marker,
    ) -> None:
        """Hand over what is in it, and what is added, until cancelled.

        Args:
            take: Takes frames and what was malformed.
            forget: Not called, as a file keeps its sources.
            is_alone: Raise what cannot be mended.
            marker_of: Returns what marks the frames of a file and says where to go on.

        Raises:
            KVStreamError: If it cannot be read, and it ``is_alone``.
            OSError: As above.
        """
        marker = marker_of(self._marked_name)
        if marker is not None and self._name == STDIN:
            logger.warning("what comes by standard input and was not saved is lost if this process is killed")
        while True:
            items = read_input(self._name, self._name != STDIN, marker=marker, on_open=self._note_open)
            try:
                await hand_over(items, take)
            except ReadError as wrapped:
                error = wrapped.error
                if is_alone or not isinstance(error, KVStreamError | OSError):
                    raise error from None
                why = getattr(error, "strerror", None) or str(error)
                self._connection.become("error", why)
                logger.warning("%s: %s", for_terminal(self._name), for_terminal(why))
                if marker is not None:
                    marker.go_back()
            else:
                self._connection.become("not connected", "it has ended")
            if self._name == STDIN:
                return
            await anyio.sleep(_PAUSE_SECONDS)

    def _note_open(self) -> None:
        self._connection.become("connected")


def live_input(name: str) -> LiveInput:
    """Return an input of a service, which has no end.

    Args:
        name: A path, ``-``, or a URL as ``EngineInput`` has it.

    Raises:
        ConfigError: If it is a URL that cannot be used, or an address that is none.
        MissingExtraError: If it needs a package that is not installed.
    """
    if name.startswith(ENGINE_URLS):
        return EngineInput(name)
    if not os.path.lexists(name) and (mistake := _mistaken_for_file(name)) is not None:
        raise mistake
    return FollowedFile(name)


def _stdin_is_file() -> bool:
    return sys.stdin is not None and stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode)


def live_and_recorded(
    inputs: Sequence[Input],
    options: ReadOptions | None = None,
    on_bytes: Callable[[int], None] | None = None,
    on_end: OnEnd | None = None,
    on_unreadable: OnUnreadable | None = None,
) -> tuple[list[Items], list[Items]]:
    """Return the items of several inputs but engines: live ones as they come, recorded ones merged by time.

    Args:
        inputs: The inputs.
        options: How to read.
        on_bytes: Called with the number of bytes of each read of a file. It must not raise: its error would
            be taken for one of the file.
        on_end: Called when one of several recordings has ended (``merge_by_time``).
        on_unreadable: Called with why an input cannot be read further. That input ends, and the others go on
            unless it raises. Without it, the first such error ends all.
    """

    def items_of(each: Input) -> Items:
        items = each.read(options, on_bytes)
        return items if on_unreadable is None else _contained(items, on_unreadable)

    live = [items_of(each) for each in inputs if each.is_live and each.engine is None]
    recorded = [items_of(each) for each in inputs if not each.is_live]
    return live, [merge_by_time(recorded, on_end)] if recorded else []


async def _contained(items: Items, on_unreadable: OnUnreadable) -> Items:
    try:
        async with aclosing(items):
            async for item in items:
                yield item
    except (UnknownFormatError, UnreadableInputError, OSError) as error:
        on_unreadable(error)
