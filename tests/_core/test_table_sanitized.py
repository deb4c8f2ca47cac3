"""The block table and what follows it, with checked indices, under the sanitizers, module by module."""

import pytest

from tests.sanitized import MARKS, assert_clean, build, build_once, run, run_tests

pytestmark = MARKS

TESTS = {
    "table": ("tests/blocks/test_table.py", "tests/metrics/test_working_set.py"),
    "columns": (
        *("tests/blocks/test_table.py", "tests/blocks/test_label_set_counts.py"),
        "tests/engine/test_joining.py",
    ),
    "reuse": (
        *("tests/_core/test_premature_evictions.py", "tests/_core/test_lru_stack.py"),
        "tests/_core/test_prefix_cache.py",
    ),
    "buckets": (
        *("tests/metrics/test_histogram_rows.py", "tests/metrics/test_intervals.py"),
        "tests/metrics/test_window.py",
    ),
}


@pytest.fixture(scope="module", params=TESTS)
def built(request, tmp_path_factory):
    return request.param, build_once(request.param, tmp_path_factory)


def test_the_tests_do_nothing_that_the_sanitizers_forbid(built):
    name, made = built
    assert_clean(run_tests(made, *TESTS[name], HYPOTHESIS_PROFILE="few"))


def test_a_million_random_events_do_nothing_that_the_sanitizers_forbid(built):
    name, made = built
    done = run(made, "tests._core.fuzz_table", "1000000", str(list(TESTS).index(name)))
    assert_clean(done)
    assert "events, " in done.stdout


def test_an_index_out_of_bounds_would_be_found(tmp_path):
    right = "if self.begun_count < len(self.begun):"
    done = run(build("table", tmp_path, right, right.replace("<", "<=")), "tests._core.fuzz_table", "1000000")
    assert done.returncode != 0
    assert "Out of bounds on buffer access" in done.stdout + done.stderr
