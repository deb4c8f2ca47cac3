"""The ``kvstream`` application: its commands, and how errors become messages and exit codes."""

import logging
import os
import re
import signal
import sys
import textwrap
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from shutil import get_terminal_size
from typing import Annotated, Any

import typer
from anyio.lowlevel import current_token

from kvstream.cli.command import Command, CommandGroup, Mistakes, UsageError, explain, lines_of
from kvstream.cli.completion import VARIABLE, begin_completion
from kvstream.cli.exit_codes import EXIT_ERROR, EXIT_SIGNAL, EXIT_USAGE
from kvstream.cli.groups import flat
from kvstream.cli.messages import Verbosity, choose, say
from kvstream.cli.standard import drop_standard_output
from kvstream.errors import KVStreamError
from kvstream.settings import VARIABLES
from kvstream.text.escape import for_terminal

# In the order of the help.
_COMMANDS = (
    *("demo", "run", "analyze", "serve", "report", "top", "record", "replay", "convert", "generate", "bench"),
    *(
        "fleet",
        "rules",
        "silence",
        "state",
        "mark",
        "dashboards",
        "config",
        "doctor",
        "completion",
        "schemas",
    ),
)


class _Commands(CommandGroup):
    """Commands that are loaded when they are asked for: no start waits for what only others need."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        # An unknown name is compared with all of them.
        for name in [cmd_name] if cmd_name in _COMMANDS else _COMMANDS:
            if name not in self.commands:
                self.add_command(command_named(name), name)
        return super().get_command(ctx, cmd_name)


@cache
def command_named(name: str) -> Any:
    """Return a command, the same one each time.

    Its module is loaded for it, and has a group ``app`` or a function ``NAME_command``.
    """
    module = import_module(f"kvstream.cli.{name}")
    only = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    if hasattr(module, "app"):
        only.add_typer(module.app, name=name, cls=CommandGroup)
        commands = module.app.registered_commands
    else:
        only.command(name, epilog=module.EXAMPLES)(getattr(module, f"{name}_command"))
        commands = only.registered_commands
    for each in commands:
        each.cls, each.callback = Command, flat(each.callback, Verbosity, choose)
    command = typer.main.get_group(only).commands[name]
    for each in (command, *getattr(command, "commands", {}).values()):
        each.epilog = _fitted(each.epilog or "", get_terminal_size().columns - 2)
    return command


def _fitted(epilog: str, width: int) -> str:
    """Return examples, with what each of them does below it if there is no room beside it."""
    room = max(_NARROWEST, width - 6)
    return "\n\n".join(
        example
        if max(map(len, example.splitlines()), default=0) < width
        else re.sub(
            r"(\S) {3,}(\S.*)",
            lambda found: found[1] + "\n" + textwrap.indent(textwrap.fill(found[2], room), "      "),
            re.sub(r"\n *", " ", example),
        )
        for example in epilog.split("\n\n")
    )


_ENVIRONMENT = "\n\n".join(
    [
        "[bold]Environment[/bold]",
        *(f"  ${name}: {what}" for name, what in VARIABLES.items()),
        "  $KVSTREAM_CAPACITY=16Ki, and so each setting that kvstream config show prints",
    ]
)

app = typer.Typer(
    name="kvstream",
    cls=_Commands,
    help="See every KV-cache block, every access: summaries and alerts from block event streams.",
    epilog=_ENVIRONMENT,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from kvstream._core.build import CORE
        from kvstream.version import __version__

        typer.echo(f"kvstream {__version__} (core: {CORE})")
        raise typer.Exit


def _root(
    show: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.callback()(flat(_root, Verbosity, choose))

_NARROWEST = 10  # columns of an explanation
_AGAIN_SECONDS = 0.05  # until a signal that was lost is sent again


class _OneLine(logging.Formatter):
    """What went wrong in the background, in one line and without a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        text = f"kvstream: {record.getMessage()}" + (f": {error}" if error is not None else "")
        return for_terminal(text)


