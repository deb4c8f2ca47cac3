import os
import subprocess
import sys

import pytest

from kvstream.errors import StateError
from kvstream.state.snapshot import Header, Section
from kvstream.state.store import KEPT, DirectoryStore
from tests.state.power import PowerLoss, UnsyncedFiles


def save(store: DirectoryStore, value: int) -> None:
    header = Header(number=store.next_number(), taken_at=0.0, writer="test")
    with store.begin(header) as snapshot:
        for part in range(3):
            snapshot.add(Section("source", f"engine-{part}", {"value": value}))
        snapshot.finish()


def values(store: DirectoryStore) -> set[int] | None:
    newest = store.newest()
    return None if newest is None else {section.body["value"] for section in newest.sections}


def test_the_newest_snapshot_is_found_and_the_last_two_are_kept(tmp_path):
    with DirectoryStore(tmp_path) as store:
        assert values(store) is None
        for value in range(5):
            save(store, value)
        assert values(store) == {4}
        assert [file.number for file in store.look()] == [4, 3]
    assert len(list(tmp_path.glob("snapshot-*"))) == KEPT


def test_a_damaged_newest_snapshot_falls_back_to_the_one_before(tmp_path):
    with DirectoryStore(tmp_path) as store:
        save(store, 1)
        save(store, 2)
        newest = sorted(tmp_path.glob("snapshot-*"))[-1]
        whole = newest.read_bytes()
        for at in range(len(whole)):
            newest.write_bytes(whole[:at])
            assert values(store) == {1}
            newest.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
            assert values(store) == {1}
        newest.unlink()
        assert values(store) == {1}


def test_nothing_readable_is_none_and_says_why(tmp_path):
    with DirectoryStore(tmp_path) as store:
        save(store, 1)
        for file in tmp_path.glob("snapshot-*"):
            file.write_bytes(b"not a snapshot")
        assert store.newest() is None
        assert [file.damage for file in store.look()] == ["this is no snapshot of kvstream"]


def test_a_number_is_never_used_twice_even_if_the_newest_is_damaged(tmp_path):
    with DirectoryStore(tmp_path) as store:
        save(store, 1)
        next(iter(tmp_path.glob("snapshot-*"))).write_bytes(b"")
        save(store, 2)
        assert [file.number for file in store.look()] == [1, 0]


def test_a_second_process_is_kept_out(tmp_path):
    program = "import sys, kvstream.state.store as s; s.DirectoryStore(sys.argv[1]).open()"

    def open_in_another_process() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with DirectoryStore(tmp_path):
        held = open_in_another_process()
    assert f"is in use by process {os.getpid()}" in held.stderr
    free = open_in_another_process()
    assert free.returncode == 0, free.stderr


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot keep state in"):
        DirectoryStore(tmp_path / "file" / "inside").open()


def test_a_failed_save_leaves_what_was_there(tmp_path):
    files = UnsyncedFiles()
    store = DirectoryStore(tmp_path, files)
    save(store, 1)
    steps = files.steps
    save(store, 2)
    for step in range(files.steps - steps):
        files = UnsyncedFiles()
        store = DirectoryStore(tmp_path, files)
        save(store, 1)
        files.fail_at = files.steps + step
        with pytest.raises(OSError, match="No space"):
            save(store, 2)
        files.fail_at = None
        assert values(store) in ({1}, {2})
        save(store, 3)
        assert values(store) == {3}


def test_power_lost_at_any_step_leaves_the_old_or_the_new_snapshot(tmp_path):
    """Whatever is left of what was not synced, nothing may show half a snapshot."""
    files = UnsyncedFiles()
    save(DirectoryStore(tmp_path, files), 1)
    before = files.steps
    save(DirectoryStore(tmp_path, files), 2)
    outcomes = []
    for step in range(before, files.steps + 1):
        files = UnsyncedFiles()
        store = DirectoryStore(tmp_path, files)
        save(store, 1)
        files.power_lost_at = step
        finished = True
        try:
            save(store, 2)
        except PowerLoss:
            finished = False
        each_found = [values(DirectoryStore(tmp_path, found)) for found in files.after_power_loss()]
        assert all(found in ({1}, {2}) for found in each_found)
        assert not finished or all(found == {2} for found in each_found)
        outcomes += each_found
    assert outcomes[0] == {1}
    assert outcomes[-1] == {2}


def test_a_snapshot_to_fall_back_to_is_kept_in_place_of_a_damaged_one(tmp_path):
    with DirectoryStore(tmp_path) as store:
        for value in (1, 2):
            save(store, value)
        (tmp_path / "snapshot-000000000001.kvstate").write_bytes(b"damaged")
        assert values(store) == {1}
        save(store, 3)
        assert [file.number for file in store.look()] == [2, 1, 0]
        (tmp_path / "snapshot-000000000002.kvstate").write_bytes(b"damaged too")
        assert values(store) == {1}
        for value in (4, 5):
            save(store, value)
        assert [file.number for file in store.look()] == [4, 3]


def test_a_snapshot_that_is_removed_while_it_is_looked_for_is_passed_over(tmp_path):
    files = UnsyncedFiles()
    save(DirectoryStore(tmp_path, files), 1)
    files.names = lambda: ["snapshot-000000000000.kvstate", "snapshot-000000000007.kvstate"]
    store = DirectoryStore(tmp_path, files)
    assert [file.number for file in store.look()] == [0]
    assert values(store) == {1}
