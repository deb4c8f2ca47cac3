"""What commands say on standard error: one line each, with nothing in it that a terminal acts on."""

import logging
import sys
from functools import cache, partial
from importlib import import_module
from typing import Annotated, Any, ClassVar

import typer

from kvstream.cli.groups import OptionGroup
from kvstream.cli.values import choice
from kvstream.events.types import Malformed
from kvstream.text.escape import for_terminal

_MALFORMED_SHOWN = 20
_COLORS = ("auto", "always", "never")


class Verbosity(OptionGroup, frozen=True):
    """How much a command says besides its results."""

    panel: ClassVar[str] = "Every command"

    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors besides the results.")] = (
        False
    )
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            help="Print more: each malformed piece, each retry.",
            show_default=False,
        ),
    ] = 0
    color: Annotated[
        str | None,
        choice(
            _COLORS,
            "--color",
            help="Colours in text; auto: on a terminal, unless $NO_COLOR.",
        ),
    ] = None


class _Chosen:
    """What the command line chose; of the process, as standard error is."""

    quiet = False
    verbose = 0
    color = "auto"


def choose(verbosity: Verbosity) -> None:
    """Say as much as is asked for from now on; what stands before and after a command's name adds up."""
    _Chosen.quiet |= verbosity.quiet
    _Chosen.verbose += verbosity.verbose
    choose_color(verbosity.color)
    level = logging.ERROR if _Chosen.quiet else (logging.WARNING, logging.INFO)[min(1, _Chosen.verbose)]
    logging.getLogger("kvstream").setLevel(logging.DEBUG if _Chosen.verbose > 1 else level)


def choose_color(wanted: Any) -> None:
    """Have text and help in colours from now on, or not; what is no choice changes nothing.

    Args:
        wanted: A value of ``--color``, not checked yet; None if there is none.
    """
    if wanted not in _COLORS or wanted == _Chosen.color:
        return
    _Chosen.color = wanted
    by_default = _help_console()
    consoles: dict[str, dict[str, Any]] = {
        "never": {"COLOR_SYSTEM": None, "FORCE_TERMINAL": None},
        "always": {
            "COLOR_SYSTEM": "standard",
            "FORCE_TERMINAL": True,
            "Console": partial(by_default["Console"], no_color=False),  # whatever $NO_COLOR is
        },
    }
    vars(import_module("typer.rich_utils")).update(by_default | consoles.get(wanted, {}))


@cache
def _help_console() -> dict[str, Any]:
    """Return how typer makes the console that it writes help to, as it is before any choice."""
    rich_utils = import_module("typer.rich_utils")
    return {name: getattr(rich_utils, name) for name in ("COLOR_SYSTEM", "FORCE_TERMINAL", "Console")}


def is_quiet() -> bool:
    """Return whether only what went wrong is said."""
    return _Chosen.quiet


def color() -> str:
    """Return whether text has colours: ``auto``, ``always`` or ``never``."""
    return _Chosen.color


def malformed_shown() -> float:
    """Return how many malformed pieces are shown one by one."""
    return float("inf") if _Chosen.verbose else 0 if _Chosen.quiet else _MALFORMED_SHOWN


def say(message: str) -> None:
    """Print a line on standard error.

    Args:
        message: The line; may hold text from outside.
    """
    print(for_terminal(message), file=sys.stderr)


def note(message: str) -> None:
    """Print a line on standard error that is no news of a failure, and so left out by ``--quiet``."""
    if not _Chosen.quiet:
        say(message)


class MalformedReport:
    """Says what of an input could not be decoded: the first pieces each, the others as a count.

    Attributes:
        count: Malformed pieces so far.
    """

    def __init__(self) -> None:
        self.count = 0

    def add(self, malformed: Malformed) -> None:
        """Count a piece, and print it if it is one of the first."""
        self.count += 1
        shown = malformed_shown()
        if self.count <= shown:
            say(f"malformed  {malformed}")
        if self.count == shown:
            say("malformed  further pieces are counted only; -v lists them all")

    def finish(self, where: str = "") -> None:
        """Print how many pieces were left out, if any were."""
        if self.count:
            say(f"kvstream: {self.count:,} malformed pieces{where and f' of {where}'} were left out")
