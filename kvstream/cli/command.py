"""Commands that say all that is wrong with a command line at once, each with what to write instead."""

import os
import re
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, Self, TypeVar, cast

import typer
from typer.core import TyperCommand, TyperGroup

from kvstream.cli.messages import choose_color
from kvstream.errors import ConfigError, KVStreamError
from kvstream.faults.interrupt import raise_at_interrupt
from kvstream.settings import misspelt_variables
from kvstream.text.suggest import closest

UsageError: type[Any] = typer.BadParameter.__bases__[0]
"""Typer's base of usage errors, which it shows by no name of its own."""

_AS_VALUE = "secrets are never given as values, which others can see: "
_DETAIL = re.compile(r".*Detail: \[errno \d+\] ", re.DOTALL)
"""What pyarrow says before the system's own words."""
_INSTEAD = {
    "--min-level": "--min-severity",
    "--level": "--min-severity",
    "--severity": "--min-severity",
    "--blocks": "--capacity",
    "--size": "--capacity",
    "--port": "--http",
    "--bind": "--listen",
    "--input": "--from",
    "--engine-url": "--from",
    "--format": "--output",
    "--interval": "--summary-every",
}
_SECRETS = {
    "--token": f"{_AS_VALUE}use --token-file FILE or $KVSTREAM_TOKEN",
    "--password": f"{_AS_VALUE}use --token-file FILE or $KVSTREAM_TOKEN",
    "--secret": f"{_AS_VALUE}use --webhook-secret-file FILE or $KVSTREAM_WEBHOOK_SECRET",
    "--webhook-secret": f"{_AS_VALUE}use --webhook-secret-file FILE or $KVSTREAM_WEBHOOK_SECRET",
}
_MAY_BE_EMPTY = ("source", "tier", "rule", "reason", "text")  # names and text, which may be
T = TypeVar("T")
P = ParamSpec("P")


class Mistakes(UsageError):  # type: ignore[misc]  # noqa: N818
    """Raised for a command line with mistakes.

    Attributes:
        lines: What is wrong, a line for each.
    """

    def __init__(self, lines: Sequence[str], ctx: Any) -> None:
        super().__init__("\n".join(lines), ctx)
        self.lines = lines


