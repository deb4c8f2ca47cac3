"""What is said of snapshots, also of those that lie."""

import random

import msgspec
import pytest
from msgspec.structs import replace

from kvstream.config import MetricsConfig
from kvstream.errors import StateError
from kvstream.events.position import Place, Position
from kvstream.state.inspection import SavedCache, SavedPlace, SavedSection, described, problems_of
from kvstream.state.progress import InputProgress
from kvstream.state.sections import source_section, stream_section
from kvstream.state.snapshot import Header, Section, _plain_pieces, pack, pack_section, unpack
from kvstream.state.store import SnapshotFile
from tests.state.test_sections import SMALL, Stream, written
from tests.strategies import frame

HEADER = Header(number=7, taken_at=1_800_000_000.0, writer="0.1.0")


def file_of(sections):
    data = pack(HEADER, sections)
    header, read = unpack(data)
    return SnapshotFile(name="x.kvstate", number=7, bytes=len(data), header=header, sections=read)


def sections_of(config=SMALL):
    stream = Stream(config=config)
    for seq in range(3):
        stream.process(frame([(0, seq, 1000, ""), (1, seq, 2000, "")], "a", epoch=9, seq=seq))
    stream.process(frame([(0, 1, 1000, "")], "b", "cpu"))
    saved = stream.parts.sources()
    return [*map(source_section, saved.values()), stream_section(stream.parts, saved)]


def test_each_section_is_described_with_its_size_caches_and_next_frame():
    sections = sections_of()
    saved = described(file_of(sections), HEADER.taken_at + 12)
    assert (saved.problems, saved.writer, saved.taken_at, saved.age_seconds) == (
        [],
        "0.1.0",
        HEADER.taken_at,
        12.0,
    )
    a, b, stream = saved.sections
    assert (a.kind, a.name, a.caches) == ("source", "a", [SavedCache(tier="gpu", live_blocks=3)])
    assert (a.epoch, a.next_frame) == (9, 3)
    assert b.caches == [SavedCache(tier="cpu", live_blocks=1)]
    assert (b.epoch, b.next_frame) == (None, None)
    assert stream == SavedSection(kind="stream", name="", bytes=stream.bytes)
    assert 0 < sum(map(len, pack_section(sections[0]))) - a.bytes < 64


def test_inputs_that_can_be_read_again_are_described_with_the_place_they_go_on_from():
    stream, progress = Stream(), InputProgress()
    for seq, place in enumerate([Place(0, 0, "7:21:1:90:5"), Place(0, 90, "7:21:2:180:6")]):
        each = replace(frame([(0, seq, 1000, "")], "a", seq=seq), position=Position("a.jsonl", place, 1))
        progress.take(each)
        stream.process(each)
        progress.apply([each], True)
    (source,) = stream.parts.sources().values()
    whole = replace(stream.parts, inputs=progress)
    sections = [source_section(source, progress), stream_section(whole, {"a": source})]
    a, rest = described(file_of(sections), 0.0).sections
    assert a.inputs == rest.inputs == [SavedPlace(input="a.jsonl", life=0, at=90, check="7:21:2:180:6")]


def test_what_a_stream_could_go_on_from_has_no_problems_whatever_its_settings():
    config = MetricsConfig(window_seconds=7.0, sample_rate=0.5)
    assert problems_of(file_of(sections_of(config))) == []


def test_a_section_that_is_missing_or_lacks_a_part_is_named():
    sections = sections_of()
    assert problems_of(file_of(sections[:-1])) == ["the section of the stream is missing"]
    assert problems_of(file_of(sections[1:])) == ["source 'a': its section is missing"]
    whole = written(sections)
    del whole[0].body["tiers"]["gpu"]["ring"]
    assert problems_of(file_of(whole)) == ["source 'a' cannot be restored: KeyError('ring')"]
    del whole[1].body["sequence"]
    (problem,) = described(file_of(whole), 0.0).problems
    assert problem == "section source 'b' cannot be read: KeyError('sequence')"


@pytest.mark.parametrize("settings", [{"window_seconds": -1}, {"unknown": 1}, 5, None])
def test_settings_that_are_none_are_a_problem(settings):
    whole = written(sections_of())
    whole[0].body["settings"] = settings
    (problem,) = problems_of(file_of(whole))
    assert problem.startswith("its settings cannot be used")


def test_what_was_made_on_purpose_with_right_checksums_is_a_problem_at_most():
    """Bytes of the state itself are changed, so that no checksum shows it: nothing is raised."""
    rng, reached, problems = random.Random(5), 0, 0
    sections = written(sections_of())
    for _ in range(200):
        try:
            file = file_of([forged(section, rng) for section in sections])
        except StateError:
            continue
        reached += 1
        problems += bool(described(file, 0.0).problems or problems_of(file))
    assert reached > 50
    assert problems > 10


def forged(section, rng):
    """A section with one byte of its msgpack changed."""
    body = bytearray(b"".join(_plain_pieces(section.body)))
    body[rng.randrange(len(body))] = rng.randrange(256)
    return Section(section.kind, section.name, msgspec.Raw(bytes(body)))
