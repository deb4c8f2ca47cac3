"""``kvstream state``: what a directory of snapshots holds, and whether it is whole."""

import pytest
from msgspec.structs import replace

from kvstream.cli.state import _lines
from kvstream.state.inspection import SavedPlace, SavedSnapshot, described
from kvstream.state.snapshot import Header
from kvstream.state.store import DirectoryStore
from tests.state.test_inspection import HEADER, file_of, sections_of

NEWEST, OLDER = "snapshot-000000000001.kvstate", "snapshot-000000000000.kvstate"


@pytest.fixture
def directory(tmp_path):
    """Two snapshots of two sources, in a directory with a name that a terminal would act on."""
    path = tmp_path / "state\x1b"
    with DirectoryStore(path) as store:
        for taken_at in (1.0, 2.0):
            with store.begin(Header(number=store.next_number(), taken_at=taken_at, writer="0.1.0")) as made:
                for section in sections_of():
                    made.add(section)
                made.finish()
    return path


def test_each_snapshot_is_shown_newest_first_as_json_lines(kvstream, directory):
    ran = kvstream("state", "inspect", directory, "--json")
    assert (ran.code, ran.err) == (0, "")
    newest, older = ran.of_type("snapshot")
    assert (newest["file"], newest["taken_at"], older["file"], older["taken_at"]) == (NEWEST, 2.0, OLDER, 1.0)
    assert older["age_seconds"] > newest["age_seconds"] > 1e9
    assert newest["bytes"] == (directory / NEWEST).stat().st_size
    assert [section["name"] for section in newest["sections"]] == ["a", "b", ""]
    assert newest["sections"][0]["next_frame"] == 3


def test_on_a_terminal_each_section_has_a_line():
    snapshot = described(file_of(sections_of()), HEADER.taken_at + 12)
    first, a, b, stream = _lines(snapshot)
    begun = "begun 2027-01-15 08:00:00 UTC, 12 s ago, by kvstream 0.1.0"
    assert first == f"x.kvstate: whole, {snapshot.bytes:,} bytes, {begun}"
    assert a.startswith("  source  a ")
    assert a.endswith("bytes  gpu 3 live blocks, next frame 3 of epoch 9")
    assert b.endswith("bytes  cpu 1 live blocks")
    assert stream.startswith("  stream ")
    assert _lines(SavedSnapshot(file="x", number=1, bytes=9, problems=["torn"])) == [
        "x: DAMAGED, 9 bytes",
        "  torn",
    ]


def test_on_a_terminal_the_places_that_inputs_go_on_from_are_said_in_their_words():
    places = [
        SavedPlace(input="a.jsonl", life=2, at=1_234, check="7:21:2:180:6"),
        SavedPlace(input="zmq://host:5557", life=9, at=17, check="ab12"),
    ]
    snapshot = described(file_of(sections_of()), HEADER.taken_at)
    section = replace(snapshot.sections[1], inputs=places)
    *_, line = _lines(replace(snapshot, sections=[section]))
    wanted = "a.jsonl from byte 1,234 of inode 21, zmq://host:5557 from batch 17 of epoch 9"
    assert line.endswith(f"live blocks, {wanted}")


def test_a_server_that_saves_meanwhile_is_not_disturbed(kvstream, directory):
    with DirectoryStore(directory):
        assert kvstream("state", "inspect", directory).code == 0
        assert kvstream("state", "verify", directory).code == 0


def test_what_is_whole_verifies_with_code_0(kvstream, directory):
    ran = kvstream("state", "verify", directory)
    assert (ran.code, ran.err) == (0, "")
    assert [snapshot["problems"] for snapshot in ran.results] == [[], []]


@pytest.mark.parametrize(
    ("name", "consequence"),
    [
        (NEWEST, f"a server resumes from {OLDER}, and asks its inputs for what came after it"),
        (OLDER, "a server resumes from the newest, and the next snapshot that it saves replaces the damaged"),
    ],
)
def test_one_damaged_snapshot_fails_verify_alone_and_what_follows_is_said(
    kvstream, directory, name, consequence
):
    whole = (directory / name).read_bytes()
    (directory / name).write_bytes(whole[:-20])
    ran = kvstream("state", "verify", directory)
    assert ran.code == 1
    assert ran.err.startswith(f"kvstream: {directory}".replace("\x1b", "\\x1b"))
    assert f"1 of 2 snapshots are damaged: {consequence}" in ran.err
    problems = {snapshot["file"]: snapshot["problems"] for snapshot in ran.results}
    (damage,) = problems.pop(name)
    assert damage.startswith("torn at byte")
    assert list(problems.values()) == [[]]
    assert kvstream("state", "inspect", directory).code == 0


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_nothing_whole_is_an_error_that_says_what_to_do(kvstream, directory, command):
    for name in (NEWEST, OLDER):
        (directory / name).write_bytes(b"x" * 100)
    ran = kvstream("state", command, directory)
    assert ran.code == 1
    assert [snapshot["problems"] for snapshot in ran.results] == [["this is no snapshot of kvstream"]] * 2
    assert "no snapshot is whole: a server would begin with nothing; put a copy of a whole one" in ran.err


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_directory_without_snapshots_is_an_error(kvstream, tmp_path, command):
    ran = kvstream("state", command, tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert (
        ran.err == f"kvstream: {tmp_path} holds no snapshots; name the directory of kvstream serve --state\n"
    )
    ran = kvstream("state", command, tmp_path / "nowhere")
    assert (ran.code, ran.out) == (1, "")
    assert "No such file or directory" in ran.err
    assert not (tmp_path / "nowhere").exists()
