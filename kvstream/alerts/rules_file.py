"""Rules as TOML: the built-in ones, and files that change them."""

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from enum import StrEnum
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import msgspec

from kvstream.alerts.rule import Page, Rule, RuleError
from kvstream.alerts.silences import MAX_SILENCES, Silence
from kvstream.errors import ConfigError

_SILENCES = "silences"  # so that no rule can have that name


def builtin_text() -> str:
    """Return the built-in rules as they are written, with why and what to do."""
    return files("kvstream.alerts").joinpath("builtin.toml").read_text(encoding="utf-8")


@cache
def _builtin() -> tuple[Rule, ...]:
    import tomllib  # only who has rules pays for it

    tables = tomllib.loads(builtin_text())
    return tuple(msgspec.convert({**table, "name": name}, Rule) for name, table in tables.items())


def default_rules() -> tuple[Rule, ...]:
    """Return the built-in rules."""
    return _builtin()


def load_rules(path: str | Path, base: Sequence[Rule]) -> tuple[tuple[Rule, ...], tuple[Silence, ...]]:
    """Return the base rules with a TOML file's changes, and the file's silences.

    Rules are a table each, by name; new ones need every field that has no default.

    Examples:
        A file that makes one rule stricter, turns another off, and wants peace until the morning::

            [hit_ratio_drop]
            threshold = 0.4
            clear = 0.2

            [occupancy_high]
            enabled = false

            [[silences]]
            source = "batch-*"
            until = 2026-12-01T06:00:00Z

    Raises:
        ConfigError: If the file cannot be read or rules cannot be used; a line for each, with its number.
    """
    import tomllib  # only who has a file pays for it

    try:
        text = Path(path).read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    file = _File(text)
    silences = _silences(file, tables.pop(_SILENCES, []))
    rules = {rule.name: rule for rule in base}
    names = [*rules, *(name for name, table in tables.items() if isinstance(table, dict))]
    for name, table in tables.items():
        if not isinstance(table, dict):
            file.complain(None, name, f"{name} is not a table; write [{name}]")
            continue
        rule = _rule(file, name, table, rules.get(name), names)
        if rule is not None:
            rules[name] = rule
    for name, table in tables.items():
        for field in ("inhibits", "yields_to") if isinstance(table, dict) else ():
            others = table.get(field, ())
            for other in others if isinstance(others, list) else ():
                if isinstance(other, str) and other not in names:
                    what = f"rule {name}: {field} {other}, which is no rule{_did_you_mean(other, names)}"
                    file.complain(name, field, what)
    if file.wrong:
        raise RulesFileError([f"{path}:{number}: {what}" for number, what in sorted(file.wrong)])
    return tuple(rules.values()), silences


class RulesFileError(ConfigError):
    """Raised when a file of rules cannot be used.

    Attributes:
        lines: All that is wrong with it, each with the file and the number of a line.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class _File:
    """The text of a file, and what is wrong with it.

    Attributes:
        wrong: (number of a line, what is wrong there).
    """

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self.wrong: list[tuple[int, str]] = []

    def complain(self, table: str | None, key: str | None, what: str, place: int = 0) -> None:
        """Note what is wrong with a key of a table, of a list's table at a ``place``, or with the whole."""
        self.wrong.append((self._line(table, key, place), what))

    def _line(self, table: str | None, key: str | None, place: int) -> int:
        """Return the number of the line where a key of a table stands, or else the table's own."""
        inside, found, in_table = table is None, 0, 0
        for number, line in enumerate(self._lines, 1):
            if header := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line):
                name = header[1].replace('"', "").replace("'", "")
                is_ours = name == table or (table is not None and name.startswith(f"{table}."))
                in_table += name == table
                inside = is_ours and (in_table == place + 1 or in_table == place == 0)
                found = number if inside and not found else found
                if inside and key is not None and name == f"{table}.{key}":
                    return number
            elif inside and key is not None and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line):
                return number
        return found or 1


def _rule(
    file: _File, name: str, table: dict[str, Any], before: Rule | None, names: Sequence[str]
) -> Rule | None:
    """Return the rule that a table makes of what was there before; None if anything is wrong with it."""
    about, well = f"rule {name}: ", True

    def complain(key: str | None, what: str) -> None:
        nonlocal well
        well = False
        file.complain(name, key, about + what)

    values = _converted(table, Rule, complain)
    missing = [f.name for f in msgspec.structs.fields(Rule) if f.required and f.name not in {*table, "name"}]
    if before is None and missing:
        others = [other for other in names if other != name]
        what = (
            f"there is no such rule{_did_you_mean(name, others)}; a new one needs {', '.join(missing)}, too"
        )
        complain(None, what)
    if "name" in table and table["name"] != name:
        complain("name", "name is that of the table")
    if not well:
        return None
    try:
        kept = {} if before is None else msgspec.structs.asdict(before)
        return Rule(**{**kept, **values, "name": name})
    except RuleError as error:
        for field, what in error.problems:
            complain(field, what)
    return None


def _converted(
    table: dict[str, Any], kind: type[msgspec.Struct], complain: Callable[[str, str], None]
) -> dict[str, Any]:
    """Return the fields of a table as a type has them; complain of what is unknown or of a wrong type."""
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    values = {}
    for name, value in table.items():
        field = fields.get(name)
        if field is None:
            complain(name, f"unknown field {name}{_did_you_mean(name, fields)}")
            continue
        try:
            values[name] = msgspec.convert(value, field.type)
        except (msgspec.ValidationError, ConfigError) as error:
            choices = _choices(field.type)
            if isinstance(value, str) and choices:
                known = _did_you_mean(value, choices) or f"; it is one of {', '.join(choices)}"
                complain(name, f"{name} {value} is not known{known}")
            elif isinstance(value, dict) and isinstance(error, msgspec.ValidationError):
                complain(name, f"{name}: {_about_page(error, value)}")
            else:
                complain(name, f"{name}: {error}")
    return values


def _about_page(error: msgspec.ValidationError, table: dict[str, Any]) -> str:
    fields = [field.name for field in msgspec.structs.fields(Page)]
    unknown = [name for name in table if name not in fields]
    return "; ".join(f"unknown field {name}{_did_you_mean(name, fields)}" for name in unknown) or str(error)


def _choices(kind: Any) -> list[str]:
    """Return the texts that a type allows, if it is a choice of some."""
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return [member.value for member in kind]
    return [each for each in get_args(kind) if isinstance(each, str)]


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _silences(file: _File, tables: Any) -> tuple[Silence, ...]:
    """Return the file's silences; complain of what is wrong with them."""
    found: list[Silence] = []
    if not isinstance(tables, list):
        file.complain(None, _SILENCES, "silences is not a list of tables; write [[silences]]")
        return ()
    for place, table in enumerate(tables):
        if not isinstance(table, dict):
            file.complain(None, _SILENCES, "a silence is not a table; write [[silences]]")
            continue
        before = len(file.wrong)
        values = _converted(table, Silence, partial(_complain_of_silence, file, place))
        if len(file.wrong) > before:
            continue
        try:
            found.append(Silence(**values))
        except ConfigError as error:
            file.complain(_SILENCES, None, str(error), place)
    if len(found) > MAX_SILENCES:
        file.complain(_SILENCES, None, f"silences: at most {MAX_SILENCES:,} are kept at once")
    return tuple(found)


def _complain_of_silence(file: _File, place: int, field: str, what: str) -> None:
    file.complain(_SILENCES, field, f"silence: {what}", place)
