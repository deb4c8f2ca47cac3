import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize("command", [[], ["run"], ["generate"], ["bench"], ["schemas"], ["schemas", "write"]])
def test_every_command_has_help(kvstream, command):
    ran = kvstream(*command, "--help")
    assert ran.code == 0
    assert "Usage" in ran.out
    if command in (["run"], ["generate"], ["bench"]):
        assert "Examples" in ran.out


def test_version_is_printed(kvstream):
    assert kvstream("--version").out.startswith("kvstream 0.")


def test_bench_measures_every_part_beside_the_plain_collector(kvstream):
    ran = kvstream("bench", "--events", 2000, "--repeats", 1, "--json")
    results = json.loads(ran.out)["results"]
    assert results[0]["of_plain"] == 1.0
    assert len(results) == 9
    assert all(r["ns_per_event"] > 0 for r in results)
    assert "M events/s" in kvstream("bench", "--events", 2000, "--repeats", 1).out


def test_core_imports_without_the_command_lines_packages():
    code = (
        "import sys\n"
        "for name in ('typer', 'rich', 'zstandard'): sys.modules[name] = None\n"
        "import kvstream.__main__, kvstream\n"
        "sys.argv = ['kvstream', 'run']\n"
        "kvstream.__main__.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pip install 'kvstream[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_reading_zstd_without_its_package_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['zstandard'] = None\n"
        "from kvstream.events.reader import EventReader\n"
        "list(EventReader('x').feed(b'\\x28\\xb5\\x2f\\xfd0000'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "pip install 'kvstream[zstd]'" in done.stderr