class Command(TyperCommand):
    """A command that looks at its whole command line before it refuses it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse a command line.

        Raises:
            Mistakes: If anything is wrong with it.
            ConfigError: If something is wrong with a file that it names.
        """
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        mistakes: list[str] = []
        elsewhere: list[str] = []
        rest = [*args]
        while True:
            try:
                opts, left, _ = self.make_parser(ctx).parse_args(args=[*rest])
                break
            except UsageError as error:
                mistakes.append(explain(error, self))
                rest = _without(getattr(error, "option_name", None), rest, self)
        choose_color(opts.get("color"))  # also where it stands after --help
        for param in sorted(self.get_params(ctx), key=lambda param: not param.is_eager):
            if param.name not in _MAY_BE_EMPTY and _is_empty(opts.get(str(param.name))):
                mistakes.append(f"{_called(param)}: it is empty; is a variable of the shell not set?")
                continue
            try:
                _, left = param.handle_parse_result(ctx, opts, left)
            except UsageError as error:
                if not (mistakes and type(error).__name__ == "MissingParameter"):  # may be what was removed
                    mistakes.append(explain(error, self))
            except BrokenPipeError:  # whoever read the help has left
                raise
            except (KVStreamError, OSError) as error:  # of a file that an option names
                elsewhere += lines_of(error)
        if left:
            mistakes.append(f"unexpected: {' '.join(left)}")
        if mistakes:
            raise Mistakes([*mistakes, *elsewhere], ctx)
        if elsewhere:
            raise ConfigError(*elsewhere)
        ctx.args = left
        return left

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            ConfigError: If a variable of the environment is misspelt.
        """
        if lines := misspelt_variables(os.environ):
            raise ConfigError(*lines)
        raise_at_interrupt()  # all is loaded, and what has begun may have to be ended in order
        return super().invoke(ctx)


class CommandGroup(TyperGroup):
    """A group of commands; mistakes in its own options name it, too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse a command line up to the name of a command."""
        try:
            opts, _, _ = self.make_parser(ctx).parse_args(args=[*args])
            choose_color(opts.get("color"))  # also where it stands after --help
            return super().parse_args(ctx, args)
        except UsageError as error:
            error.ctx = error.ctx or ctx
            raise


def explain(error: Any, command: Any) -> str:
    """Return what is wrong with a command line, in one line."""
    kind, name = type(error).__name__, str(getattr(error, "option_name", ""))
    if kind == "NoSuchOption":
        if name in _SECRETS:
            return f"no such option {name}: {_SECRETS[name]}"
        known = _options_of(command)
        instead = _INSTEAD.get(name)
        close = instead if instead in known else closest(name, known)
        if close is None:
            return f"no such option {name}"
        param = known[close]
        value = f" {param.metavar}" if param.metavar and not getattr(param, "is_flag", False) else ""
        return f"no such option {name}; did you mean {close}{value}?"
    param = getattr(error, "param", None)
    if kind == "BadOptionUsage":
        metavar = getattr(_options_of(command).get(name), "metavar", None)
        return f"{name} needs a value: {name} {metavar}" if metavar else error.format_message()
    if param is None:
        hint = getattr(error, "param_hint", None)
        return f"{hint}: {error.message}" if hint else str(error.format_message())
    called = _called(param)
    if kind == "MissingParameter":
        return f"{called} is missing: {param.help}"
    return f"{called}: {in_own_words(error)}"


def _called(param: Any) -> str:
    """Return the name of a parameter, as the help shows it."""
    return str(param.opts[0] if param.param_type_name == "option" else param.metavar or param.name.upper())


def _is_empty(given: Any) -> bool:
    """Return whether a value of the command line, or one of several, is an empty text."""
    return any(value == "" for value in (given if isinstance(given, list | tuple) else (given,)))


def _options_of(command: Any) -> dict[str, Any]:
    return {opt: param for param in command.params for opt in param.opts}


def in_own_words(error: Any) -> str:
    """Return what is wrong with a value, without what pydantic says before it."""
    return str(error.message).removeprefix("Value error, ")


class Attempts:
    """Steps that are taken all before what has failed of them is raised; use as a context manager.

    Example:
        >>> with Attempts() as attempt:
        ...     three = attempt(int, "3")
        >>> three
        3

    Raises:
        ConfigError: At the end, if several steps failed; a line for each mistake.
        Exception: At the end, of the step that failed, if one did.
    """

    def __init__(self) -> None:
        self._failed: list[KVStreamError | OSError] = []

    def __call__(self, step: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Return the result of a step; None if it fails, which ends the block later."""
        try:
            return step(*args, **options)
        except (KVStreamError, OSError) as error:
            self._failed.append(error)
            return cast("T", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None or not self._failed:
            return
        if len(self._failed) == 1:
            raise self._failed[0]
        raise ConfigError(*(line for error in self._failed for line in lines_of(error)))


def lines_of(error: BaseException) -> Sequence[str]:
    """Return what an error that was raised with a person in mind says, a line for each mistake."""
    match error:
        case ConfigError():
            return error.lines
        case OSError():
            where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
            said = _DETAIL.sub("", str(error.strerror or error))
            return [f"{where}{said}"]
    return [str(error)]


def _without(name: str | None, args: list[str], command: Any) -> list[str]:
    """Return a command line without an option that cannot be used, and without its likely value."""
    for place, arg in enumerate(args):
        if name is not None and (arg == name or arg.startswith(f"{name}=")):
            known = _options_of(command)
            meant = _INSTEAD.get(name) or closest(name, known) or ""
            takes_value = not getattr(
                known.get(meant), "is_flag", meant not in known and name not in _SECRETS
            )
            has_value = arg == name and takes_value and place + 1 < len(args) and args[place + 1][:1] != "-"
            return args[:place] + args[place + 1 + has_value :]
    short = next((arg for arg in args if arg[:1] == "-" and arg[:2] != "--" and len(arg) > 1), None)
    return [arg for arg in args if arg is not short] if short is not None else []
