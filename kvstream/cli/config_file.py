"""``kvstream.toml``: settings, rules and options of commands in one file."""

from pathlib import Path
from typing import Any

import typer

from kvstream.alerts.rule import Rule
from kvstream.alerts.rules_file import default_rules, rules_of
from kvstream.alerts.silences import Silence
from kvstream.cli.command import UsageError, in_own_words
from kvstream.cli.handlers import AlertOptions, Destinations
from kvstream.config import StreamConfig
from kvstream.settings import COMMAND_SECTIONS, read_settings
from kvstream.text.suggest import did_you_mean
from kvstream.text.toml import TomlFile

SHARED = "alerts"
"""The table of options that ``run`` and ``serve`` share."""
_SHARED_OPTIONS = (*AlertOptions.__struct_fields__, *Destinations.__struct_fields__)


def take_options(ctx: typer.Context, param: Any, path: Path | None) -> Path | None:
    """Give a command the options that a file has for it, once all of the file is found to be right.

    Raises:
        ConfigError: If anything is wrong with it; a line for each mistake.
    """
    if path is not None and not ctx.resilient_parsing:
        file = TomlFile.read(path)
        options: dict[str, Any] = {}
        for section in (SHARED, str(ctx.command.name)):
            options |= options_of(file, section, ctx)
        rules_of_config(file)
        read_settings(file).build(StreamConfig)
        ctx.default_map = options
    return path


def rules_of_config(file: TomlFile) -> tuple[tuple[Rule, ...], tuple[Silence, ...]]:
    """Return the built-in rules with a file's changes, and its silences; complain to it of what is wrong."""
    tables = file.tables.get("rules", {})
    if not isinstance(tables, dict):
        file.complain(None, "rules", "rules is no table; write [rules.NAME]")
        tables = {}
    return rules_of(
        file, {**tables, "silences": file.tables.get("silences", [])}, default_rules(), section="rules."
    )


def options_of(file: TomlFile, section: str, ctx: Any) -> dict[str, Any]:
    """Return the options of a command that a table of a file has, by parameter; complain of wrong ones.

    Args:
        file: The file.
        section: The name of the table.
        ctx: The command's context.
    """
    table = file.tables.get(section, {})
    if not isinstance(table, dict):
        file.complain(None, section, f"{section} is no table; write [{section}]")
        return {}
    known = {_key(param): param for param in ctx.command.params if param.param_type_name == "option"}
    known.pop("config", None)
    found: dict[str, Any] = {}
    for name, value in table.items():
        key = name.replace("-", "_")
        words = _SHARED_OPTIONS if section == SHARED else known
        if key not in words:
            file.complain(section, name, f"unknown option {name}{did_you_mean(name, words)}")
        if key not in words or key not in known:  # known: to this command
            continue
        wrong = _taken(found, known[key], value, ctx)
        if wrong:
            file.complain(section, name, f"{name}: {wrong}")
    return found


def check_all(path: Path) -> dict[str, int]:
    """Return what a file of settings has, counted: settings, rules, silences and options.

    Raises:
        ConfigError: If anything is wrong with it; a line for each mistake.
    """
    from kvstream.cli.app import command_named  # here, as commands take their options from files

    file = TomlFile.read(path)
    options = 0
    for section in (SHARED, *COMMAND_SECTIONS):
        if section in file.tables:
            name = "run" if section == SHARED else section
            ctx = command_named(name).make_context(name, [], resilient_parsing=True)
            options += len(options_of(file, section, ctx))
    rules_of_config(file)
    settings = read_settings(file, {})
    settings.build(StreamConfig)
    tables = file.tables
    return {
        "setting": len(settings.origins),
        "changed rule": len(tables.get("rules", {})),
        "silence": len(tables.get("silences", [])),
        "option": options,
    }


def _key(param: Any) -> str:
    longest: str = max((opt for opt in param.opts if opt.startswith("--")), key=len, default=param.name)
    return longest.removeprefix("--").replace("-", "_")


def _taken(found: dict[str, Any], param: Any, value: Any, ctx: Any) -> str:
    """Add the value of an option as the command line would have given it; return what is wrong with it."""
    if param.is_flag:
        if not isinstance(value, bool):
            return f"must be true or false, not {value!r}"
        found[param.name] = value
        return ""
    if isinstance(value, dict | bool) or (isinstance(value, list) and not param.multiple):
        return f"must be {'a list' if param.multiple else 'one value'}, not {value!r}"
    values = [str(each) for each in value] if isinstance(value, list) else [str(value)]
    taken = values if param.multiple else values[0]
    try:
        param.process_value(ctx, taken)
    except UsageError as error:
        return in_own_words(error)
    found[param.name] = taken
    return ""
