"""The page of detection results: all scores, by kind of incident and by rate, and what is not met."""

import math
from collections.abc import Callable, Sequence
from statistics import median

from tests.detection.judge import Table
from tests.detection.results import Result, tables

NAMES = ("kvstream", "PromQL rules", "CUSUM")


def page(results: Sequence[Result]) -> str:
    """Return the page in Markdown."""
    parts = [*_all(results), *_by_kind(results), *_by_rate(results), *_quiet(results)]
    return "\n".join([_intro(results), *parts])


def _intro(results: Sequence[Result]) -> str:
    seeds = sorted({result.seed for result in results})
    found = tables(results)["kvstream"]
    real = any(str(result.stream["kind"]).startswith("real") for result in results)
    lines = [
        "# Detection",
        "",
        "What the built-in rules find with default settings, compared with two simple methods on the same",
        "streams. This page is written by `python -m tests.detection --markdown RESULTS`, from results of",
        "`python -m tests.detection SEED --results RESULTS`.",
        "",
        f"Streams of seed{'s' * (len(seeds) > 1)} {' and '.join(map(str, seeds))}: {len(found.incidents)}"
        f" incidents at 0.3 to 40 requests a second and {found.quiet_hours:.1f} hours in which",
        f"nothing is wrong{', real requests (Mooncake conversation trace) among them' if real else ''}.",
        "The thresholds of the rules were chosen on other seeds.",
        "",
        "- **PromQL rules**, evaluated every 15 s: the hit ratio of 1 min is below 0.7 of that of 10 min",
        "  for 2 min, or for 1 min there were lookups in the last 10 min but none in the last.",
        "- **CUSUM** of ten-second hit ratios against a slow average, in units of the engine's own noise,",
        "  which must last 40 s.",
        "- **Found**: a warning or critical alert begins between the onset and a minute after the end.",
        "- **Covered**: the share of an incident's time in which such an alert fires.",
        "- **False resolve**: an alert resolves more than a minute before its incident ends, and no other",
        "  fires.",
        "- **Closed**: no alert of the incident fires five minutes after its end.",
        "- **Notifications**: firing, critical and over, of all rules together.",
        "",
    ]
    return "\n".join(lines)


def _all(results: Sequence[Result]) -> list[str]:
    found = tables(results)
    rows: list[tuple[str, Callable[[Table], str], str]] = [
        ("incidents found", lambda t: f"{t.found:.2f}", "≥ 0.90"),
        ("of those to page", lambda t: f"{t.found_to_page:.2f}", ""),
        ("median delay, to page", lambda t: f"{t.delay_to_page:.0f} s", "≤ 90 s"),
        ("covered, median", lambda t: f"{t.covered:.0%}", "≥ 80 %"),
        ("false resolves", lambda t: f"{t.false_resolves}", "0"),
        ("notifications, median", lambda t: f"{t.notifications:g}", "≤ 3"),
        ("notifications, most", lambda t: f"{max(s.notifications for _, s in t.incidents)}", ""),
        ("not closed after 5 min", lambda t: f"{t.not_closed} of {len(t.incidents)}", "0"),
        ("before the onset, or of other sources", lambda t: f"{t.early}", ""),
        ("false alerts an hour of quiet", lambda t: f"{t.false_alerts / t.quiet_hours:.2f}", "≤ 0.10"),
        ("critical in quiet", lambda t: f"{t.false_pages}", "0"),
    ]
    table = ["## All", "", f"| | {' | '.join(NAMES)} | target |", "|---|---|---|---|---|"]
    for what, of, target in rows:
        table.append(f"| {what} | {' | '.join(of(found[name]) for name in NAMES)} | {target} |")
    return [*table, "", *_not_met(found), ""]


