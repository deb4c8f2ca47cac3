"""The ``kvstream`` application: its commands, and how errors become messages and exit codes."""

import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer

from kvstream.cli import (
    analyze,
    bench,
    convert,
    demo,
    generate,
    record,
    replay,
    report,
    rules,
    run,
    schemas,
    serve,
    top,
)
from kvstream.errors import KVStreamError

EXIT_ERROR = 1
# Typer shows its base of usage errors by no name of its own.
_UsageError: Any = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="kvstream",
    help="See every KV-cache block, every access: summaries and alerts from block event streams.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo", epilog=demo.EXAMPLES)(demo.demo_command)
app.command("run", epilog=run.EXAMPLES)(run.run_command)
app.command("analyze", epilog=analyze.EXAMPLES)(analyze.analyze_command)
app.command("serve", epilog=serve.EXAMPLES)(serve.serve_command)
app.command("report", epilog=report.EXAMPLES)(report.report_command)
app.command("top", epilog=top.EXAMPLES)(top.top_command)
app.command("record", epilog=record.EXAMPLES)(record.record_command)
app.command("replay", epilog=replay.EXAMPLES)(replay.replay_command)
app.command("convert", epilog=convert.EXAMPLES)(convert.convert_command)
app.command("generate", epilog=generate.EXAMPLES)(generate.generate_command)
app.command("bench", epilog=bench.EXAMPLES)(bench.bench_command)
app.add_typer(rules.app, name="rules")
app.add_typer(schemas.app, name="schemas")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"kvstream {version('kvstream')}")
        raise typer.Exit


@app.callback()
def _root(
    show: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


class _OneLine(logging.Formatter):
    """What went wrong in the background, without a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        return f"kvstream: {record.getMessage()}" + (f": {error}" if error is not None else "")


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("stamina").setLevel(logging.ERROR)  # that it tries again is no news


def run_app() -> int:
    """Runs the command line; returns the exit code."""
    _log_to_stderr()
    try:
        code = app(standalone_mode=False)
    except _UsageError as error:
        error.show()
        return EXIT_ERROR
    except typer.Abort:
        return 130
    except KVStreamError as error:
        return _fail(str(error))
    except BrokenPipeError:
        # The reader has left; pointing stdout elsewhere keeps the last flush at exit quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}")
    return int(code or 0)


def _fail(message: str) -> int:
    typer.echo(f"kvstream: {message}", err=True)
    return EXIT_ERROR
