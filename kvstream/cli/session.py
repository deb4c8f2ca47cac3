"""What every command that runs a stream does: shows its results, drains on a signal, ends with a code."""

import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Annotated, Protocol

import anyio
import msgspec
import typer

from kvstream.alerts.types import AlertLevel, CacheAlert
from kvstream.blocks.apply_result import KVCacheEvictionEvent
from kvstream.cli.chosen_rules import RuleFiles, read_rules_on_hangup
from kvstream.cli.exit_codes import EXIT_ALERT, EXIT_ERROR, EXIT_SIGNAL, EXIT_UNDELIVERED
from kvstream.cli.exit_codes import EXIT_CODES as EXIT_CODES
from kvstream.cli.handlers import undelivered_lines
from kvstream.cli.json_lines import JsonLines
from kvstream.cli.messages import say
from kvstream.cli.render import Terminal
from kvstream.engine.inputs import InputStatistics
from kvstream.errors import KVStreamError, UnknownFormatError, UnreadableInputError
from kvstream.events.types import Malformed
from kvstream.metrics.summary import CacheMetricsSummary
from kvstream.sinks.output_file import end_torn_line
from kvstream.sinks.patient_file import PatientFile
from kvstream.stream import KVStream

_BUFFER = 1_000_000
_REFRESH_SECONDS = 0.25

Result = CacheAlert | CacheMetricsSummary | KVCacheEvictionEvent | Malformed | InputStatistics

Evictions = Annotated[bool, typer.Option("--evictions", help="Also a line for each eviction (JSON).")]


class Output(Protocol):
    """Where results go: a terminal or JSON lines."""

    def show(self, result: Result) -> None:
        """Show one result."""

    def read(self, count: int) -> None:
        """Note how many more bytes of input were read."""

    def refresh(self) -> None:
        """Draw anew what is shown while the run goes on."""

    def watch(self, stream: KVStream) -> None:
        """Set the stream that is shown while it runs."""


class Session(msgspec.Struct, frozen=True):
    """What is shown of a stream, when that is a failure, and what it is judged by.

    Attributes:
        min_severity: Minimum severity of the alerts shown.
        evictions: Also show evictions.
        fail_on: Severity from which an alert is a failure.
        rules: Files of rules that SIGHUP has read again; without one, SIGHUP ends the run as SIGTERM does.
    """

    min_severity: AlertLevel = AlertLevel.INFO
    evictions: bool = False
    fail_on: AlertLevel | None = None
    rules: RuleFiles = RuleFiles()


Feed = Callable[[KVStream, Output], Awaitable[None]]
"""Puts events into the open stream until there are no more."""


def say_malformed(malformed: Malformed) -> None:
    """Say on standard error what of an input could not be decoded."""
    say(f"malformed  {malformed}")


def run_session(
    session: Session,
    stream: KVStream,
    feed: Feed,
    *,
    as_lines: bool,
    total_bytes: int | None = None,
    is_service: bool = False,
    unreadable: Sequence[KVStreamError | OSError] = (),
) -> int:
    """Run a stream on what ``feed`` puts into it; return the exit code.

    Args:
        session: What is shown of the stream.
        stream: A stream that is not open yet.
        feed: Puts events into it.
        as_lines: Show results as JSON lines.
        total_bytes: Size of the input, None if it has no end.
        is_service: Go on where JSON lines cannot be written, and try again.
        unreadable: Why inputs could not be read; ``feed`` may add to it and go on with the others.

    Raises:
        OSError: If results could not be written; of a service, once it has ended.
    """
    if not as_lines:
        terminal = Terminal(total_bytes)
        terminal.watch(stream)
        with terminal:
            return anyio.run(_run, session, stream, feed, terminal, unreadable)
    with suppress(OSError):  # if it cannot be written, the first result will say so
        end_torn_line(sys.stdout.fileno())
    if not is_service:
        return anyio.run(_run, session, stream, feed, JsonLines(sys.stdout.buffer), unreadable)
    file = PatientFile.on(sys.stdout.fileno(), stream.faults)
    code = EXIT_ERROR
    try:
        code = anyio.run(_run, session, stream, feed, JsonLines(file), unreadable)
    finally:
        code = max(code, _close(file))
    return code


def _close(file: PatientFile) -> int:
    """Write what still waits; return the exit code that stands for what could not be written."""
    try:
        file.close()
    except BrokenPipeError:
        return 0
    except OSError as error:
        say(f"kvstream: {error.filename}: {error.strerror}")
        return EXIT_ERROR
    return 0


async def _run(
    session: Session,
    stream: KVStream,
    feed: Feed,
    output: Output,
    unreadable: Sequence[KVStreamError | OSError],
) -> int:
    """Run until the input ends or a signal comes, then drain."""
    alerts = stream.alerts(buffer=_BUFFER)
    evictions = stream.evictions(buffer=_BUFFER) if session.evictions else None
    failed_on = 0
    failure: list[KVStreamError | OSError] = []
    stopped: list[int] = []

    async def show_alerts() -> None:
        nonlocal failed_on
        async for alert in alerts:
            if alert.level.at_least(session.min_severity):
                output.show(alert)
            if session.fail_on and alert.state == "firing" and alert.level.at_least(session.fail_on):
                failed_on += 1

    async def show_evictions() -> None:
        if evictions is not None:
            async for event in evictions:
                output.show(event)

    async def refresh() -> None:
        while True:
            await anyio.sleep(_REFRESH_SECONDS)
            output.refresh()

    async def read_all(reading: anyio.CancelScope) -> None:
        try:
            await feed(stream, output)
        except* (KVStreamError, OSError) as errors:
            failure.extend(e for e in _leaves(errors) if isinstance(e, (KVStreamError, OSError)))
        reading.cancel()

    async with anyio.create_task_group() as results:
        results.start_soon(show_alerts)
        results.start_soon(show_evictions)
        async with stream, anyio.create_task_group() as inputs:
            inputs.start_soon(stop_on_signal, inputs.cancel_scope, stopped, not session.rules.names)
            if session.rules.names:
                inputs.start_soon(read_rules_on_hangup, stream, session.rules, inputs.cancel_scope, stopped)
            inputs.start_soon(refresh)
            inputs.start_soon(read_all, inputs.cancel_scope)
    last = stream.summary_nowait()
    errors = [*failure, *unreadable]
    hopeless = any(isinstance(error, UnknownFormatError | UnreadableInputError) for error in errors)
    began = bool(last.accounts.offered) or not errors
    if last.accounts.processed or (began and not hopeless):  # figures of nothing would look like an answer
        output.show(last)
    undelivered = undelivered_lines(stream)
    for line in undelivered:
        say(line)
    if failure:
        raise failure[0]
    if stopped:
        return EXIT_UNDELIVERED if undelivered else EXIT_SIGNAL + stopped[0]
    if failed_on:
        return EXIT_ALERT
    if undelivered:
        return EXIT_UNDELIVERED
    return EXIT_ERROR if unreadable else 0


async def stop_on_signal(scope: anyio.CancelScope, stopped: list[int], hangup: bool = True) -> None:
    """Cancel a scope at the first interrupt or request to end, and note its number.

    Args:
        scope: What to cancel.
        stopped: Where the number of the signal is noted.
        hangup: End for SIGHUP, too, unless the process was started to ignore it, as by ``nohup``.
    """
    also = [signal.SIGHUP] if hangup and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, *also) as signals:
        async for number in signals:
            stopped.append(number)
            scope.cancel()
            return


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]
