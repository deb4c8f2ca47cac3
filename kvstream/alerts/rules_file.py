"""Rules as TOML: the built-in ones, and files that change them."""

import os
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import msgspec

from kvstream.alerts.rule import Rule, RuleError
from kvstream.alerts.silences import MAX_SILENCES, Silence
from kvstream.errors import ConfigError
from kvstream.text.suggest import did_you_mean
from kvstream.text.toml import TomlFile, struct_fields

_SILENCES = "silences"  # so that no rule can have that name


def builtin_text() -> str:
    """Return the built-in rules as they are written, with why and what to do."""
    with open(os.path.join(os.path.dirname(__file__), "builtin.toml"), encoding="utf-8") as file:
        return file.read()


@cache
def _builtin() -> tuple[Rule, ...]:
    import tomllib  # only who has rules pays for it

    tables = tomllib.loads(builtin_text())
    return tuple(msgspec.convert({**table, "name": name}, Rule) for name, table in tables.items())


def default_rules() -> tuple[Rule, ...]:
    """Return the built-in rules."""
    return _builtin()


def load_rules(
    path: str | os.PathLike[str], base: Sequence[Rule]
) -> tuple[tuple[Rule, ...], tuple[Silence, ...]]:
    """Return the base rules with a TOML file's changes, and the file's silences.

    Rules are a table each, by name; new ones need every field that has no default.

    Examples:
        A file that makes one rule stricter, turns another off, and silences sources until the morning::

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
    file = TomlFile.read(path)
    rules, silences = rules_of(file, file.tables, base)
    file.check()
    return rules, silences


def rules_of(
    file: TomlFile, tables: dict[str, Any], base: Sequence[Rule], section: str = ""
) -> tuple[tuple[Rule, ...], tuple[Silence, ...]]:
    """Return the base rules with the changes of tables, and the silences; complain of what is wrong.

    Args:
        file: Where the tables are from.
        tables: Rules by name, and ``silences``.
        base: The rules that are changed.
        section: What stands before the names of rules in the file, such as ``rules.``.
    """
    tables = dict(tables)
    silences = _silences(file, tables.pop(_SILENCES, []))
    rules = {rule.name: rule for rule in base}
    names = [*rules, *(name for name, table in tables.items() if isinstance(table, dict))]
    for name, table in tables.items():
        if not isinstance(table, dict):
            file.complain(section.rstrip("."), name, f"{name} is not a table; write [{section}{name}]")
            continue
        if not section and name == "rules":
            file.complain(name, None, "write [NAME]: [rules.NAME] is for a kvstream.toml, given by --config")
            continue
        rule = _rule(file, section, name, table, rules.get(name), names)
        if rule is not None:
            rules[name] = rule
    for name, table in tables.items():
        for field in ("inhibits", "yields_to") if isinstance(table, dict) else ():
            others = table.get(field, ())
            for other in others if isinstance(others, list) else ():
                if isinstance(other, str) and other not in names:
                    what = f"rule {name}: {field} {other}, which is no rule{did_you_mean(other, names)}"
                    file.complain(section + name, field, what)
    return tuple(rules.values()), silences


def _rule(
    file: TomlFile,
    section: str,
    name: str,
    table: dict[str, Any],
    before: Rule | None,
    names: Sequence[str],
) -> Rule | None:
    """Return the rule that a table makes of what was there before; None if anything is wrong with it."""
    about, well = f"rule {name}: ", True

    def complain(key: str | None, what: str) -> None:
        nonlocal well
        well = False
        file.complain(section + name, key, about + what)

    values = struct_fields(table, Rule, complain)
    missing = [f.name for f in msgspec.structs.fields(Rule) if f.required and f.name not in {*table, "name"}]
    if before is None and missing:
        others = [other for other in names if other != name]
        what = f"there is no such rule{did_you_mean(name, others)}; a new one needs {', '.join(missing)}, too"
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


def _silences(file: TomlFile, tables: Any) -> tuple[Silence, ...]:
    """Return the file's silences; complain of what is wrong with them."""
    found: list[Silence] = []
    if not isinstance(tables, list):
        file.complain(None, _SILENCES, "silences is not a list of tables; write [[silences]]")
        return ()
    for place, table in enumerate(tables):
        if not isinstance(table, dict):
            file.complain(None, _SILENCES, "a silence is not a table; write [[silences]]")
            continue
        before = file.count
        values = struct_fields(table, Silence, partial(_complain_of_silence, file, place))
        if file.count > before:
            continue
        try:
            found.append(Silence(**values))
        except ConfigError as error:
            file.complain(_SILENCES, None, str(error), place)
    if len(found) > MAX_SILENCES:
        file.complain(_SILENCES, None, f"silences: at most {MAX_SILENCES:,} are kept at once")
    return tuple(found)


def _complain_of_silence(file: TomlFile, place: int, field: str, what: str) -> None:
    file.complain(_SILENCES, field, f"silence: {what}", place)
