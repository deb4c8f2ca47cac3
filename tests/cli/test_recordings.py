"""Recordings read as a whole, from Python."""

import pytest

from kvstream.cli.recordings import read_recordings
from kvstream.sources.inputs import Input
from kvstream.sources.options import ReadOptions


def test_recordings_are_closed_by_the_task_that_reads_them_if_a_frame_is_refused(troubles, closed_by_reader):
    def refuse(frame):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        read_recordings([Input.find(str(troubles))], ReadOptions(), refuse)
    assert closed_by_reader == [True]
