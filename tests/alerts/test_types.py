import operator

import pytest

from kvstream import AlertLevel

LEVELS = (AlertLevel.INFO, AlertLevel.WARNING, AlertLevel.CRITICAL)


@pytest.mark.parametrize("compare", [operator.lt, operator.le, operator.gt, operator.ge])
def test_levels_compare_by_severity_and_not_by_name(compare):
    for n, level in enumerate(LEVELS):
        for m, other in enumerate(LEVELS):
            assert compare(level, other) is compare(n, m)
            assert compare(level, other.value) is compare(n, m)
            assert compare(level.value, other) is compare(n, m)
    assert max(LEVELS) is AlertLevel.CRITICAL
    assert sorted([AlertLevel.CRITICAL, AlertLevel.WARNING, AlertLevel.INFO]) == list(LEVELS)


def test_a_level_compares_with_no_other_text():
    with pytest.raises(ValueError, match="high"):
        operator.lt(AlertLevel.INFO, "high")
    with pytest.raises(TypeError, match="not supported"):
        operator.lt(AlertLevel.INFO, None)
    assert AlertLevel.INFO == "info"
    assert hash(AlertLevel.INFO) == hash("info")
