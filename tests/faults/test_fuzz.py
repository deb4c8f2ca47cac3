"""Mutants upset nothing: a few of each kind here, many more by ``python -m tests.faults.fuzz``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.fuzz import KINDS, SERVED, fuzz
from tests.faults.line_coverage import LineCoverage

ROOT = Path(__file__).parent.parent.parent
FEW, MANY, MANY_SERVED = 300, 20_000, 5_000


def check(result):
    crashes = "\n".join(map(str, result["crashes"]))  # all of them, as pytest shows the first alone
    assert not crashes
    assert result["past_header_share"] >= 1 / 3, result["outcomes"]


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_mutants_are_refused_or_counted_and_nothing_else_happens(kind, count):
    check(fuzz(kind, count, seed=1, most_mb=2_000))


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY_SERVED, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", SERVED)
def test_a_server_goes_on_whatever_comes_over_its_sockets(kind, count):
    check(fuzz(kind, count, seed=1, served=True))


def test_the_same_seed_gives_the_same_mutants():
    first, second = (fuzz("frames", 200, seed=7)["outcomes"] for _ in range(2))
    assert first == second != fuzz("frames", 200, seed=8)["outcomes"]


def test_it_says_with_a_status_and_a_line_how_it_went():
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.fuzz", "frames", "--count", "200", "--most-mb", "1"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "MB of memory are more than 1" in done.stdout


def test_lines_that_were_reached_are_counted(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("def f(x):\n    if x:\n        return 1\n    return 2\n")
    code = {}
    exec(compile(path.read_text(), str(path), "exec"), code)
    with LineCoverage([path]) as lines:
        code["f"](True)
    assert lines.report() == {str(path): (2, 3)}
