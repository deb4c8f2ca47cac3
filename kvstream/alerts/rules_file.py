"""Rules as TOML: the built-in ones, and files that change them."""

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from kvstream.alerts.rules import MIN_BASELINE, Rule
from kvstream.alerts.silences import Silence
from kvstream.errors import ConfigError
from kvstream.metrics.trend import MOST_POINTS

_SILENCES = "silences"  # so that no rule can have that name


def builtin_text() -> str:
    """The built-in rules as they are written, with why and what to do."""
    return files("kvstream.alerts").joinpath("builtin.toml").read_text(encoding="utf-8")


@cache
def _builtin() -> tuple[Rule, ...]:
    import tomllib  # only who has rules pays for it

    tables = tomllib.loads(builtin_text())
    return tuple(msgspec.convert({**table, "name": name}, Rule) for name, table in tables.items())


def default_rules(anomaly_threshold: float = 6.0, trend_window: int = 60) -> tuple[Rule, ...]:
    """The built-in rules.

    Args:
        anomaly_threshold: Robust z-score beyond which a window is called anomalous.
        trend_window: Windows that a trend is fitted over.
    """
    changes: dict[str, dict[str, Any]] = {
        "lifetime_anomaly": {"threshold": anomaly_threshold, "clear": anomaly_threshold / 2},
        "lifetime_falling": {"baseline": min(max(MIN_BASELINE, trend_window), MOST_POINTS)},
    }
    return tuple(msgspec.structs.replace(rule, **changes.get(rule.name, {})) for rule in _builtin())


def load_rules(path: str | Path, base: Sequence[Rule]) -> tuple[tuple[Rule, ...], tuple[Silence, ...]]:
    """The base rules with a TOML file's changes, and the file's silences.

    Rules are a table each, by name; new ones need every field that has no default.

    Example:
        A file that makes one rule stricter, turns another off, and wants peace until the morning::

            [hit_ratio_drop]
            threshold = 0.1
            clear = 0.05

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
    wrong: list[tuple[int, str]] = []
    silences = _silences(text, tables.pop(_SILENCES, []), wrong)
    rules = {rule.name: rule for rule in base}
    for name, table in tables.items():
        if not isinstance(table, dict):
            wrong.append((_line(text, None, name), f"{name} is not a table; write [{name}]"))
            continue
        before = msgspec.to_builtins(rules[name]) if name in rules else {}
        try:
            rules[name] = msgspec.convert({**before, **table, "name": name}, Rule)
        except (msgspec.ValidationError, ConfigError) as error:
            said = str(error)
            field = re.search(r"`\$\.(\w+)|unknown field `(\w+)`|: (\w+) must", said)
            key = next(filter(None, field.groups()), None) if field else None
            about = "" if said.startswith(f"rule {name}:") else f"rule {name}: "
            wrong.append((_line(text, name, key), f"{about}{said}"))
    wrong += [
        (_line(text, name, "inhibits"), f"rule {name}: inhibits {other}, which is no rule")
        for name, rule in rules.items()
        for other in rule.inhibits
        if other not in rules
    ]
    if wrong:
        raise ConfigError("\n".join(f"{path}:{number}: {reason}" for number, reason in sorted(wrong)))
    return tuple(rules.values()), silences


def _silences(text: str, tables: Any, wrong: list[tuple[int, str]]) -> tuple[Silence, ...]:
    """The file's silences; adds what is wrong with them."""
    found = []
    headers = [
        number for number, line in enumerate(text.splitlines(), 1) if re.match(r"\s*\[\[\s*silences", line)
    ]
    if not isinstance(tables, list):
        wrong.append((_line(text, None, _SILENCES), "silences is not a list of tables; write [[silences]]"))
        return ()
    for i, table in enumerate(tables):
        try:
            found.append(msgspec.convert(table, Silence))
        except (msgspec.ValidationError, ConfigError) as error:
            said = str(error)
            number = headers[i] if i < len(headers) else 1
            wrong.append((number, said if said.startswith("silence:") else f"silence: {said}"))
    return tuple(found)


def _line(text: str, table: str | None, key: str | None) -> int:
    """Number of the line where a key of a table stands, or else the table's own."""
    inside, found = table is None, 0
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([^\]]+?)\s*\]", line):
            inside = header[1].strip("\"'") == table
            found = number if inside else found
        elif inside and key is not None and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    return found or 1
