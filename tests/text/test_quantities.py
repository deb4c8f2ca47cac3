import math

import pytest

from kvstream.text.quantities import duration_in_seconds, real_number, size_in_bytes, whole_number


@pytest.mark.parametrize(
    ("text", "value"),
    [("4096", 4096), ("10k", 10_000), ("1.5M", 1_500_000), ("16Ki", 16_384), ("1e6", 10**6), (" 8 ", 8)],
)
def test_counts_may_have_a_unit(text, value):
    assert whole_number(text) == value


@pytest.mark.parametrize(
    "text", ["", "k", "-1", "1.5", "ten", "10kk", "10 MB", "1,000", "nan", "0x10", "9" * 30]
)
def test_what_is_no_count_is_refused_with_examples(text):
    with pytest.raises(ValueError, match="a whole number such as 4096, 10k or 16Ki"):
        whole_number(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("4096", 4096), ("100MB", 10**8), ("100MiB", 100 * 2**20), ("2g", 2 * 10**9), ("1.5KiB", 1536)],
)
def test_sizes_are_bytes_with_decimal_or_binary_units(text, value):
    assert size_in_bytes(text) == value


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("250ms", 0.25), ("5m", 300), ("2h", 7200), ("1d", 86_400), ("1.5min", 90), ("7 s", 7)],
)
def test_durations_are_seconds_unless_a_unit_says_otherwise(text, seconds):
    assert math.isclose(duration_in_seconds(text), seconds)


@pytest.mark.parametrize("text", ["", "5x", "forever", "-3s", "1h30m", "5MiB"])
def test_what_is_no_duration_is_refused_with_examples(text):
    with pytest.raises(ValueError, match="such as 90s, 5m, 2h or 1d"):
        duration_in_seconds(text)


def test_a_number_may_have_a_unit_and_a_fraction():
    assert real_number("20k") == 20_000
    assert real_number("0.25") == 0.25
    with pytest.raises(ValueError, match="'fast' is not a number"):
        real_number("fast")
