"""Settings from a TOML file, the environment and flags, with all that is wrong said at once."""

import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar, cast, get_args

import msgspec

from kvstream.config import MetricsConfig, SettingsError, StreamConfig
from kvstream.errors import ConfigError
from kvstream.text.quantities import (
    duration_in_seconds,
    is_duration,
    real_number,
    size_in_bytes,
    whole_number,
)
from kvstream.text.suggest import closest, did_you_mean
from kvstream.text.toml import TomlFile, struct_fields

C = TypeVar("C", MetricsConfig, StreamConfig)

SECTIONS: dict[str, type[msgspec.Struct]] = {"metrics": MetricsConfig, "stream": StreamConfig}
"""Tables of settings in a file; their fields may also stand at its top level."""
COMMAND_SECTIONS = ("run", "serve", "analyze", "report", "top")
"""Tables of ``kvstream.toml`` with options of a command."""
OTHER_SECTIONS = ("rules", "silences", "alerts", *COMMAND_SECTIONS)
"""Tables of ``kvstream.toml`` that the command line reads."""

VARIABLES = {
    "KVSTREAM_CONFIG": "a file of settings, where --config gives none",
    "KVSTREAM_TOKEN": "the token of a server, where --token-file gives none",
    "KVSTREAM_WEBHOOK_SECRET": "the secret that --webhook signs with",
    "KVSTREAM_SLACK_URL": "the URL of a Slack incoming webhook",
    "KVSTREAM_APPRISE_URL": "the URL of a service that apprise notifies",
    "KVSTREAM_LABEL_KEY": "the key of pseudonyms in labels; without it a random one for each process",
    "KVSTREAM_ENDPOINT": "vLLM's plugin: the kvstream serve to send to",
    "KVSTREAM_SOURCE": "vLLM's plugin: the name of the engine",
    "KVSTREAM_TRACEBACK": "1 shows where an unexpected error comes from",
}
"""Environment variables that are no settings, with what they hold."""
_PREFIX = "KVSTREAM_"
_KUBERNETES = r"SERVICE_(HOST|PORT)|PORT(_|$)|.*_(SERVICE_(HOST|PORT|PORT_.*)|PORT|PORT_.*)$"


