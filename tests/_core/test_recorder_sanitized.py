"""The compiled recorder, with checked indices, under the address and undefined-behaviour sanitizers."""

import subprocess

import pytest

from tests.sanitized import MARKS, assert_clean, build, build_once, run, run_tests

pytestmark = MARKS


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_once("recorder", tmp_path_factory)


@pytest.mark.parametrize("tests", ["tests/recording/test_recorder.py", "tests/test_collector.py"])
def test_the_recorder_does_nothing_that_the_sanitizers_forbid(built, tests):
    assert_clean(run_tests(built, "-m", "", tests))


def test_half_a_million_random_calls_do_nothing_that_the_sanitizers_forbid(built):
    done = run(built, "tests._core.fuzz_recorder", "500000")
    assert_clean(done)
    assert "500,000 calls" in done.stdout


def test_an_index_out_of_bounds_would_be_found(tmp_path):
    room = "self._columns.n + more > self._columns.room"
    made = build("recorder", tmp_path, room, room.replace("more", "more - 1"))
    done = run(made, "tests._core.fuzz_recorder", "100000")
    assert done.returncode != 0
    assert "Out of bounds on buffer access" in done.stdout + done.stderr


def test_the_sanitizers_are_at_work(tmp_path):
    source = tmp_path / "wrong.c"
    source.write_text(
        "#include <stdlib.h>\nint main(int n, char **v) { char *p = malloc(4); free(p); return p[n]; }\n"
    )
    subprocess.run(["gcc", "-fsanitize=address", str(source), "-o", str(tmp_path / "wrong")], check=True)
    done = subprocess.run([tmp_path / "wrong"], capture_output=True, text=True)
    assert "heap-use-after-free" in done.stderr
