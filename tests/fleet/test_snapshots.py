"""Snapshots of partitions in a directory, and in what fsspec calls one."""

import pytest

from kvstream.errors import ConfigError, StateError
from kvstream.fleet.snapshots import Snapshots, objects_at
from kvstream.state.snapshot import Section


@pytest.fixture(params=["directory", "bucket"])
def place(request, tmp_path):
    """Of a bucket, the memory of this process; ``test_buckets.py`` has one behind S3's protocol."""
    if request.param == "directory":
        return str(tmp_path)
    pytest.importorskip("fsspec")
    return f"memory://{tmp_path}"


def damage(place, offset, data):
    objects_at(place).write("t.frames-00000", f"offset-{offset:020d}.kvstate", data)


def section(number):
    return Section("source", "a", {"number": number})


def snapshots(place):
    return Snapshots.at(place, "t.frames", "test")


def test_the_newest_up_to_an_offset_is_found(place):
    kept = snapshots(place)
    for offset in (5, 20):
        kept.save(3, offset, 0.0, iter([section(offset)]))
    found = [snapshots(place).newest(3, at_most) for at_most in (None, 20, 19)]
    assert [each.offset for each in found] == [20, 20, 5]
    assert found[2].sections[0].body == {"number": 5}
    assert found[0].name == "offset-00000000000000000020.kvstate"
    assert snapshots(place).newest(3, 4) is None
    assert snapshots(place).newest(2, None) is None


def test_one_that_is_damaged_is_passed_over(place):
    kept = snapshots(place)
    for offset in (5, 20):
        kept.save(0, offset, 0.0, iter([section(offset)]))
    name = "offset-00000000000000000020.kvstate"
    damage(place, 20, objects_at(place).read("t.frames-00000", name)[:-3])
    assert kept.newest(0, 20).offset == 5


def test_where_all_are_damaged_that_is_said(place):
    kept = snapshots(place)
    kept.save(0, 5, 0.0, iter([section(5)]))
    damage(place, 5, b"")
    with pytest.raises(StateError, match=r"offset-0+5\.kvstate is damaged"):
        kept.newest(0, 5)


def test_what_is_committed_is_never_removed(place):
    """However many are saved whose commits are refused."""
    kept = snapshots(place)
    for offset in (1, 2, 3):
        kept.save(0, offset, 0.0, iter([section(offset)]))
        kept.prune(0, offset)
    for offset in (4, 5, 6, 7):
        kept.save(0, offset, 0.0, iter([section(offset)]))
    kept.prune(0, 3)
    assert snapshots(place).newest(0, 3).offset == 3
    assert snapshots(place).newest(0, 2).offset == 2
    assert snapshots(place).newest(0, 1) is None
    kept.prune(0, 7)
    assert snapshots(place).newest(0, 5) is None
    assert snapshots(place).newest(0, None).offset == 7


def test_another_worker_finds_what_is_left_over_and_removes_it(place):
    for offset in range(5):
        snapshots(place).save(0, offset, 0.0, iter([section(offset)]))
    kept = snapshots(place)
    assert kept.newest(0, 4).offset == 4
    kept.prune(0, 4)
    assert snapshots(place).newest(0, 2) is None


def test_an_unfinished_one_is_none(place):
    def broken():
        yield section(1)
        raise RuntimeError("the state is not whole")

    kept = snapshots(place)
    with pytest.raises(RuntimeError):
        kept.save(0, 1, 0.0, broken())
    assert kept.newest(0, None) is None


def test_a_bucket_of_an_unknown_kind_is_an_error_in_words():
    with pytest.raises(ConfigError, match=r"state in nosuch://bucket: .*nosuch"):
        snapshots("nosuch://bucket")
