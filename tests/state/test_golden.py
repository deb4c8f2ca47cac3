"""Snapshots that earlier versions wrote: every later one goes on from them as if nothing had happened."""

from pathlib import Path

import pytest

from kvstream.sources.reader import EventReader
from kvstream.state.inspection import described, problems_of
from kvstream.state.sections import restore
from kvstream.state.snapshot import unpack
from kvstream.state.store import SnapshotFile
from tests.data.make_state import APART, CONFIG, SAVED_AT, SILENCE, begun, process
from tests.state.test_sections import Stream

DATA = Path(__file__).parents[1] / "data"
GOLDEN = sorted(path.name for path in DATA.glob("state_v*.kvstate"))
CUT = {1: 162, 2: 162}
"""By version: the first of the frames that none of its sources had seen."""
_LIVE = {
    ("slots", "gpu"): 21,
    ("contents", "gpu"): 18,
    ("copies", "gpu"): 20,
    ("copies", "cpu"): 18,
    ("refused", "gpu"): 26,
}
LIVE = {1: _LIVE, 2: _LIVE}


def read(name):
    if ".zstd." in name:
        pytest.importorskip("zstandard")
    return unpack((DATA / name).read_bytes())


def test_there_are_snapshots_of_every_version_in_both_compressions():
    assert [f"state_v{version}.{way}.kvstate" for version in CUT for way in ("zlib", "zstd")] == GOLDEN


@pytest.mark.parametrize("name", GOLDEN)
def test_what_goes_on_from_it_comes_to_what_an_uninterrupted_run_comes_to(name):
    version = int(name.removeprefix("state_v").partition(".")[0])
    data = (DATA / f"state_v{version}.kvlog.gz").read_bytes()
    frames = list(EventReader("x").feed(data))
    header, sections = read(name)
    *cuts, (_, cut) = cuts_of(sections)
    assert (header.taken_at, cut) == (1_800_000_060.0, CUT[version])
    straight, after = begun(2), Stream(3, CONFIG)
    restored = restore(after.parts, sections, after.monitor_of, 0.0)
    assert (restored.sources, restored.problems, restored.alerts) == ([name for name, _ in cuts], {}, [])
    assert after.parts.silences.all() == [SILENCE]
    before = [alert for at, each in enumerate(frames[:cut]) for alert in process(straight, each, at)]
    assert {alert.rule for alert in before} >= {"lost_frames", "source_restarted"}
    for source, seen in cuts:
        for each in frames[seen:cut]:
            if each.source == source:
                after.process(each)
    assert after.figures() == straight.figures()
    for at, each in enumerate(frames[cut:], cut):
        assert process(after, each, at) == process(straight, each, at)
    assert after.figures() == straight.figures()


def cuts_of(sections):
    """For each section, how many of all frames had been applied when it was saved."""
    return [(section.name, SAVED_AT + APART * number) for number, section in enumerate(sections)]


@pytest.mark.parametrize("name", GOLDEN)
def test_it_is_whole_and_described(name):
    header, sections = read(name)
    file = SnapshotFile(name=name, number=3, bytes=1, header=header, sections=sections)
    assert problems_of(file) == []
    saved = described(file, header.taken_at)
    assert (saved.problems, saved.writer) == ([], "0.1.0")
    live = {(each.name, cache.tier): cache.live_blocks for each in saved.sections for cache in each.caches}
    assert live == LIVE[int(name[len("state_v")])]


def test_a_stream_with_other_settings_names_the_setting():
    after = Stream(1)
    _, sections = read(GOLDEN[0])
    restored = restore(after.parts, sections, after.monitor_of, 0.0)
    assert restored.sources == []
    assert all("it was saved with window_seconds = 0.5" in text for text in restored.problems.values())
