"""``kvstream mark``: note a moment, such as a deploy, on the charts of a running server."""

import datetime
from types import NoneType
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from kvstream.cli.options import Results
from kvstream.cli.server_client import Server
from kvstream.cli.standard import write_document, write_lines
from kvstream.cli.values import time
from kvstream.errors import ConfigError
from kvstream.metrics.marks import Mark
from kvstream.text.escape import for_terminal

EXAMPLES = """
[bold]Examples[/bold]

  kvstream mark "vLLM 0.33"                                      now, for all sources

  kvstream mark "more memory" --source 'vllm-*' --at 2027-01-01T06:00:00Z

  kvstream mark                                                  lists the marks

  kvstream mark --remove 5f2c61d0a9b3e874
"""


class _Listed(msgspec.Struct):
    """What ``/api/marks`` answers."""

    marks: list[Mark]


def mark_command(
    text: Annotated[
        str | None, typer.Argument(help="What happened; without it, marks are listed.", show_default=False)
    ] = None,
    *,
    at: Annotated[
        str | None, time("--at", help="When, such as 2027-01-01T06:00:00Z; now by default.")
    ] = None,
    source: Annotated[
        str, typer.Option(metavar="PATTERN", help="Sources that it concerns, as a shell pattern.")
    ] = "*",
    remove: Annotated[
        str | None, typer.Option(metavar="ID", help="Remove a mark.", show_default=False)
    ] = None,
    server: Server,
    results: Results,
) -> None:
    """Mark a moment, such as a deploy, in the charts of a running kvstream serve; or list the marks."""
    if remove is not None:
        if text is not None:
            raise ConfigError("--remove takes a mark away, and a text adds one: do one at a time")
        server.ask("DELETE", f"/api/marks/{quote(remove, safe='')}", NoneType)
        return
    if text is None:
        _show(server.ask("GET", "/api/marks", _Listed).marks, results)
        return
    asked: dict[str, Any] = {"text": text, "source": source}
    if at is not None:
        asked["time"] = at
    _show([server.ask("POST", "/api/marks", Mark, asked)], results)


def _show(marks: list[Mark], results: Results) -> None:
    if results.as_lines:
        write_lines(marks)
        return
    lines = []
    for mark in marks:
        time = datetime.datetime.fromtimestamp(mark.timestamp, datetime.UTC)
        lines.append(f"{mark.id}  {time:%Y-%m-%dT%H:%M:%SZ}  {mark.source}  {mark.text}")
    write_document("".join(for_terminal(line) + "\n" for line in lines or ["there are no marks"]))