def _contain_background_errors() -> None:
    """Give errors that reach no command one line each on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.raiseExceptions = False
    logging.getLogger("apprise").propagate = False  # what it logs, the error of its handler says
    for name in ("opentelemetry.exporter", "opentelemetry.sdk._logs"):  # likewise
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = _note_unraisable
    if not sys.warnoptions and not _wants_traceback():
        warnings.simplefilter("ignore")  # they are for programmers
    if not _wants_traceback():
        threading.excepthook = lambda ended: say(f"kvstream: a thread has ended: {_name(ended.exc_value)}")


def _note_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Send a signal again that came where nothing can be raised, such as a weak reference's callback.

    Other errors there are a second report of what a command has failed of.
    """
    if isinstance(unraisable.exc_value, KeyboardInterrupt | SystemExit):
        is_interrupt = isinstance(unraisable.exc_value, KeyboardInterrupt)
        number = signal.SIGINT if is_interrupt else signal.SIGTERM
        threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number)).start()
    elif _wants_traceback():
        sys.__unraisablehook__(unraisable)


def _wants_traceback() -> bool:
    return bool(os.environ.get("KVSTREAM_TRACEBACK"))


def _exit_at(number: int, _: object) -> None:
    """Exit so that nothing is left half-written where a command does not drain by itself.

    An event loop does so between two steps of its tasks. In the middle of one, a worker thread may just have
    begun, of which nobody would see to the end: the process would wait for it for ever.
    """
    try:
        loop: Any = current_token().native_token  # asyncio's, as anyio.run has it
    except RuntimeError:
        sys.exit(EXIT_SIGNAL + number)
    loop.call_soon_threadsafe(sys.exit, EXIT_SIGNAL + number)


def run_app() -> int:
    """Run the command line; return the exit code.

    Whatever is raised becomes one line on standard error. With ``KVSTREAM_TRACEBACK=1`` the traceback is
    printed, too.
    """
    _contain_background_errors()
    if VARIABLE in os.environ:
        begin_completion()
    signal.signal(signal.SIGTERM, _exit_at)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, _exit_at)
    try:
        code = int(app(standalone_mode=False, prog_name="kvstream") or 0)
        sys.stdout.flush()
    except BaseException as error:
        code = _report(error)
    try:
        sys.stdout.flush()
    except OSError:
        drop_standard_output()
    return code


def _report(error: BaseException) -> int:
    """Say what has ended the command; return the exit code."""
    if _wants_traceback():
        traceback.print_exception(error)
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
        error = error.__context__  # typer makes it an exit with 1
    causes = list(_leaves(error))
    stops = [cause for cause in causes if isinstance(cause, SystemExit)]
    if any(isinstance(each, KeyboardInterrupt | typer.Abort) for c in causes for each in (c, c.__cause__)):
        return EXIT_SIGNAL + signal.SIGINT
    if stops:
        return stops[0].code if isinstance(stops[0].code, int) else EXIT_ERROR
    if all(isinstance(cause, BrokenPipeError) for cause in causes):
        return 0  # whoever read our output has left
    if isinstance(error, UsageError):
        return _report_usage(error)
    # Of several, the one that was raised with a person in mind.
    cause = min(causes, key=lambda cause: not isinstance(cause, KVStreamError))
    for line in _lines(cause):
        say(f"kvstream: {line}")
    return EXIT_ERROR


def _report_usage(error: Any) -> int:
    if type(error).__name__ != "NoArgsIsHelpError":  # its help is on the screen
        lines = error.lines if isinstance(error, Mistakes) else [_explain(error)]
        for line in lines:
            say(f"kvstream: {line}")
        say(f"kvstream: '{error.ctx.command_path} --help' lists what it takes")
    return EXIT_USAGE


def _explain(error: Any) -> str:
    """Return what is wrong where no command was found."""
    unknown = re.match(r"No such command '(.*?)'\.(?: Did you mean (.*)\?)?", error.format_message())
    if unknown is None:
        return explain(error, error.ctx.command)
    name, close = unknown[1], (unknown[2] or "").replace("'", "")
    if error.ctx.parent is None and (os.path.exists(name) or "://" in name):
        close = f"kvstream run {name}"
    return f"no such command {name}" + (f"; did you mean {close}?" if close else "")


def _lines(error: BaseException) -> Sequence[str]:
    match error:
        case KVStreamError() | OSError():
            return lines_of(error)
        case MemoryError():
            return ["out of memory"]
    return [f"unexpected error: {_name(error)}; KVSTREAM_TRACEBACK=1 shows where"]


def _name(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Return the errors that a group is of, however deep."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
