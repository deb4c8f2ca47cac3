"""A server under twice the load that it can bear, with hostile clients beside it; the short form."""

import pytest

from tests.faults.soak import phase

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]


@pytest.mark.parametrize(
    ("policy", "factor"),
    [("block", 2.0), ("drop_newest", 2.0), ("drop_oldest", 2.0), ("sample", 2.0), ("block", 0.5)],
)
def test_under_load_and_attack_every_event_is_accounted_for(policy, factor):
    result = phase(policy, 4.0, factor)
    assert result["wrong"] == []
    # How fast it answers is measured by the program; here only that it does not stand still.
    assert result["healthz_ms"]["p99"] < 10_000
