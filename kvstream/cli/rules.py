"""``kvstream rules``: what the rules are, whether a file of them is right, when they would have fired."""

import math
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from kvstream.alerts.labelled import labelled_scores
from kvstream.alerts.rules_file import builtin_text, default_rules, load_rules
from kvstream.alerts.silences import Silences
from kvstream.alerts.types import CacheAlert
from kvstream.cli.chosen_rules import RuleFiles
from kvstream.cli.command import Attempts
from kvstream.cli.json_lines import JsonLines
from kvstream.cli.options import CacheOptions, Results, TraceOptions
from kvstream.cli.recordings import read_recordings, recordings
from kvstream.cli.render import alert_line, console
from kvstream.cli.standard import write_document
from kvstream.engine.monitor import Monitor
from kvstream.engine.recorded import RecordedTime
from kvstream.events.frame import EventFrame
from kvstream.sinks.output_file import refuse_inputs
from kvstream.text.escape import for_terminal

EXAMPLES = """
[bold]Examples[/bold]

  kvstream rules list > my-rules.toml

  kvstream rules check my-rules.toml

  kvstream rules test my-rules.toml --on day.kvlog --capacity 16384

  kvstream rules test my-rules.toml --on day.kvlog --labels incidents.jsonl    found, missed, false alerts
"""

app = typer.Typer(help="List, check and test alert rules.", no_args_is_help=True, epilog=EXAMPLES)

RulesArgument = Annotated[Path, typer.Argument(metavar="FILE.toml", help="Changes to the built-in rules.")]


@app.command("list")
def list_rules() -> None:
    """Print the built-in rules as TOML, each with its reason and what to do."""
    write_document(builtin_text())


@app.command("check")
def check_rules(file: RulesArgument) -> None:
    """Show what a file of rules changes, or list its mistakes by line."""
    base = {rule.name: rule for rule in default_rules()}
    rules, silences = load_rules(file, tuple(base.values()))
    new = [rule.name for rule in rules if rule.name not in base]
    changed = [rule.name for rule in rules if rule.enabled and base.get(rule.name, rule) != rule]
    off = [rule.name for rule in rules if not rule.enabled and base.get(rule.name, rule) != rule]
    differences = {"changed": changed, "new": new, "off": off}
    parts = [f"{len(names)} {what} ({', '.join(names)})" for what, names in differences.items() if names]
    if silences:
        parts.append(f"{len(silences)} silence{'s' * (len(silences) > 1)}")
    print(for_terminal(f"{file}: {len(rules)} rules" + "".join(f", {part}" for part in parts)))


@app.command("test")
def try_rules(
    file: RulesArgument,
    *,
    on: Annotated[list[str], typer.Option(metavar="LOG", help="A recording; can be given again.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="LABELS.jsonl",
            help='Incidents in it, a line each, to score the rules by: {"source", "from", "until"?, "tier"?, '
            '"kind"?}; times are ISO or seconds since the first event.',
            show_default=False,
        ),
    ] = None,
    cache: CacheOptions,
    traces: TraceOptions,
    results: Results,
) -> None:
    """Replay recordings and show when each rule would have fired and resolved; with --labels, score them."""
    with Attempts() as attempt:
        inputs = attempt(recordings, on, "rules are tried on files")
        metrics = attempt(cache.metrics)
        chosen = attempt(RuleFiles(cache.config, file).read)
    refuse_inputs(sys.stdout.fileno(), [*on, *([str(labels)] if labels is not None else [])])
    monitor = Monitor(metrics, chosen.rules, Silences(chosen.silences))
    time = RecordedTime(monitor)
    alerts: list[CacheAlert] = []
    span = _Span()

    def take(frame: EventFrame) -> None:
        span.add(frame)
        alerts.extend(time.reach([frame]))
        alerts.extend(monitor.process(frame).alerts)

    read_recordings(inputs, traces.reading(metrics.capacity), take, time.input_ended)
    alerts += [*time.end(), *monitor.finish()]
    scores = None if labels is None else labelled_scores(alerts, labels, span.start, span.end, span.sources)
    if results.as_lines:
        lines = JsonLines(sys.stdout.buffer)
        for alert in alerts:
            lines.show(alert)
        if scores is not None:
            write_document(msgspec.json.encode(scores).decode() + "\n")
        return
    screen = console()
    for alert in alerts:
        screen.print(alert_line(alert))
    fired = Counter(rule for rule, _ in {(alert.rule, alert.incident) for alert in alerts})
    for rule in monitor.rules:
        times = fired[rule.name]
        state = f"fired {times} time{'s' * (times != 1)}" if rule.enabled else "off"
        screen.print(Text(f"  {for_terminal(rule.name):20} {state}"))
    for line in scores.lines() if scores is not None else ():
        screen.print(Text(for_terminal(line)))


class _Span:
    """The begin, the end and the sources of a recording."""

    def __init__(self) -> None:
        self.start, self.end = math.inf, -math.inf
        self.sources: set[str] = set()

    def add(self, frame: EventFrame) -> None:
        self.sources.add(frame.source)
        if len(frame):
            self.start = min(self.start, int(frame.ts.min()) / 1e9)
            self.end = max(self.end, int(frame.ts.max()) / 1e9)