def _not_met(found: dict[str, Table]) -> list[str]:
    ours = found["kvstream"]
    an_hour = ours.false_alerts / ours.quiet_hours
    missed = [
        (ours.found < 0.9, f"found {ours.found:.2f} of 0.90"),
        (ours.delay_to_page > 90, f"median delay {ours.delay_to_page:.0f} s of 90"),
        (ours.covered < 0.8, f"covered {ours.covered:.0%} of 80 %"),
        (ours.false_resolves > 0, f"{ours.false_resolves} false resolves of 0"),
        (ours.notifications > 3, f"{ours.notifications:g} notifications of 3"),
        (ours.not_closed > 0, f"{ours.not_closed} of {len(ours.incidents)} not closed in time, of 0"),
        (an_hour > 0.1, f"{an_hour:.2f} false alerts an hour of quiet, of 0.10"),
        (ours.false_pages > 0, f"{ours.false_pages} critical in quiet, of 0"),
        *((ours.found < found[name].found, f"finds fewer than {name}") for name in NAMES[1:]),
        *((ours.covered < found[name].covered, f"covers less than {name}") for name in NAMES[1:]),
    ]
    said = [what for is_so, what in missed if is_so]
    lines = ["Not met: " + "; ".join(said) + "." if said else "All targets are met."]
    for what, is_so in (("Missed", lambda s: not s.found), ("Not closed in time", lambda s: not s.closed)):
        names = [stream.name for stream, score in ours.incidents if is_so(score)]
        if names:
            lines.append(f"{what}: {', '.join(names)}.")
    false = [f"{each.rule} in {stream.name}" for stream, raised in ours.quiet for each in raised]
    return lines + ([f"False alerts: {', '.join(false)}."] if false else [])


def _by_kind(results: Sequence[Result]) -> list[str]:
    lines = [
        "## By kind of incident",
        "",
        "P is worth a page, T a ticket. For each method: found of all, the median delay of what was found,",
        "and the median share covered.",
        "",
        f"| incident | | | {' | '.join(NAMES)} | notifications |",
        "|---|---|---|---|---|---|---|",
    ]
    kinds = dict.fromkeys((r.stream["kind"], r.stream["intensity"]) for r in results if r.stream["intensity"])
    for kind, intensity in kinds:
        of = [r for r in results if (r.stream["kind"], r.stream["intensity"]) == (kind, intensity)]
        cells = [_cell([score for result in of if (score := result.by[name].score)]) for name in NAMES]
        notifications = [score.notifications for r in of if (score := r.by["kvstream"].score)]
        page_or_ticket = "P" if of[0].stream["page"] else "T"
        lines.append(
            f"| {kind} | {intensity} | {page_or_ticket} | {' | '.join(cells)} | {median(notifications):g} |"
        )
    return [*lines, ""]


def _cell(scores: Sequence) -> str:
    delays = [score.delay for score in scores if score.delay is not None]
    covered = [score.covered for score in scores if score.covered is not None]
    said = f"{sum(score.found for score in scores)} of {len(scores)}"
    if delays:
        said += f", {round(median(delays))} s"  # rounded to an int, which has no negative zero
    return said + (f", {median(covered):.0%}" if covered and delays else "")


def _by_rate(results: Sequence[Result]) -> list[str]:
    lines = [
        "## By rate",
        "",
        "Requests a second of one engine; 3.5 stands for 3 in batches of three seconds.",
        "",
        f"| rate | incidents | {' | '.join(NAMES)} |",
        "|---|---|---|---|---|",
    ]
    found = tables(results)
    rates = {name: {rate: rest for rate, *rest in found[name].by_rate()} for name in NAMES}
    for rate in sorted(rates["kvstream"]):
        count = sum(stream.rate == rate for stream, _ in found["kvstream"].incidents)
        cells = [f"{share:.2f}" + ("" if math.isnan(c) else f", {c:.0%}") for share, c in _of(rates, rate)]
        lines.append(f"| {rate:g} | {count} | {' | '.join(cells)} |")
    return [*lines, ""]


def _of(rates: dict[str, dict], rate: float) -> list[tuple[float, float]]:
    return [tuple(rates[name][rate]) for name in NAMES]


def _quiet(results: Sequence[Result]) -> list[str]:
    lines = [
        "## Quiet streams",
        "",
        "Warning and critical alerts in each, all of them false.",
        "",
        f"| stream | hours | {' | '.join(NAMES)} |",
        "|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(r.stream["kind"] for r in results if not r.stream["intensity"]):
        of = [r for r in results if r.stream["kind"] == kind and not r.stream["intensity"]]
        hours = sum(r.restored().seconds for r in of) / 3600
        cells = [str(sum(len(r.by[name].raised) for r in of)) for name in NAMES]
        lines.append(f"| {kind} | {hours:.1f} | {' | '.join(cells)} |")
    return lines
