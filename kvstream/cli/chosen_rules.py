"""Which rules a command judges by: built-in ones, a file's changes, the heartbeat; read again on SIGHUP."""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import anyio
import typer
from msgspec.structs import replace

from kvstream.alerts.rule import Rule
from kvstream.alerts.rules_file import default_rules, load_rules
from kvstream.alerts.silences import Silence
from kvstream.alerts.types import MetricType
from kvstream.cli.messages import say
from kvstream.errors import ConfigError
from kvstream.stream import KVStream

RulesFile = Annotated[
    Path | None, typer.Option(metavar="FILE.toml", help="Changes to the alert rules.", show_default=False)
]
Heartbeat = Annotated[
    bool,
    typer.Option(
        "--heartbeat", help="Post an alert that always fires to Alertmanager, so that its absence is noticed."
    ),
]


class ChosenRules(NamedTuple):
    """Rules, and silences of the same file."""

    rules: Sequence[Rule]
    silences: Sequence[Silence]


def chosen_rules(file: Path | None, heartbeat: bool = False) -> ChosenRules:
    """Return the rules and the silences that the options ask for.

    Args:
        file: Changes to the built-in rules.
        heartbeat: Turn the rules of the heartbeat on.

    Raises:
        ConfigError: If the file cannot be used.
    """
    base = default_rules()
    rules, silences = load_rules(file, base) if file else (base, ())
    if heartbeat:
        rules = tuple(replace(r, enabled=True) if r.metric is MetricType.HEARTBEAT else r for r in rules)
    return ChosenRules(rules, silences)


async def read_rules_on_hangup(
    stream: KVStream, file: Path, heartbeat: bool, scope: anyio.CancelScope, stopped: list[int]
) -> None:
    """Read a file of rules again with each SIGHUP; the rules of before stay if anything is wrong with it.

    Where SIGHUP came because the terminal on standard output is gone, nobody asks for rules: it ends the
    command as other signals do.

    Args:
        stream: What is judged by them.
        file: Changes to the built-in rules.
        heartbeat: Turn the rules of the heartbeat on.
        scope: Is cancelled to end the command.
        stopped: Where the number of the signal is noted then.
    """
    on_terminal = sys.stdout.isatty()
    with anyio.open_signal_receiver(signal.SIGHUP) as signals:
        async for number in signals:
            if on_terminal and not sys.stdout.isatty():
                stopped.append(number)
                scope.cancel()
                return
            await _read_again(stream, file, heartbeat)


async def _read_again(stream: KVStream, file: Path, heartbeat: bool) -> None:
    try:
        chosen = chosen_rules(file, heartbeat)
        await stream.replace_rules(chosen.rules, chosen.silences)
    except ConfigError as error:
        for line in error.lines:
            say(f"kvstream: {line}")
        say(f"kvstream: {file}: the rules stay as they were")
        return
    say(f"kvstream: read {file} again: {len(chosen.rules)} rules, {len(chosen.silences)} silences")
