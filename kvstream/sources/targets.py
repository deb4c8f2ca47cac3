"""Targets: inputs named by a file that is watched, in the manner of Prometheus' file_sd."""

import logging
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import anyio
import msgspec
from anyio import to_thread
from anyio.abc import TaskGroup

from kvstream.engine.inputs import InputStatistics
from kvstream.errors import ConfigError, KVStreamError
from kvstream.sources.connection_state import InputConnection
from kvstream.sources.engine_input import EngineInput, Forget, Take
from kvstream.state.resumption import MarkerOf, no_marker
from kvstream.text.escape import for_terminal

_LOOK_SECONDS = 1.0
_MOST_TARGETS = 10_000
_MOST_BYTES = 16 * 1024 * 1024

logger = logging.getLogger("kvstream")


class _Group(msgspec.Struct):
    """A group of targets; labels are Prometheus', which is fed from the same file."""

    targets: list[str]


class _Toml(msgspec.Struct):
    group: list[_Group]


def read_targets(path: Path) -> list[str]:
    """Return the targets that a file names, each once.

    JSON is ``[{"targets": ["zmq://vllm-0:5557", …]}, …]``, TOML ``[[group]]`` with ``targets = […]``.

    Raises:
        ConfigError: If it cannot be read or understood; it names the file.
    """
    try:
        data = path.read_bytes()
        if len(data) > _MOST_BYTES:
            raise ConfigError(f"{path}: {len(data):,} bytes are more than {_MOST_BYTES:,}")
        if path.suffix == ".toml":
            groups = msgspec.convert(tomllib.loads(data.decode()), _Toml).group
        else:
            groups = msgspec.json.decode(data, type=list[_Group])
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # what is no JSON, TOML or UTF-8
        raise ConfigError(f'{path}: {error}; write [{{"targets": ["zmq://HOST:PORT"]}}]') from error
    targets = list(dict.fromkeys(target for group in groups for target in group.targets))
    if len(targets) > _MOST_TARGETS:
        raise ConfigError(f"{path}: {len(targets):,} targets are more than {_MOST_TARGETS:,}")
    return targets


class Targets:
    """Follows the engines that a file names; those added and removed while it is watched, too.

    A file that cannot be read or understood changes nothing, and neither does a target that is none.

    Args:
        path: A file, JSON or TOML (``.toml``).
        identity: What it was known by before it was read, as ``_identity`` has it.
        names: The targets that it named.
        look_seconds: Seconds between two looks at it.

    Raises:
        ConfigError: If one cannot be used.
        MissingExtraError: If ``kvstream[zmq]`` is not installed.
    """

    def __init__(self, path: Path, identity: Any, names: Iterable[str], *, look_seconds: float) -> None:
        self._path, self._identity, self._look_seconds = path, identity, look_seconds
        self._read = InputConnection()  # whether the file could be read
        self._wrong: list[tuple[str, str]] = []  # targets that are none, and why
        self._inputs = {target: EngineInput(target) for target in names}
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._read.become("connected")

    @classmethod
    def read(cls, path: Path, *, look_seconds: float = _LOOK_SECONDS) -> Self:
        """Read a file of targets.

        Args:
            path: A file, JSON or TOML (``.toml``).
            look_seconds: Seconds between two looks at it.

        Raises:
            ConfigError: If it cannot be read or understood now.
            MissingExtraError: If ``kvstream[zmq]`` is not installed.
        """
        identity = _identity(path)  # before it is read, so that no change is missed
        return cls(path, identity, read_targets(path), look_seconds=look_seconds)

    def statistics(self) -> list[InputStatistics]:
        """Return the accounts of each target's connections; the file's own where something is wrong."""
        wrong = [
            InputStatistics(input=f"{self._path}: {target}", state="error", since=self._read.since, error=why)
            for target, why in self._wrong
        ]
        if self._read.state != "connected":
            of = self._read
            wrong.append(
                InputStatistics(input=str(self._path), state=of.state, since=of.since, error=of.error)
            )
        return [*wrong, *(seen for each in self._inputs.values() for seen in each.statistics())]

    async def deliver(
        self,
        take: Take,
        forget: Forget | None = None,
        *,
        is_alone: bool = True,
        marker_of: MarkerOf = no_marker,
    ) -> None:
        """Hand over what the targets bring, until cancelled; nothing that goes wrong ends it."""
        async with anyio.create_task_group() as tasks:
            for target in list(self._inputs):
                self._start(tasks, target, take, forget, marker_of)
            while True:
                await anyio.sleep(self._look_seconds)
                identity = await to_thread.run_sync(_identity, self._path)
                if identity != self._identity:
                    self._identity = identity
                    await self._read_again(tasks, take, forget, marker_of)

    async def _read_again(
        self, tasks: TaskGroup, take: Take, forget: Forget | None, marker_of: MarkerOf
    ) -> None:
        try:
            targets = await to_thread.run_sync(read_targets, self._path)
        except ConfigError as error:
            self._read.become("error", str(error))
            logger.warning("%s; the targets stay as they were", for_terminal(str(error)))
            return
        self._read.become("connected")
        self._wrong = []
        for target in self._inputs.keys() - set(targets):
            self._scopes.pop(target).cancel()
            await self._inputs.pop(target).end(forget)
        for target in targets:
            if target in self._inputs:
                continue
            try:
                self._inputs[target] = EngineInput(target)
            except KVStreamError as error:
                self._wrong.append((target, str(error)))
                logger.warning("%s: %s", for_terminal(str(self._path)), for_terminal(str(error)))
            else:
                self._start(tasks, target, take, forget, marker_of)
        logger.warning("read %s again: %d targets", for_terminal(str(self._path)), len(self._inputs))

    def _start(
        self, tasks: TaskGroup, target: str, take: Take, forget: Forget | None, marker_of: MarkerOf
    ) -> None:
        scope = self._scopes[target] = anyio.CancelScope()
        engine = self._inputs[target]

        async def follow() -> None:
            with scope:
                await engine.deliver(take, forget, is_alone=False, marker_of=marker_of)

        tasks.start_soon(follow)


def _identity(path: Path) -> Any:
    """Return what changes when a file is written or replaced; None if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
