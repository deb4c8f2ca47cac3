"""A service's output while a disk fills up, a reader is slow or leaves."""

import os
import resource

import pytest

from kvstream.faults.log import FaultLog
from kvstream.sinks.patient_file import PatientFile

LINE = b"x" * 39 + b"\n"


@pytest.fixture
def small_disk():
    """Lets files grow to so many bytes, until called again."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_torn_line_is_completed_once_there_is_room(tmp_path, small_disk, caplog):
    faults = FaultLog()
    path = tmp_path / "alerts.jsonl"
    with path.open("ab") as file:
        output = PatientFile.on(file.fileno(), faults)
        small_disk(100)
        for _ in range(5):
            output.write(LINE)
            output.flush()
        assert path.read_bytes() == (LINE * 3)[:100]
        assert output.waiting == 3
        small_disk(10_000)
        output.flush()
        assert output.waiting == output.lost == 0
        output.close()
    assert path.read_bytes() == LINE * 5
    assert faults.counts["output", "write_failed"] >= 2
    assert [record.message for record in caplog.records] == [
        "standard output: File too large; trying again until it is written",
        "standard output: written again",
    ]


def test_what_waits_is_bounded_and_what_is_lost_is_counted(caplog):
    with open("/dev/full", "wb", buffering=0) as file:
        output = PatientFile.on(file.fileno(), FaultLog())
        for _ in range(200):
            output.write(b"x" * 9_999 + b"\n")
            output.flush()
        assert output.waiting == 104
        assert output.lost == 96
        assert sum("lines are lost" in record.message for record in caplog.records) == 1
        with pytest.raises(OSError, match="200 lines"):
            output.close()


@pytest.mark.parametrize("blocking", [True, False])
def test_a_slow_reader_is_not_waited_for(blocking):
    read, write = os.pipe()
    os.set_blocking(write, blocking)
    output = PatientFile.on(write, FaultLog())
    for _ in range(5_000):
        output.write(LINE)
        output.flush()
    assert output.waiting > 1_000
    got = b""
    while len(got) < 5_000 * len(LINE):
        got += os.read(read, 65536)
        output.flush()
    assert got == LINE * 5_000
    output.close()
    os.close(read)
    os.close(write)


def test_a_reader_that_left_and_a_closed_output_are_errors():
    read, write = os.pipe()
    with pytest.raises(OSError, match="standard output"):
        PatientFile.on(read, FaultLog())
    output = PatientFile.on(write, FaultLog())
    os.close(read)
    output.write(LINE)
    with pytest.raises(BrokenPipeError):
        output.flush()
    os.close(write)
