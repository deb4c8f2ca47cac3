"""A report as one HTML file that needs nothing else: no server, no network."""

from importlib.resources import files

import msgspec

from kvstream.reports.report import CacheReport, Report
from kvstream.reports.tables import Table, opening, overview, tables
from kvstream.reports.verdict import CacheAnalysis
from kvstream.text.escape import for_html

_CHARTS = (
    ("ratio-chart", "Hit ratio and occupancy"),
    ("rate-chart", "Blocks a second"),
    ("distribution-chart", "How long blocks live, wait and rest"),
    ("curve-chart", "Hit ratio with another size of cache"),
)


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
<header><h1>kvstream report</h1><span>{for_html(opening(report))}</span></header>
<main id="main">
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
    charts = "\n".join(
        f'<figure data-chart="{name}" data-cache="{number}"><figcaption>{title}</figcaption>'
        '<div class="plot" role="img"></div>'
        "<details><summary>As a table</summary><table></table></details></figure>"
        for name, title in _CHARTS
    )
    return f"""{_verdict(f"{analysis.source} / {analysis.tier}", analysis)}
<div class="grid">
{charts}
</div>
<section><h2>Blocks at the end by age and accesses</h2>
<div class="scroll"><table data-map="{number}"></table></div></section>
{"".join(map(_table, tables(cache)))}"""


def _verdict(title: str, analysis: CacheAnalysis) -> str:
    sentences = "".join(f"<li>{for_html(sentence)}</li>" for sentence in analysis.verdict)
    return f"<section><h2>{for_html(title)}</h2><ul>{sentences}</ul></section>"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{for_html(title)}</th>' for title in table.columns)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{for_html(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    return (
        f'<section><h2>{for_html(table.title)}</h2><div class="scroll" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></section>\n"
    )


def _data(report: Report) -> str:
    """Return what the charts are drawn from, such that no text in it can end the script."""
    data = [
        {
            "history": cache.history,
            "capacity": cache.analysis.summary.capacity,
            "distributions": cache.distributions,
            "sizes": cache.analysis.summary.sizes,
            "map": cache.map,
        }
        for cache in report.caches
    ]
    return msgspec.json.encode(data).decode().replace("<", "\\u003c")
