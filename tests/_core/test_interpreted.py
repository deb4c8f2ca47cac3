"""Where there is no C compiler, the core's modules are interpreted: the same rules and types, slower."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """Runs Python with a copy of the package that has no compiled modules."""
    folder = tmp_path_factory.mktemp("interpreted")
    shutil.copytree(ROOT / "kvstream", folder / "kvstream", ignore=shutil.ignore_patterns("*.so", "*.c"))
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("data", "*.so"))
    shutil.copy(ROOT / "pyproject.toml", folder)

    def run(*arguments):
        return run_python(folder, *arguments)

    return run


def run_python(folder, *arguments):
    """Run Python with the package that is in a folder."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "MYPYPATH": str(folder),
        "HYPOTHESIS_PROFILE": "few",
    }
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_type_checkers_read_the_types_that_the_core_has(interpreted):
    stubs = sorted((ROOT / "kvstream" / "_core").glob("*.pyi"))
    arguments = [
        *("-m", "mypy.stubtest", "--ignore-missing-stub", "--ignore-unused-allowlist"),
        *("--allowlist", str(ROOT / "tests" / "_core" / "stubtest.txt")),
        *(f"kvstream._core.{stub.stem}" for stub in stubs),
    ]
    for done in (run_python(ROOT, *arguments), interpreted(*arguments)):
        assert done.stdout == f"Success: no issues found in {len(stubs)} modules\n", done.stdout + done.stderr


@pytest.mark.slow
def test_the_interpreted_core_equals_the_plain_twin(interpreted):
    done = interpreted(
        *(
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-k",
            "however_the_stream_is_cut or equals or merging or quantiles",
        ),
        *("tests/blocks/test_table.py", "tests/_core/test_premature_evictions.py"),
        *(
            "tests/_core/test_lru_stack.py",
            "tests/_core/test_prefix_cache.py",
            "tests/metrics/test_histogram.py",
        ),
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_it_says_once_that_it_is_slow(interpreted):
    program = (
        "import logging; logging.basicConfig(); from kvstream.engine.monitor import Monitor; "
        "from kvstream.bench.streams import filling; "
        "[Monitor().process(filling(10)) for _ in range(3)]"
    )
    done = interpreted("-c", program)
    assert done.stderr.count("the core is not compiled") == 1
    assert "interpreted" in interpreted("-m", "kvstream", "--version").stdout


def test_it_needs_no_cython(interpreted):
    program = (
        "import sys; sys.modules['cython'] = None; from kvstream._core.build import COMPILED; "
        "from kvstream.engine.monitor import Monitor; from kvstream.bench.streams import busy; "
        "print(COMPILED, len(Monitor().process(busy(50, 200)).alerts))"
    )
    done = interpreted("-c", program)
    assert done.stdout.split()[:1] == ["False"], done.stderr
