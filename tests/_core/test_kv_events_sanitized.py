"""The reader of KV events, with checked indices, under the address and undefined-behaviour sanitizers."""

import pytest

from tests.sanitized import MARKS, assert_clean, build, build_once, run, run_tests

pytestmark = MARKS


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_once("kv_events", tmp_path_factory)


def test_the_tests_do_nothing_that_the_sanitizers_forbid(built):
    assert_clean(run_tests(built, "-k", "not interpreted", "tests/sources/test_kv_events.py"))


def test_mutated_payloads_do_nothing_that_the_sanitizers_forbid(built):
    done = run(built, "tests.sources.fuzz_wire", "100000")
    assert_clean(done)
    assert "mutants 100,000" in done.stdout


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        # Rows written where there is no room, and a string that is compared beyond the end of the payload.
        (
            "self.count + rows > self.room",
            "self.count + rows > self.room + 1",
            "Out of bounds on buffer access",
        ),
        (
            "if at >= end:\n                    raise _torn()",
            "if at >= end + 64:\n                    raise _torn()",
            "heap-buffer-overflow",
        ),
    ],
    ids=["columns", "payload"],
)
def test_a_wrong_bound_would_be_found(tmp_path, right, wrong, found):
    done = run(build("kv_events", tmp_path, right, wrong), "tests.sources.fuzz_wire", "200000")
    assert done.returncode != 0
    assert found in done.stdout + done.stderr
