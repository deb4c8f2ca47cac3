"""A report as one HTML file that needs nothing else: no server, no network."""

from importlib.resources import files

import msgspec

from kvstream.alerts.types import AlertLevel
from kvstream.reports.report import CacheReport, Report
from kvstream.reports.tables import Table, opening, overview, tables
from kvstream.reports.verdict import CacheAnalysis
from kvstream.text.escape import for_html

_CHARTS = ("ratio", "rate", "lifetime", "outcome", "curve", "map")


def to_html(report: Report) -> str:
    """Return the report as one self-contained page; its own script draws the charts."""
    static = files("kvstream") / "web" / "static"
    style = "\n".join(
        (static / name).read_text(encoding="utf-8") for name in ("uplot/uPlot.min.css", "style.css")
    )
    scripts = "\n".join(
        f"<script>{source.read_text(encoding='utf-8')}</script>"
        for source in (
            static / "uplot" / "uPlot.iife.min.js",
            static / "format.js",
            static / "charts.js",
            files("kvstream") / "reports" / "report.js",
        )
    )
    caches = "\n".join(_cache(cache, number) for number, cache in enumerate(report.caches))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="content-security-policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<title>kvstream report</title>
<style>{style}</style>
</head>
<body>
<main id="main">
<section class="card verdict wide"><div><h1>kvstream report</h1>
<p class="why">{for_html(opening(report))} Times are UTC.</p></div></section>
{_table(overview(report))}
{"" if report.overall is None else _verdict("All sources", report.overall)}
{caches}
</main>
<script type="application/json" id="data">{_data(report)}</script>
{scripts}
</body>
</html>
"""


def _cache(cache: CacheReport, number: int) -> str:
    analysis = cache.analysis
    charts = "\n".join(f'<figure data-chart="{name}" data-cache="{number}"></figure>' for name in _CHARTS)
    return f"""{_verdict(f"{analysis.source} / {analysis.tier}", analysis)}
<div class="grid">
{charts}
</div>
{"".join(map(_table, tables(cache)))}"""


def _verdict(title: str, analysis: CacheAnalysis) -> str:
    sentences = "".join(f"<li>{for_html(sentence)}</li>" for sentence in analysis.verdict)
    return (
        f'<section class="card"><div class="head"><h2>{for_html(title)}</h2></div>'
        f'<ul class="findings">{sentences}</ul></section>'
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{for_html(title)}</th>' for title in table.columns)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{for_html(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    return (
        f'<section class="card"><div class="head"><h2>{for_html(table.title)}</h2></div><table class="data">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></section>\n"
    )


def _bands(cache: CacheReport) -> list[dict[str, object]]:
    """Return from when to when which severity was reached, for the charts; information is left out."""
    ended = {alert.incident: alert.timestamp for alert in cache.alerts if alert.state == "resolved"}
    last = cache.analysis.summary.timestamp
    began = {alert.incident: alert for alert in cache.alerts if alert.level is not AlertLevel.INFO}
    return [
        {"from": alert.started_at, "to": ended.get(incident, last), "level": alert.level}
        for incident, alert in began.items()
    ]


def _data(report: Report) -> str:
    """Return what the charts are drawn from, such that no text in it can end the script."""
    data = [
        {
            "history": cache.history,
            "block_bytes": cache.analysis.summary.block_bytes,
            "sizes": cache.analysis.summary.sizes,
            "map": cache.map,
            "bands": _bands(cache),
        }
        for cache in report.caches
    ]
    return msgspec.json.encode(data).decode().replace("<", "\\u003c")
