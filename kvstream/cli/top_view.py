"""What ``kvstream top`` shows, as text: the first lines, rows of caches, graphs and incidents."""

import datetime
import operator
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.text import Text

from kvstream.alerts.types import AlertLevel, CacheAlert
from kvstream.cli.render import LEVEL_STYLE
from kvstream.metrics.history import History
from kvstream.metrics.summary import ALL
from kvstream.reports.incidents import OpenIncident
from kvstream.reports.overview import CacheNow, State
from kvstream.text.escape import for_terminal
from kvstream.text.numbers import UNKNOWN, percent

_SILENT_SECONDS = 10.0
_NORMAL = "occupancy_high"  # a full cache is what a prefix cache is for
_BARS = " ▁▂▃▄▅▆▇█"
_METER = 8
_PAST_SHOWN = 20
_ORDER = ("critical", "warning", "info", "silent", "steady")
STYLES = {
    "critical": "bold red",
    "warning": "yellow",
    "info": "cyan",
    "silent": "dim",
    "steady": "green",
    "gone": "bold white on red",
}


def severity(cache: CacheNow) -> str:
    """Return what a cache is in one word: the severity of what fires, ``silent`` or ``steady``."""
    if cache.level is not None and cache.rule != _NORMAL:
        return cache.level.value
    if is_silent(cache):
        return "silent"
    return "info" if cache.concern else "steady"


def is_silent(cache: CacheNow) -> bool:
    """Return whether nothing has come of a cache for ten seconds."""
    return cache.age_seconds is not None and cache.age_seconds >= _SILENT_SECONDS


