"""A report as Markdown."""

from collections.abc import Iterable

from kvstream.reports.report import Report
from kvstream.reports.tables import Table, opening, overview, tables
from kvstream.reports.verdict import CacheAnalysis
from kvstream.text.escape import for_markdown


def to_markdown(report: Report) -> str:
    """Return the report as one document."""
    parts = [
        "# kvstream report",
        for_markdown(opening(report)),
        _table(overview(report), level=2),
    ]
    if report.overall is not None:
        parts += ["## All sources", _sentences(report.overall)]
    for cache in report.caches:
        analysis = cache.analysis
        parts.append(f"## {for_markdown(analysis.source)} / {for_markdown(analysis.tier)}")
        parts.append(_sentences(analysis))
        parts += [_table(table, level=3) for table in tables(cache)]
    return "\n\n".join(parts) + "\n"


def _sentences(analysis: CacheAnalysis) -> str:
    return "\n".join(f"- {for_markdown(sentence)}" for sentence in analysis.verdict)


def _table(table: Table, level: int) -> str:
    rows = [tuple(map(for_markdown, row)) for row in table.rows]
    return f"{'#' * level} {table.title}\n\n{markdown_table(table.columns, rows)}"


def markdown_table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a table of cells that are Markdown already."""
    return "\n".join([_row(columns), _row(("---",) * len(columns)), *map(_row, rows)])


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
