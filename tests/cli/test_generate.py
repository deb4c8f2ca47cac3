import signal

import pytest

from tests.cli.conftest import DEADLINE, running
from tests.waiting import until


@pytest.mark.parametrize("name", ["x.jsonl", "x.kvlog", "x.jsonl.gz", "x.kvlog.zst"])
def test_every_output_is_read_back(kvstream, tmp_path, name):
    path = tmp_path / name
    assert kvstream("generate", "mixed", "--events", 5000, "-o", path).code == 0
    assert kvstream("run", path).results[-1]["accounts"]["processed"] == 5000


def test_generate_pipes_into_run(kvstream):
    for name in ("jsonl", "kvlog"):
        made = kvstream("generate", "chat", "--events", 3000, "--format", name)
        assert made.code == 0
        assert made.err == ""
    assert len(kvstream("generate", "chat", "--events", 3000).out.splitlines()) == 3000


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
async def test_a_signal_leaves_no_half_of_a_file(tmp_path, number):
    with running("generate", "chat", "--events", "1000M", "-o", tmp_path / "out.kvlog") as process:
        await until(lambda: any(path.stat().st_size for path in tmp_path.iterdir()))
        process.send_signal(number)
        assert process.wait(timeout=DEADLINE) == 128 + number
    assert list(tmp_path.iterdir()) == []