def duration(seconds: float) -> str:
    """Return a time in two units at most: 5.4 s, 3 min 4 s, 9 h 12 min."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    for unit, size, smaller, each in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // each
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def clock(ts: float, utc: bool) -> str:
    """Return a time of day with its zone, local or UTC."""
    at = datetime.datetime.fromtimestamp(ts, datetime.UTC)
    at = at if utc else at.astimezone()
    return at.strftime("%H:%M:%S ") + (at.tzname() or "")


# The first lines


def status(name: str, state: State, unheard: float, utc: bool) -> Text:
    """Return what matters most, since when, and how old it is, in two lines.

    Args:
        name: What is watched.
        state: Its state.
        unheard: Seconds since that state came.
        utc: Whether times are UTC, not local ones.
    """
    kind, words, since = _verdict(state)
    one = state.summary.source != ALL
    selection = f"{state.summary.source} / {state.summary.tier}" if one else "all caches"
    chosen = _chosen(state)
    ages = [cache.age_seconds for cache in chosen if cache.age_seconds is not None]
    reporting = sum(not is_silent(cache) for cache in chosen)
    notes = [f"kvstream {name}", selection]
    if since is not None:
        notes.append(f"for {duration(state.now - since)}, since {clock(since, utc)}")
    notes.append(f"figures as of {clock(state.now, utc)}")
    if ages:
        notes.append(f"last event {duration(min(ages) + unheard)} ago")
    if len(chosen) > 1:
        notes.append(f"{reporting:,} of {len(chosen):,} caches reporting")
    style = STYLES.get(kind, "bold")
    first = f"{kind.upper()}  {words}" if kind in _ORDER else words
    return Text.assemble((for_terminal(first), style), "\n", (for_terminal("  ·  ".join(notes)), "dim"))


def gone(name: str, why: str, unheard: float | None, last: str) -> Text:
    """Return that nothing answers, for how long, and of when the figures below are."""
    since = "" if unheard is None else f" for {duration(unheard)}"
    return Text.assemble(
        (for_terminal(f" No answer from {name}{since}: {why} "), STYLES["gone"]),
        "\n",
        (for_terminal(f"trying again every second.  {last}"), "dim"),
    )


def _chosen(state: State) -> list[CacheNow]:
    """Return the caches that the summary is of."""
    source, tier = state.summary.source, state.summary.tier
    return [cache for cache in state.caches if source in (ALL, cache.source) and tier in (ALL, cache.tier)]


def _verdict(state: State) -> tuple[str, str, float | None]:
    """Return severity, sentence and beginning of the worst that is so."""
    caches = _chosen(state)
    if not state.summary.accounts.processed and not state.incidents:
        where = f" at {', '.join(state.listening)}" if state.listening else ""
        return "waiting", f"waiting for the first events{where}", None
    if caches and all(map(is_silent, caches)):
        quiet = min(cache.age_seconds or 0.0 for cache in caches)
        return "silent", f"no events for {duration(quiet)}", None
    incidents = [each for each in state.incidents if not each.is_silenced and each.rule != _NORMAL]
    for worst in incidents[:1]:
        bad = sum(severity(cache) in ("critical", "warning") for cache in caches)
        prefix = (
            f"{bad:,} of {len(caches):,} caches need{'s' * (bad == 1)} attention.  "
            if len(caches) > 1 and bad
            else ""
        )
        where = f"{worst.caches[0].source}: " if len(caches) > 1 else ""
        return worst.level.value, f"{prefix}{where}{_without_times(worst.message)}", worst.started_at
    poor = [cache for cache in caches if cache.concern]
    if poor:
        return "info", f"no incident, but {poor[0].source}: {poor[0].concern}", None
    unknown = "; hits are not reported" if state.summary.hit_rate_estimate is None else ""
    return "steady", f"no incident{unknown}", None


def _without_times(message: str) -> str:
    """Return a message without its times, which the line beside it has with a zone."""
    return re.sub(r" \(since \d\d:\d\d:\d\d\)| since \d\d:\d\d:\d\d", "", message)


# Rows of caches


class Column(NamedTuple):
    """A column of the table.

    Attributes:
        title: Its title.
        by: What rows are sorted by.
        largest_first: Whether the largest stands first.
        cell: What a row shows.
    """

    title: str
    by: Callable[[CacheNow], float | str]
    largest_first: bool
    cell: Callable[[CacheNow], Text]


def _number(text: str) -> Text:
    return Text(text, justify="right")


def _severity_cell(cache: CacheNow) -> Text:
    kind = severity(cache)
    return Text(kind, STYLES[kind])


def _occupancy(cache: CacheNow) -> float | None:
    if not cache.capacity or cache.blocks > cache.capacity:
        return None
    return cache.blocks / cache.capacity


def _occupancy_cell(cache: CacheNow) -> Text:
    share = _occupancy(cache)
    if share is None:
        return _number("wrong" if cache.capacity else f"{cache.blocks:,}")
    full = round(share * _METER)
    return Text.assemble(("■" * full, "blue"), ("·" * (_METER - full), "dim"), f" {percent(share):>5}")


def _what(cache: CacheNow) -> str:
    if cache.rule and cache.rule != _NORMAL:
        return cache.rule.replace("_", " ")
    return "no events" if is_silent(cache) else cache.concern


def _known(value: float | None, unknown: float) -> float:
    return unknown if value is None else value


def _ratio(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"


COLUMNS = (
    Column("state", lambda c: _ORDER.index(severity(c)), False, _severity_cell),
    Column(
        "cache",
        lambda c: f"{c.source}\0{c.tier}",
        False,
        lambda c: Text(for_terminal(f"{c.source} · {c.tier}")),
    ),
    Column("hit ratio", lambda c: _known(c.hit_ratio, 2.0), False, lambda c: _number(_ratio(c.hit_ratio))),
    Column("occupancy", lambda c: _known(_occupancy(c), -1.0), True, _occupancy_cell),
    Column(
        "premature",
        lambda c: _known(c.premature_ratio, -1.0),
        True,
        lambda c: _number(percent(c.premature_ratio)),
    ),
    Column("evictions/s", lambda c: c.eviction_rate, True, lambda c: _number(f"{c.eviction_rate:,.0f}")),
    Column(
        "last event",
        lambda c: _known(c.age_seconds, -1.0),
        True,
        lambda c: _number(UNKNOWN if c.age_seconds is None else duration(c.age_seconds)),
    ),
    Column("incident", _what, False, lambda c: Text(for_terminal(_what(c)))),
)
"""Columns of the table of caches; rows are sorted by the first unless another is chosen."""


_BY_IMPORTANCE = (0, 1, 2, 3, 7, 4, 6, 5)
_PADDING = 2  # of a cell
_INCIDENT = len(COLUMNS) - 1
_INCIDENT_WIDTH = 18  # at least; longer ones are cut off where there is no room


def fitting(rows: Sequence[Sequence[Text]], width: int) -> dict[int, int]:
    """Return the columns that fit beside one another, the most important ones first taken, and their widths.

    Args:
        rows: Cells of all columns.
        width: Characters in a line.
    """
    chosen: dict[int, int] = {}
    for number in _BY_IMPORTANCE:
        widest = max([len(COLUMNS[number].title), *(row[number].cell_len for row in rows)])
        taken = min(widest, _INCIDENT_WIDTH) if number == _INCIDENT else widest
        if width < taken + _PADDING and chosen:
            break
        width -= taken + _PADDING
        chosen[number] = widest
    if _INCIDENT in chosen and chosen[_INCIDENT] > _INCIDENT_WIDTH:
        chosen[_INCIDENT] = min(chosen[_INCIDENT], _INCIDENT_WIDTH + width)
    return dict(sorted(chosen.items()))


def in_order(caches: Sequence[CacheNow], column: int, is_reversed: bool, words: str) -> list[CacheNow]:
    """Return the caches that fit a filter, sorted by a column; equal ones by severity, then by hit ratio."""
    fits = _matcher(words)
    worst_first = sorted(
        (cache for cache in caches if fits(cache)),
        key=lambda c: (_ORDER.index(severity(c)), _known(c.hit_ratio, 2.0), c.source, c.tier),
    )
    chosen = COLUMNS[column]
    return sorted(worst_first, key=chosen.by, reverse=chosen.largest_first is not is_reversed)


_FIELDS: dict[str, Callable[[CacheNow], float | None]] = {
    "hit": lambda c: c.hit_ratio,
    "premature": lambda c: c.premature_ratio,
    "occupancy": _occupancy,
    "evictions": lambda c: c.eviction_rate,
    "age": lambda c: c.age_seconds,
    "blocks": lambda c: c.blocks,
}
_COMPARED = re.compile(rf"({'|'.join(_FIELDS)})(<=|>=|<|>)(\d+\.?\d*)(%|s|min|h)?")
_OPERATORS = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}
_UNITS = {"%": 0.01, "min": 60.0, "h": 3600.0}


def _matcher(words: str) -> Callable[[CacheNow], bool]:
    """Return whether a cache fits: words in its name, state or incident, and comparisons as ``hit<0.5``."""
    tests = [_test(word) for word in words.lower().split()]
    return lambda cache: all(test(cache) for test in tests)


def _test(word: str) -> Callable[[CacheNow], bool]:
    compared = _COMPARED.fullmatch(word)
    if compared is None:
        return lambda cache: word in f"{cache.source} {cache.tier} {severity(cache)} {_what(cache)}".lower()
    value, compare = _FIELDS[compared[1]], _OPERATORS[compared[2]]
    bound = float(compared[3]) * _UNITS.get(compared[4], 1.0)

    def fits(cache: CacheNow) -> bool:
        found = value(cache)
        return found is not None and bool(compare(found, bound))

    return fits


# Graphs


def graph(
    title: str, history: History, values: Sequence[float | None], now: float, width: int, most: float | None
) -> Text:
    """Return three lines of bars up to now, a step a column, with gaps where nothing came.

    Args:
        title: What they show.
        history: The windows that the values are of.
        values: A value a window; None where there is none.
        now: Event time now, seconds since the Unix epoch.
        width: Columns.
        most: Value of the full height; None for the highest that is shown.
    """
    each = max(1, -(-_SHOWN_WINDOWS // width)) * history.window_seconds
    end = int(now // each) + 1
    columns: list[list[float]] = [[] for _ in range(width)]
    for ts, value in zip(history.ts, values, strict=True):
        column = int(ts // each) - end + width
        if value is not None and 0 <= column < width:
            columns[column].append(value)
    means = [sum(some) / len(some) if some else None for some in columns]
    known = [value for value in means if value is not None]
    if not known:
        return Text(f"{title}  {UNKNOWN}")
    top = most or max(known) or 1.0
    shown = _two_digits if most is not None else _whole
    head = (
        f"{title}  now {shown(known[-1])}  min {shown(min(known))}  max {shown(max(known))}  "
        f"scale 0 to {shown(top)}, {duration(width * each)}"
    )
    rows = ["".join(_bar(value, top, row) for value in means) for row in (2, 1, 0)]
    return Text.assemble((head, "bold"), "\n", ("\n".join(rows), "blue"))


_SHOWN_WINDOWS = 300


def _two_digits(value: float) -> str:
    return f"{value:.2f}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _bar(value: float | None, top: float, row: int) -> str:
    if value is None:
        return " "
    eighths = max(1, round(min(1.0, value / top) * 24)) - 8 * row
    return _BARS[min(8, max(0, eighths))]


# Incidents


def incidents(state: State, alerts: Sequence[CacheAlert], utc: bool) -> Text:
    """Return the incidents that are open, then those that are over.

    Args:
        state: The state, with the open ones.
        alerts: The last alerts, oldest first.
        utc: Whether times are UTC.
    """
    text = Text()
    text.append(f"open incidents  {len(state.incidents)}\n", "bold")
    for incident in state.incidents:
        _append_open(text, incident, state, utc)
    over = [alert for alert in reversed(alerts) if alert.state == "resolved" and _is_of(alert, state)]
    text.append(f"\npast incidents  {len(over)}\n", "bold")
    for alert in over[:_PAST_SHOWN]:
        lasted = duration(alert.timestamp - alert.started_at)
        words = (
            f"{clock(alert.started_at, utc)}  lasted {lasted}  {alert.rule}  {alert.source} / {alert.tier}"
        )
        text.append(for_terminal(words) + "\n", "dim")
    return text


def _append_open(text: Text, incident: OpenIncident, state: State, utc: bool) -> None:
    first = incident.caches[0]
    where = (
        f"{first.source} / {first.tier}" if incident.cache_count == 1 else f"{incident.cache_count:,} caches"
    )
    text.append(f"{incident.level.value:<9}", LEVEL_STYLE[incident.level])
    silenced = "  silenced" if incident.is_silenced else ""
    lasting = duration(max(0.0, state.now - incident.started_at))
    words = f"{where}  {_without_times(incident.message)}"
    text.append(f"{for_terminal(words)}  for {lasting}, since {clock(incident.started_at, utc)}{silenced}\n")
    if incident.level is not AlertLevel.INFO and incident.hint:
        text.append(for_terminal(f"          try: {incident.hint}") + "\n", "dim")


def _is_of(alert: CacheAlert, state: State) -> bool:
    return state.summary.source in (ALL, alert.source) and state.summary.tier in (ALL, alert.tier)
