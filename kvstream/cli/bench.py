"""``kvstream bench``: what each part costs, beside a plain per-event collector in the same run."""

from pathlib import Path
from typing import Annotated

import anyio
import msgspec
import typer
from rich.table import Table

from kvstream.bench.consumers import Consumers, measure_consumers
from kvstream.bench.growth import Growth, measure_endurance, measure_growth
from kvstream.bench.latency import Latency, measure_latency
from kvstream.bench.measure import Report, measure
from kvstream.bench.saving import Saving, measure_saving
from kvstream.cli.exit_codes import EXIT_ALERT
from kvstream.cli.messages import say
from kvstream.cli.options import TextResults
from kvstream.cli.render import console
from kvstream.cli.standard import write_document
from kvstream.cli.values import number
from kvstream.errors import ConfigError

EXAMPLES = """
[bold]Examples[/bold]

  kvstream bench                                 a table, about a minute

  kvstream bench --events 1000000 --json > now.json

  kvstream bench --compare before.json           exit code 3 if a part has become slower

  kvstream bench --scale                         what grows with blocks, and two consumers; 2 GB of memory

  kvstream bench --state                         what it costs to save the state; 4 GB of memory

  kvstream bench --long                          what grows with events, up to a hundred million of them

[bold]Columns[/bold]: ns/event is the median of the repeats, spread (slowest - fastest) / median; of 1 % and
of 100 % compare with a plain collector that follows this share of the blocks, within the same repeat.
"""


class BenchReport(msgspec.Struct, frozen=True):
    """The document that ``--json`` prints and ``--compare`` reads."""

    throughput: Report
    alert_latency_ms: Latency | None = None
    consumers: Consumers | None = None
    growth: list[Growth] = []
    saving: list[Saving] = []


def bench_command(
    *,
    events: Annotated[
        int,
        number("count", "--events", metavar="N", low=1000, help="Events in each repeat.", show_default=True),
    ] = 400_000,
    repeats: Annotated[
        int,
        number(
            "count",
            "--repeats",
            metavar="N",
            low=1,
            help="Repeats of each part; the median counts.",
            show_default=True,
        ),
    ] = 7,
    latency: Annotated[
        bool, typer.Option(help="Also measure how long alerts take at a million events a second.")
    ] = True,
    scale: Annotated[
        bool, typer.Option("--scale", help="Also measure up to ten million live blocks, and two consumers.")
    ] = False,
    long: Annotated[
        bool, typer.Option("--long", help="Also measure up to a hundred million events.")
    ] = False,
    state: Annotated[
        bool, typer.Option("--state", help="Also measure snapshots, of up to a thousand caches.")
    ] = False,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Compare with the JSON of an earlier run with the same number of events.",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        float,
        number(
            "number",
            "--tolerance",
            metavar="SHARE",
            low=0,
            help="By how much a part's cost may grow, relative to the plain collector's.",
            show_default=True,
        ),
    ] = 0.3,
    results: TextResults,
) -> int:
    """Measure recording, decoding, block state and whole streams on synthetic events."""
    before = _read(compare) if compare else None
    with console(stderr=True).status("measuring", spinner="line") as status:

        def show(part: str) -> None:
            status.update(f"measuring {part}")

        report = anyio.run(measure, events, repeats, show)
        show("alert latency")
        delays = anyio.run(measure_latency) if latency else None
        consumers = measure_consumers(show) if scale else None
        sizes = [*(measure_growth(show) if scale else ()), *(measure_endurance(show) if long else ())]
        saving = measure_saving(show) if state else []
    document = BenchReport(report, delays, consumers, sizes, saving)
    slower = _slower(before.throughput, report, tolerance) if before else {}
    if results.as_json():
        write_document(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")
    else:
        _print(document, before)
    for part, growth in slower.items():
        say(f"slower: {part} costs {growth:.2f} times what it did")
    return EXIT_ALERT if slower else 0


def _read(path: Path) -> BenchReport:
    document = path.read_bytes()
    try:
        return msgspec.json.decode(document, type=BenchReport)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not the JSON of kvstream bench: {error}") from error


def _growth(before: Report, now: Report) -> dict[str, float]:
    """Return how much the cost of each part has grown, relative to the plain collector at 100 %."""
    earlier = {result.part: result.of_plain for result in before.results}
    return {r.part: r.of_plain / earlier[r.part] for r in now.results if r.part in earlier}


def _slower(before: Report, now: Report, tolerance: float) -> dict[str, float]:
    if before.events != now.events:
        raise ConfigError(
            f"the earlier run had {before.events:,} events a repeat; give --events {before.events}"
        )
    return {part: growth for part, growth in _growth(before, now).items() if growth > 1 + tolerance}


def _print(document: BenchReport, before: BenchReport | None) -> None:
    report = document.throughput
    table = Table(title=f"{report.events:,} events, median of {report.repeats}")
    columns = ["part", "ns/event", "M events/s", "spread", "of 1 %", "of 100 %"]
    growth = _growth(before.throughput, report) if before else {}
    for name in [*columns, *(["before = 1"] if before else [])]:
        table.add_column(name, justify="left" if name == "part" else "right")
    for r in report.results:
        cells = [
            r.part,
            f"{r.ns_per_event:.1f}",
            f"{r.events_per_second / 1e6:.2f}",
            f"{r.spread:.0%}",
            f"{r.of_sampled:.2f}",
            f"{r.of_plain:.3f}",
        ]
        table.add_row(*cells, *([f"{growth[r.part]:.2f}" if r.part in growth else "new"] if before else []))
    screen = console()
    screen.print(table)
    if (delays := document.alert_latency_ms) is not None:
        screen.print(
            f"alert latency at {delays.offered_per_second / 1e6:.2f} M events/s: p50 {delays.p50:.1f} ms, "
            f"p99 {delays.p99:.1f} ms, worst {delays.worst:.1f} ms of {delays.alerts} alerts"
        )
    if (gain := document.consumers) is not None:
        screen.print(
            f"two sources end to end, of one consumer's {gain.ns_per_event:.1f} ns/event: two processes are "
            f"{gain.two_processes:.2f} times as fast, two consumers {gain.two_consumers:.2f} times"
        )
    if document.growth:
        grown = Table("what grows", "to", "ns/event", "of the smallest", title="growth")
        for at in document.growth:
            grown.add_row(at.what, f"{at.size:,}", f"{at.ns_per_event:.1f}", f"{at.of_smallest:.2f}")
        screen.print(grown)
    if document.saving:
        screen.print(_saving(document.saving))
    screen.print(", ".join(f"{key} {value}" for key, value in report.machine.items()), style="dim")


def _saving(saving: list[Saving]) -> Table:
    table = Table(title="snapshots")
    sizes, times = ["caches", "of blocks", "bytes each"], ["s", "cost s", "held ms"]
    for name in [*sizes, *times, "of savez", "every s", "meanwhile", "throughput"]:
        table.add_column(name, justify="right")
    for each in saving:
        table.add_row(
            f"{each.caches:,}",
            f"{each.blocks:,} {'content hashes' if each.content else 'slots'}",
            f"{each.bytes_per_cache:,}",
            f"{each.seconds:.2f}",
            f"{each.cost_seconds:.3f}",
            f"{each.held_seconds * 1e3:.1f}",
            f"{each.of_savez:.2f}",
            f"{each.interval_seconds:.0f}",
            f"{each.throughput_meanwhile:.2f}",
            f"{each.throughput:.3f}",
        )
    return table
