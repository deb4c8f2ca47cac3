import pytest

from kvstream import ConfigError, MetricType, Rule


def test_a_rule_made_in_code_with_an_unknown_condition_is_refused():
    with pytest.raises(ConfigError, match="condition must be one of drop, above, below"):
        Rule(
            name="odd",
            metric=MetricType.HIT_RATIO,
            condition="beneath",
            threshold=1.0,
            clear=0.5,
            message="",
            cause="reuse",
        )
