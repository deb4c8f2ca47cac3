"""TOML files in which all that is wrong is found at once, each with its line and the likely right word."""

import os
import re
from collections.abc import Callable
from enum import StrEnum
from types import UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin

import msgspec

from kvstream.errors import ConfigError
from kvstream.text.quantities import duration_in_seconds, is_duration, whole_number
from kvstream.text.suggest import did_you_mean

Complain = Callable[[str, str], None]
"""Takes the name of a field and what is wrong with it."""


class TomlFile:
    """A TOML file, and what is wrong with it.

    Args:
        path: The file.
        lines: Its lines.
        tables: What it holds.

    Attributes:
        path: The file.
        tables: What it holds.
    """

    def __init__(self, path: str | os.PathLike[str], lines: list[str], tables: dict[str, Any]) -> None:
        self.path, self.tables = path, tables
        self._lines = lines
        self._wrong: list[tuple[int, str]] = []

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file.

        Raises:
            ConfigError: If it cannot be read, or is no TOML.
        """
        import tomllib  # only who has a file pays for it

        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}") from error
        except UnicodeDecodeError:
            raise ConfigError(f"{path} is not valid UTF-8 text") from None
        lines = text.splitlines()
        try:
            tables = tomllib.loads(text)
            repr(tables)  # as complaints show values: of too many digits, Python shows none
        except tomllib.TOMLDecodeError as error:
            what, _, where = str(error).rpartition(" (at ")
            number = re.match(r"line (\d+)", where)
            line = int(number[1]) if number else len(lines)
            raise ConfigError(f"{path}:{line}: no valid TOML: {what}") from None
        except RecursionError:
            raise ConfigError(f"{path}: no TOML that can be read: too many brackets in each other") from None
        except ValueError:  # of thousands of digits
            raise ConfigError(f"{path}: no TOML that can be read: a number of too many digits") from None
        return cls(path, lines, tables)

    def complain(self, table: str | None, key: str | None, what: str, place: int = 0) -> None:
        """Record a mistake in a key of a table, in a table of a list at a ``place``, or in the whole file."""
        self._wrong.append((self.line(table, key, place), what))

    @property
    def count(self) -> int:
        """Return how many complaints there are."""
        return len(self._wrong)

    @property
    def complaints(self) -> list[str]:
        """Return what is wrong, by line, each with the file and the line."""
        return [f"{self.path}:{line}: {what}" for line, what in sorted(self._wrong)]

    def check(self) -> None:
        """Raise an error with all complaints, if there are any.

        Raises:
            ConfigError: If there are any; a line for each.
        """
        if self._wrong:
            raise ConfigError(*self.complaints)

    def line(self, table: str | None, key: str | None, place: int = 0) -> int:
        """Return the number of the line where a key of a table stands, or else the table's own."""
        table = table or None
        inside, found, in_table = table is None, 0, 0
        for number, line in enumerate(self._lines, 1):
            if header := re.match(r"\s*\[\[?([^\]]+)\]", line):
                name = header[1].strip().replace('"', "").replace("'", "")
                is_ours = name == table or (table is not None and name.startswith(f"{table}."))
                in_table += name == table
                inside = is_ours and (in_table == place + 1 or in_table == place == 0)
                found = number if inside and not found else found
                if key is not None and name == (f"{table}.{key}" if table else key):
                    return number
            elif inside and key is not None and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line):
                return number
        return found or 1


def struct_fields(
    table: dict[str, Any], kind: type[msgspec.Struct], complain: Complain, noun: str = "field"
) -> dict[str, Any]:
    """Return the fields of a table as a type has them; report unknown ones and those of a wrong type.

    Args:
        table: Values by name.
        kind: The type that has the fields.
        complain: Is given each field that cannot be used.
        noun: What a field is called.
    """
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    values = {}
    for name, value in table.items():
        field = fields.get(name)
        if field is None:
            complain(name, f"unknown {noun} {name}{did_you_mean(name, fields)}")
            continue
        try:
            values[name] = msgspec.convert(value, field.type)
        except (msgspec.ValidationError, ConfigError) as error:
            complain(name, _what_is_wrong(name, value, field.type, str(error)))
    return values


def _what_is_wrong(name: str, value: Any, kind: Any, error: str) -> str:
    if isinstance(value, str) and (choices := _choices(kind)):
        known = did_you_mean(value, choices) or f"; it is one of {', '.join(choices)}"
        return f"{name} {value} is not known{known}"
    struct = next((each for each in _parts(kind) if _is_struct(each)), None)
    if isinstance(value, dict) and struct is not None:
        fields = struct.__struct_fields__
        unknown = [f"unknown field {key}{did_you_mean(key, fields)}" for key in value if key not in fields]
        return f"{name}: {'; '.join(unknown) or error}"
    words = " or ".join(dict.fromkeys(filter(None, map(_in_words, _parts(kind)))))
    if not words or not error.startswith("Expected"):
        return f"{name}: {error}"
    return f"{name} must be {words}, not {value!r}{_written(name, value, kind)}"


def _written(name: str, value: Any, kind: Any) -> str:
    """Return how a number is written that was given as text with a unit; empty if it is none."""
    parts = _parts(kind)
    if not isinstance(value, str) or not {int, float} & set(parts):
        return ""
    is_time = is_duration(name)
    try:
        number = duration_in_seconds(value) if is_time else whole_number(value)
    except ValueError:
        return ""
    return f"; write {number:.15g}{' (seconds)' if is_time else ''}"


def _in_words(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if kind in words:
        return words[kind]
    if choices := _choices(kind):
        return f"one of {', '.join(choices)}"
    if get_origin(kind) in (list, tuple):
        return "a list"
    return "a table" if _is_struct(kind) else ""


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _parts(kind: Any) -> list[Any]:
    """Return the types that a union has, None left out; or the type alone."""
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else [kind]
    return [part for part in parts if part is not type(None)]


def _choices(kind: Any) -> list[str]:
    """Return the texts that a type allows, if it is a choice of some."""
    for part in _parts(kind):
        if isinstance(part, type) and issubclass(part, StrEnum):
            return [member.value for member in part]
        if get_origin(part) is Literal:
            return [each for each in get_args(part) if isinstance(each, str)]
    return []
