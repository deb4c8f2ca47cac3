"""The block table, with checked indices, under the address and undefined-behaviour sanitizers."""

import pytest

from tests.sanitized import MARKS, assert_clean, build, run, run_tests

pytestmark = MARKS

TESTS = (
    "tests/blocks/test_table.py",
    "tests/_core/test_premature_evictions.py",
    "tests/_core/test_lru_stack.py",
    "tests/metrics/test_histogram_rows.py",
    "tests/metrics/test_intervals.py",
    "tests/metrics/test_working_set.py",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build("table", tmp_path_factory.mktemp("checked"))


def test_the_tests_do_nothing_that_the_sanitizers_forbid(built):
    assert_clean(run_tests(built, *TESTS, HYPOTHESIS_PROFILE="few"))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_million_random_events_do_nothing_that_the_sanitizers_forbid(built, seed):
    done = run(built, "tests._core.fuzz_table", "1000000", str(seed))
    assert_clean(done)
    assert "events, " in done.stdout


def test_an_index_out_of_bounds_would_be_found(tmp_path):
    right = "if self.begun_count < len(self.begun):"
    done = run(build("table", tmp_path, right, right.replace("<", "<=")), "tests._core.fuzz_table", "1000000")
    assert done.returncode != 0
    assert "Out of bounds on buffer access" in done.stdout + done.stderr