def misspelt_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a line for each ``KVSTREAM_*`` variable that looks like one of ours, misspelt.

    Others are left alone: Kubernetes sets some for a service of the name kvstream.
    """
    known = [*VARIABLES, *(_variable(name) for kind in SECTIONS.values() for name in _settings(kind))]
    suffixes = [name.removeprefix(_PREFIX) for name in known]
    lines = []
    for name in sorted(environ):
        suffix = name.removeprefix(_PREFIX)
        if not name.startswith(_PREFIX) or suffix in suffixes or re.match(_KUBERNETES, suffix):
            continue
        if close := closest(suffix, suffixes):
            lines.append(f"${name} is no variable of kvstream; did you mean ${_PREFIX}{close}?")
    return lines


def load_config(
    kind: type[C],
    path: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
    **flags: Any,
) -> C:
    """Return a config from a TOML file, ``KVSTREAM_*`` variables and flags; later ones win.

    Args:
        kind: ``MetricsConfig`` or ``StreamConfig``.
        path: TOML file with the fields of both at top level, or in ``[metrics]`` and ``[stream]``.
        environ: Variables to look in, by default the process's: ``KVSTREAM_CAPACITY=10k``.
        **flags: Fields set by the caller; None means not set.

    Raises:
        ConfigError: If the file cannot be read, a name is unknown or a value cannot be used; a line for each.
    """
    return read_settings(None if path is None else TomlFile.read(path), environ, flags).build(kind)


def read_settings(
    file: TomlFile | None, environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> "Settings":
    """Return the settings of a file, of the environment and of flags; complain to the file of its mistakes.

    Args:
        file: A file of settings.
        environ: Variables to look in, by default the process's.
        flags: Settings by name; None means not set.
    """
    settings = Settings(file)
    if file is not None:
        settings.add_file(file)
    settings.add_environment(os.environ if environ is None else environ)
    known = {"metrics", *_known()}
    for name, value in (flags or {}).items():
        if name not in known:
            settings.wrong.append(f"unknown setting {name}{did_you_mean(name, known)}")
        elif value is not None:
            settings.set(name, value, None)
    return settings


class Settings:
    """Values of settings, and where each came from.

    Args:
        file: A file of settings, which is given what is wrong with it.

    Attributes:
        origins: Where a setting was set: a table of the file (empty for its top level), a ``$VARIABLE``, or
            None for a flag.
        wrong: What is wrong outside the file.
    """

    def __init__(self, file: TomlFile | None) -> None:
        self._file = file
        self._values: dict[str, Any] = {}
        self.origins: dict[str, str | None] = {}
        self.wrong: list[str] = []

    def set(self, name: str, value: Any, origin: str | None) -> None:
        """Set a setting; the last to do so wins."""
        self._values[name], self.origins[name] = value, origin

    def where(self, name: str) -> str:
        """Return where a setting was set, as ``kvstream.toml:3`` or ``$VARIABLE``; empty if nowhere."""
        origin = self.origins.get(name)
        if origin is None or origin.startswith("$") or self._file is None:
            return origin or ""
        return f"{self._file.path}:{self._file.line(origin, name)}"

    def add_file(self, file: TomlFile) -> None:
        """Take the settings of a file."""
        sections = (*SECTIONS, *OTHER_SECTIONS)
        top = {
            name: value
            for name, value in file.tables.items()
            if name not in sections and not isinstance(value, dict | list)
        }
        for name in file.tables.keys() - top.keys() - set(sections):
            what = f"unknown section {name}{did_you_mean(name, sections)}"
            file.complain(None, name, what)
        known = _known()
        for name in top.keys() - known:
            file.complain(None, name, f"unknown setting {name}{did_you_mean(name, known)}")
        for section, kind in SECTIONS.items():
            names = _settings(kind)
            self._add_table(file, "", kind, {name: top[name] for name in top if name in names})
            table = file.tables.get(section, {})
            if not isinstance(table, dict):
                file.complain(None, section, f"{section} is no table; write [{section}]")
                continue
            self._add_table(file, section, kind, table)

    def _add_table(
        self, file: TomlFile, section: str, kind: type[msgspec.Struct], table: dict[str, Any]
    ) -> None:
        def complain(name: str, what: str) -> None:
            file.complain(section, name, what)

        for name, value in struct_fields(table, kind, complain, "setting").items():
            self.set(name, value, section)

    def add_environment(self, environ: Mapping[str, str]) -> None:
        """Take the settings that variables have."""
        for kind in SECTIONS.values():
            for name, field in _settings(kind).items():
                if (text := environ.get(_variable(name))) is None:
                    continue
                try:
                    self.set(name, _from_text(name, text, field.type), f"${_variable(name)}")
                except ValueError as error:
                    self.wrong.append(f"${_variable(name)}: {error}")

    def build(self, kind: type[C]) -> C:
        """Return a config of these settings.

        Raises:
            ConfigError: If anything is wrong; a line for each.
        """
        built: dict[str, Any] = {}
        for section, each in SECTIONS.items():
            values = {name: self._values[name] for name in _settings(each) if name in self._values}
            try:
                built[section] = each(**values)
            except SettingsError as error:
                for name, what in error.problems:
                    self._complain(name, what)
        lines = [*(self._file.complaints if self._file is not None else ()), *self.wrong]
        if lines:
            raise ConfigError(*lines)
        if kind is MetricsConfig:
            return cast("C", built["metrics"])
        metrics = self._values.get("metrics", built["metrics"])
        return cast("C", msgspec.structs.replace(built["stream"], metrics=metrics))

    def _complain(self, name: str, what: str) -> None:
        origin = self.origins.get(name)
        if origin is None:
            self.wrong.append(what)
        elif origin.startswith("$") or self._file is None:
            self.wrong.append(f"{origin}: {what}")
        else:
            self._file.complain(origin, name, what)


def _known() -> set[str]:
    """Return the names of all settings."""
    return {name for kind in SECTIONS.values() for name in _settings(kind)}


def _settings(kind: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """Return the fields of a config that are settings by themselves."""
    return {field.name: field for field in msgspec.structs.fields(kind) if field.name != "metrics"}


def _variable(name: str) -> str:
    return _PREFIX + name.upper()


def _from_text(name: str, text: str, kind: Any) -> Any:
    """Return the text of a variable as a value of a field's type.

    Raises:
        ValueError: If it is none.
    """
    parts = get_args(kind) or (kind,)
    if int in parts:
        return size_in_bytes(text) if name.endswith("_bytes") else whole_number(text)
    if kind is float:
        return duration_in_seconds(text) if is_duration(name) else real_number(text)
    if kind is bool:
        words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if text.lower() not in words:
            raise ValueError(f"{text!r} is not true or false")
        return words[text.lower()]
    return text
