import pytest

from kvstream.metrics.histogram import IntervalStats
from kvstream.reports.lines import interval
from kvstream.text.numbers import behind, gib, live_blocks, percent, ratio, seconds


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (120.0, "120 s"),
        (1234.5, "1,234 s"),
        (999.6, "1,000 s"),
        (86_400.0, "86,400 s"),
        (1.0, "1 s"),
        (0.0125, "12.5 ms"),
        (3.2e-5, "32 µs"),
        (5e-8, "50 ns"),
    ],
)
def test_times_have_no_exponent(value, written):
    assert seconds(value) == written


@pytest.mark.parametrize(
    ("share", "written"),
    [
        (None, "–"),
        (0.0, "0%"),
        (0.0002, "< 0.1%"),
        (0.0042, "0.4%"),
        (0.372, "37%"),
        (0.9899, "99%"),
        (0.997, "99.7%"),
        (0.99996, "> 99.9%"),
        (1.0, "100%"),
        (16.0, "1,600%"),
    ],
)
def test_a_share_is_never_rounded_to_nothing_or_all(share, written):
    assert percent(share) == written


def test_a_ratio_is_never_rounded_to_0_or_1():
    written = [ratio(value) for value in (None, 0.0, 0.0004, 0.37, 0.9996, 1.0)]
    assert written == ["–", "0.000", "< 0.001", "0.370", "> 0.999", "1.000"]


def test_what_is_unknown_is_a_dash():
    assert interval(None) == interval(IntervalStats()) == "–"
    assert interval(IntervalStats(3, 1.0, 120.0, 130.0, 140.0, 150.0)).startswith("p50 120 s")


def test_blocks_by_capacity():
    assert live_blocks(50, None) == "50"
    assert live_blocks(997, 1_000) == "997 of 1,000 (99.7%)"
    assert gib(3 * 2**29) == "1.50"
    assert gib(1.0) == "< 0.01"
    assert gib(0) == "0"


def test_events_of_a_recording_are_called_old_rather_than_late():
    assert behind(0.04) == "0.0 s behind the engine"
    assert behind(3_599.94) == "3599.9 s behind the engine"
    old = "(replayed from a recording, or stamped by a wrong clock)"
    assert behind(3_600.0) == f"events 1.0 h old {old}"
    assert behind(3_691_335.0) == f"events 1,025.4 h old {old}"
