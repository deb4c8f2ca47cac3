"""One table of hostile names over every output: as source, tier, label and file name."""

import csv
import html.parser
import io
import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet
import pytest
from rich.console import Console

from kvstream import EventFrame, MetricsConfig
from kvstream.alerts.types import AlertLevel, CacheAlert, MetricType
from kvstream.cli import analyze, messages, render, top_view
from kvstream.cli.json_lines import JsonLines
from kvstream.errors import MalformedInputError
from kvstream.events.types import Labels, Malformed, Op, checked_name
from kvstream.reports.html import to_html
from kvstream.reports.incidents import open_incidents
from kvstream.reports.markdown import to_markdown
from kvstream.reports.overview import CacheNow, State
from kvstream.reports.report import ReportBuilder
from kvstream.sinks.eviction_table import eviction_table
from kvstream.sinks.output_file import refuse_inputs
from kvstream.text.escape import for_csv, for_terminal, for_unicode
from tests.text.test_escape import HOSTILE_NAMES, names

CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e]")


def label_of(name):
    """The name as a label, or another one where it is no name."""
    try:
        return checked_name(name)
    except MalformedInputError:
        return "no name"


def frame_of(name):
    """Allocations and evictions of which the first half is of one tenant, never used, the rest of none."""
    n = 400
    ops = np.where(np.arange(n) < n // 2, Op.ALLOC, Op.EVICT).astype(np.uint8)
    ops[10:100] = Op.ACCESS
    blocks = np.arange(n) % (n // 2)
    blocks[10:100] = 5
    rows = (np.arange(n) < 200).astype(np.uint16)
    return EventFrame(
        ops,
        blocks,
        np.arange(n) * 10**7 + 10**18,
        name,
        name,
        labels=(Labels(tenant=label_of(name)),),
        label_of=rows,
    )


def reported(name):
    builder = ReportBuilder(MetricsConfig(capacity=200))
    builder.process(frame_of(name))
    return builder.finish([name], malformed=1)


def alert_of(name):
    return msgspec.convert(
        {
            "rule": name,
            "level": AlertLevel.WARNING,
            "state": "firing",
            "source": name,
            "tier": name,
            "message": f"tenant {name}",
            "hint": name,
            "timestamp": 1e9,
            "started_at": 1e9,
            "metric": next(iter(MetricType)),
            "value": 0.5,
            "threshold": 0.5,
            "fingerprint": "0" * 16,
        },
        CacheAlert,
    )


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, [key for key, _ in attrs]))


@names
def test_a_terminal_shows_the_name_escaped(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "30000")
    screen = render.console()
    report = reported(name)
    summary = report.caches[0].analysis.summary
    with render.Terminal(None, screen) as terminal:
        terminal.show(alert_of(name))
        terminal.show(Malformed(name, "line", 1, name))
        terminal.show(msgspec.structs.replace(summary, final=True))
    analyze.print_analysis(screen, report.caches[0].analysis)
    shown = capsys.readouterr().out
    assert CONTROLS.search(shown) is None
    # An alert, a malformed piece, two summaries with a label each where it is one, a heading.
    assert shown.count(for_terminal(name)) >= (10 if label_of(name) == name else 8)


@names
def test_the_screen_of_top_shows_the_name_escaped(name):
    report = reported(name)
    now = CacheNow(source=name, tier=name, blocks=1, hit_ratio=0.5, level=AlertLevel.WARNING, rule=name)
    state = State(
        now=1e9,
        caches=[now],
        incidents=open_incidents([alert_of(name)], 1),
        summary=report.caches[0].analysis.summary,
        verdict=[],
        history=report.caches[0].history,
    )
    shown = [
        *(column.cell(now) for column in top_view.COLUMNS),
        top_view.status(name, state, 0.0, utc=True),
        top_view.gone(name, name, 1.0, ""),
        top_view.incidents(state, [alert_of(name)], utc=True),
    ]
    out = io.StringIO()
    Console(file=out, width=80_000).print(*shown)
    assert CONTROLS.search(out.getvalue()) is None
    assert out.getvalue().count(for_terminal(name)) >= 6


@names
def test_standard_error_gets_one_line(name, capsys):
    messages.say(f"kvstream: {name}: No such file")
    messages.MalformedReport().add(Malformed(name, "line", 1, name))
    shown = capsys.readouterr().err
    assert CONTROLS.search(shown) is None
    assert len(shown.splitlines()) == 2


@names
def test_html_has_the_tags_of_a_harmless_name(name):
    page, harmless = to_html(reported(name)), to_html(reported("harmless"))
    assert Tags(page).found == Tags(harmless).found
    page.encode()


@names
def test_markdown_has_the_lines_and_cells_of_a_harmless_name(name):
    def shape(text):
        return [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in text.split("\n")]

    text = to_markdown(reported(name))
    assert shape(text) == shape(to_markdown(reported("harmless")))
    assert CONTROLS.search(text) is None


@names
def test_json_lines_hold_the_name_as_it_is(name):
    out = io.BytesIO()
    lines = JsonLines(out)
    report = reported(name)
    for result in (
        alert_of(name),
        report,
        report.caches[0].analysis.summary,
        Malformed(name, "byte", 0, "x"),
    ):
        lines.show(result)
    alert, whole, summary, malformed = map(json.loads, out.getvalue().splitlines())
    held = for_unicode(name)
    assert alert["source"] == summary["source"] == malformed["origin"] == whole["inputs"][0] == held
    assert label_of(name) in {usage["value"] for usage in summary["labels"]["tenant"]}


@names
@pytest.mark.parametrize("ending", [".csv", ".parquet", ".arrow"])
def test_a_table_of_evictions_holds_the_name_and_no_formula(name, ending, tmp_path):
    path = tmp_path / f"evictions{ending}"
    builder = ReportBuilder(MetricsConfig())
    with eviction_table(path) as table:
        outcome = builder.process(frame_of(name), records=True)
        for batch in outcome.evicted:
            table.write(outcome.source, outcome.tier, batch)
    if ending == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))[1:]
        assert {row[0] for row in rows} == {row[1] for row in rows} == {for_csv(name)}
    elif ending == ".parquet":
        rows = pyarrow.parquet.read_table(path).to_pylist()
        assert {row["source"] for row in rows} == {for_unicode(name)}
    else:
        with pyarrow.OSFile(str(path)) as file:
            rows = pyarrow.ipc.open_file(file).read_all().to_pylist()
        assert {row["tier"] for row in rows} == {for_unicode(name)}
    assert len(rows) == table.rows > 50


@names
def test_a_file_of_any_name_can_be_read_and_is_named_in_errors(name, tmp_path):
    name = name.replace("/", "_").replace("\x00", "_")[:200]
    path = tmp_path / name
    try:
        path.write_bytes(b"")
    except UnicodeEncodeError:
        pytest.skip("no file can have that name")
    with pytest.raises(ValueError, match="is the input"):
        refuse_inputs(path, [str(path)])
    refuse_inputs(Path(f"{path}2"), [str(path)])


def test_all_kinds_of_names_are_in_the_table():
    assert len(HOSTILE_NAMES) > 20
