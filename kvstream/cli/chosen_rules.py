"""Which rules a command judges by: built-in ones, a file's changes, the heartbeat; read again on SIGHUP."""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import anyio
from msgspec.structs import replace

from kvstream.alerts.rule import Rule
from kvstream.alerts.rules_file import default_rules, load_rules
from kvstream.alerts.silences import Silence
from kvstream.alerts.types import MetricType
from kvstream.cli.config_file import rules_of_config
from kvstream.cli.messages import note, say
from kvstream.errors import ConfigError
from kvstream.stream import KVStream
from kvstream.text.toml import TomlFile


class ChosenRules(NamedTuple):
    """Rules, and silences of the same file."""

    rules: Sequence[Rule]
    silences: Sequence[Silence]


class RuleFiles(NamedTuple):
    """Where the rules of a command are from.

    Attributes:
        config: A file of settings, which may have changes to the built-in rules.
        rules: A file of further changes.
        heartbeat: Turn the rules of the heartbeat on.
    """

    config: Path | None = None
    rules: Path | None = None
    heartbeat: bool = False

    @property
    def names(self) -> str:
        """Return the names of the files; empty if there are none."""
        return " and ".join(str(file) for file in (self.config, self.rules) if file is not None)

    def read(self) -> ChosenRules:
        """Return the rules and the silences as the files have them now.

        Raises:
            ConfigError: If a file cannot be used; a line for each mistake.
        """
        rules: tuple[Rule, ...] = default_rules()
        silences: tuple[Silence, ...] = ()
        if self.config is not None:
            file = TomlFile.read(self.config)
            rules, silences = rules_of_config(file)
            file.check()
        if self.rules is not None:
            rules, more = load_rules(self.rules, rules)
            silences = (*silences, *more)
        if self.heartbeat:
            rules = tuple(replace(r, enabled=True) if r.metric is MetricType.HEARTBEAT else r for r in rules)
        return ChosenRules(rules, silences)


async def read_rules_on_hangup(
    stream: KVStream, files: RuleFiles, scope: anyio.CancelScope, stopped: list[int]
) -> None:
    """Read the files of rules again with each SIGHUP; the rules stay if anything is wrong with them.

    Where SIGHUP came because the terminal on standard output is gone, nobody asks for rules: it ends the
    command as other signals do.

    Args:
        stream: What is judged by them.
        files: Where the rules are from.
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
            await _read_again(stream, files)


async def _read_again(stream: KVStream, files: RuleFiles) -> None:
    try:
        chosen = files.read()
        await stream.replace_rules(chosen.rules, chosen.silences)
    except ConfigError as error:
        for line in error.lines:
            say(f"kvstream: {line}")
        say(f"kvstream: {files.names}: the rules stay as they were")
        return
    note(f"kvstream: read {files.names} again: {len(chosen.rules)} rules, {len(chosen.silences)} silences")
