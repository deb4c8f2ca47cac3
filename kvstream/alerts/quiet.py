"""How long a rule reads the same while nothing happens, so that empty windows need not be walked."""

import math
from collections.abc import Sequence

from kvstream.alerts.rules import Point, Rule

FOREVER = math.inf


def unchanged_windows(rule: Rule, points: Sequence[Point], empty: Point, *, frozen: bool) -> float:
    """Count the next windows, all of them empty, that leave a rule's reading as it is.

    A reading depends on which points it looks at, not on their order (but for ``falling``). So it stays
    while every point that leaves what it looks at is equal to the empty one that comes in. The count may
    be too low, never too high.

    Args:
        rule: The rule.
        points: One point a window, oldest first, at least one.
        empty: The metric's point in an empty window.
        frozen: Whether the rule compares with a baseline of its own instead of the windows before.

    Returns:
        Windows, 0 if the very next one may change the reading; ``FOREVER`` if none will.
    """
    latest = _equal_from(points, rule.window, empty)
    if not latest or frozen or rule.condition in ("above", "below"):
        return latest
    if rule.condition == "falling":
        return min(latest, _unchanged_series(points, rule.baseline, max(1, rule.min_count), empty))
    reach = rule.longest
    if reach > len(points):  # the baseline grows, unless empty windows are no part of it
        return 0 if empty.weight >= rule.least_weight else min(latest, reach - len(points))
    return min(latest, _equal_from(points, reach, empty))


def _equal_from(points: Sequence[Point], reach: int, empty: Point) -> float:
    """How many points, from the ``reach``-th last on towards the newest, are like those of empty windows."""
    start = len(points) - reach
    if start < 0:
        return 0
    for at in range(start, len(points)):
        if points[at] is not empty and points[at] != empty:
            return at - start
    return FOREVER


def _unchanged_series(points: Sequence[Point], reach: int, least: int, empty: Point) -> float:
    """The same for a series in order, in which points below a weight are left out."""
    if empty.weight >= least:
        return FOREVER if _equal_from(points, reach, empty) == FOREVER else 0
    start = max(0, len(points) - reach)
    for at in range(start, len(points)):
        if points[at].weight >= least:
            return at + reach - len(points)
    return FOREVER
