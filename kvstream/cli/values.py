"""Values of options as people type them, each with words of its own for what cannot be one."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal

import typer

from kvstream.alerts.types import AlertLevel
from kvstream.text.quantities import duration_in_seconds, real_number, size_in_bytes, whole_number
from kvstream.text.suggest import did_you_mean

_PARSERS: dict[str, Callable[[str], float]] = {
    "count": whole_number,
    "bytes": size_in_bytes,
    "duration": duration_in_seconds,
    "number": real_number,
}
_SHORT = {"warn": "warning", "crit": "critical"}


def number(
    kind: Literal["count", "bytes", "duration", "number"],
    *names: str,
    metavar: str,
    help: str,  # noqa: A002
    low: float | None = None,
    high: float | None = None,
    show_default: bool | str = False,
) -> Any:
    """Return an option that takes a number with a unit: ``10k``, ``100MiB``, ``5m``.

    Args:
        kind: What the number is, and so its units; a duration becomes seconds.
        names: As typer has them.
        metavar: What stands for the value in the help.
        help: What the option is for.
        low: The lowest number.
        high: The highest.
        show_default: What the help shows as the default.
    """

    def parse(value: Any) -> Any:
        if not isinstance(value, str):  # the default
            return value
        try:
            found = _PARSERS[kind](value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        if low is not None and found < low:
            raise typer.BadParameter(f"{value!r} is below {low:,.15g}")
        if high is not None and found > high:
            raise typer.BadParameter(f"{value!r} is above {high:,.15g}")
        return found

    return typer.Option(*names, parser=parse, metavar=metavar, help=help, show_default=show_default)


def time(*names: str, help: str) -> Any:  # noqa: A002
    """Return an option that takes a time with a zone, ``2027-01-01T06:00:00Z``."""

    def parse(value: str) -> str:
        try:
            if datetime.fromisoformat(value).tzinfo is not None:
                return value
        except ValueError:
            pass
        raise typer.BadParameter(f"{value!r} is no time such as 2027-01-01T06:00:00Z")

    return typer.Option(*names, parser=parse, metavar="TIME", help=help, show_default=False)


def choice(
    words: Sequence[str],
    *names: str,
    help: str,  # noqa: A002
    show_default: bool | str = False,
) -> Any:
    """Return an option that takes one of some words."""
    return typer.Option(
        *names,
        parser=_one_of(words),
        metavar="|".join(words),
        help=help,
        show_default=show_default,
        autocompletion=lambda: list(words),
    )


def chosen(words: Sequence[str], *, metavar: str, help: str) -> Any:  # noqa: A002
    """Return an argument that takes one of some words."""
    return typer.Argument(
        parser=_one_of(words), metavar=metavar, help=help, autocompletion=lambda: list(words)
    )


def severity(*names: str, help: str) -> Any:  # noqa: A002
    """Return an option that takes a severity; ``warn`` is short for one."""
    words = [level.value for level in AlertLevel]
    parse = _one_of(words, _SHORT)
    return typer.Option(
        *names,
        parser=lambda value: value if isinstance(value, AlertLevel) else AlertLevel(parse(value)),
        metavar="|".join(words),
        help=help,
        show_default=False,
        autocompletion=lambda: words,
    )


def _one_of(words: Sequence[str], short: dict[str, str] | None = None) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        word = str(value).lower()
        word = (short or {}).get(word, word)
        if word in words:
            return word
        listed = f"{', '.join(words[:-1])} or {words[-1]}"
        raise typer.BadParameter(f"{value!r} is not {listed}{did_you_mean(word, (*words, *(short or ())))}")

    return parse
