"""A comparison as Markdown, or as one HTML file that needs nothing else."""

from kvstream.reports.comparison import CacheComparison, Comparison, p_in_words, shown
from kvstream.reports.markdown import markdown_table
from kvstream.text.escape import for_html, for_markdown

_COLUMNS = ("figure", "before", "after", "difference, 95% interval", "chance", "verdict")
_NOTE = (
    "Differences are tested by a z-test of ratios; its standard errors allow for neighbouring intervals that "
    "resemble each other (integrated autocorrelation time, Sokal 1997), and p-values are adjusted for their "
    "number (Holm 1979). Lifetimes are short at the beginning of a recording, as no block is older than it."
)
_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884 }
.scroll { overflow-x: auto }
"""


def comparison_markdown(comparison: Comparison) -> str:
    """Return a comparison as one document of Markdown."""
    parts = ["# kvstream comparison", for_markdown(_opening(comparison))]
    for cache in comparison.caches:
        parts.append(f"## {for_markdown(cache.source)} / {for_markdown(cache.tier)}")
        parts.append("\n".join(f"- {for_markdown(finding)}" for finding in cache.findings))
        rows = [tuple(map(for_markdown, row)) for row in _rows(cache)]
        parts.append(markdown_table(_COLUMNS, rows))
    parts += [for_markdown(line) for line in _closing(comparison)]
    return "\n\n".join(parts) + "\n"


def comparison_html(comparison: Comparison) -> str:
    """Return a comparison as one self-contained page."""
    sections = "\n".join(_section(cache) for cache in comparison.caches)
    closing = "\n".join(f"<p>{for_html(line)}</p>" for line in _closing(comparison))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="content-security-policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>kvstream comparison</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>kvstream comparison</h1>
<p>{for_html(_opening(comparison))}</p>
{sections}
{closing}
</main>
</body>
</html>
"""


def _section(cache: CacheComparison) -> str:
    findings = "".join(f"<li>{for_html(finding)}</li>" for finding in cache.findings)
    head = _html_row("th", " scope='col'", _COLUMNS)
    rows = "\n".join(_html_row("td", "", row) for row in _rows(cache))
    return (
        f"<section><h2>{for_html(cache.source)} / {for_html(cache.tier)}</h2>\n<ul>{findings}</ul>\n"
        f'<div class="scroll" tabindex="0"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
        "</section>"
    )


def _html_row(cell: str, attributes: str, texts: tuple[str, ...]) -> str:
    return f"<tr>{''.join(f'<{cell}{attributes}>{for_html(text)}</{cell}>' for text in texts)}</tr>"


def _opening(comparison: Comparison) -> str:
    return f"Before: {comparison.before}. After: {comparison.after}."


def _closing(comparison: Comparison) -> list[str]:
    lines = [] if comparison.caches else ["No cache is in both."]
    if comparison.unmatched:
        lines.append(f"In one of them only: {', '.join(comparison.unmatched)}.")
    return [*lines, _NOTE]


def _rows(cache: CacheComparison) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for each in cache.changes:
        change = each.change
        interval = "unknown"
        if change.low is not None and change.high is not None:
            interval = f"{_signed(change.low, each.unit)} to {_signed(change.high, each.unit)}"
        rows.append(
            (
                each.name,
                shown(change.before, each.unit),
                shown(change.after, each.unit),
                interval,
                p_in_words(each.adjusted_p),
                each.verdict,
            )
        )
    return rows


def _signed(value: float, unit: str) -> str:
    return f"{'−' if value < 0 else '+'}{shown(abs(value), unit)}"
