"""Workers of a group: whatever happens to them, they come to what one undisturbed process does."""

import os
import threading
import time

import confluent_kafka as ck
import msgspec
import pytest

from kvstream.errors import ConfigError
from kvstream.fleet.address import KafkaAddress
from kvstream.fleet.snapshots import DirectoryObjects, Snapshots
from kvstream.fleet.worker import Worker
from tests.fleet.brokers import PARTITIONS, Tansu, mock_cluster
from tests.fleet.partitions import CONFIG, engine, seen
from tests.fleet.workers import (
    SETTINGS,
    committed,
    ids,
    is_saved,
    new_worker,
    published,
    saved,
    uninterrupted,
    wait_until,
    working,
    write,
    written,
)
from tests.ports import free_port

SOURCES = 6

pytestmark = pytest.mark.slow  # a group takes three seconds to come together


def test_a_setting_that_only_one_of_its_clients_takes_leaves_none_open(tmp_path):
    address = KafkaAddress.parse(f"kafka://127.0.0.1:{free_port()}/none")
    snapshots = Snapshots.at(str(tmp_path), address.frames, "test")
    worker = Worker(address, {"acks": "1"}, snapshots, CONFIG)
    with pytest.raises(ConfigError, match="acks"):
        worker.connect()
    with pytest.raises(RuntimeError, match="closed"):
        worker._consumer.assignment()


def engines(events=4000, sources=SOURCES):
    return {f"engine-{n}": engine(f"engine-{n}", events, seed=n) for n in range(sources)}


def round_robin(frames):
    return [frame for together in zip(*frames.values(), strict=True) for frame in together]


def has_committed(broker, url, frames):
    """Whether the snapshots hold all frames that were written."""

    def check():
        ends = {
            number: max(r.offset for key, r in found if key is not None) + 1
            for number, found in written(broker, url).items()
            if any(key is not None for key, _ in found)
        }
        offsets = committed(broker, url)
        return all(offsets[number][0] >= end for number, end in ends.items())

    return check


def assert_as_uninterrupted(broker, url, place, frames):
    """Accounts, figures and incidents, read from the durable snapshots alone."""
    found = saved(broker, url, place)
    expected, alerts = uninterrupted(broker, url, {number: part.offset for number, part in found.items()})
    assert {n: seen(part) for n, part in found.items()} == {n: seen(expected[n]) for n in found}
    processed = {
        source: part.accounts(source).processed for part in found.values() for source in part.monitor.sources
    }
    assert processed == {source: sum(map(len, each)) for source, each in frames.items()}
    assert ids(published(broker, url)) >= ids(alerts)


def test_a_worker_saves_and_commits_what_it_has_judged(broker, tmp_path):
    url, frames = broker.url(), engines()
    write(broker, url, round_robin(frames))
    with working(new_worker(url, tmp_path)) as worker:
        wait_until(has_committed(broker, url, frames))
    assert_as_uninterrupted(broker, url, tmp_path, frames)
    assert worker.counts["refused_commits"] == 0
    for offset, metadata in committed(broker, url).values():
        assert offset < 0 or metadata in ("", None, f"offset-{offset:020d}.kvstate")  # some brokers drop it


def test_the_group_protocol_of_kip_848_comes_to_the_same(tmp_path):
    with mock_cluster() as broker:
        url, frames = broker.url(), engines()
        write(broker, url, round_robin(frames))
        settings = msgspec.structs.replace(SETTINGS, next_protocol=True)
        with working(new_worker(url, tmp_path, settings=settings)):
            wait_until(has_committed(broker, url, frames))
        assert_as_uninterrupted(broker, url, tmp_path, frames)


def test_stopping_commits_all_that_was_applied(broker, tmp_path):
    url, frames = broker.url(), engines()
    write(broker, url, round_robin(frames))
    settings = msgspec.structs.replace(SETTINGS, checkpoint_seconds=3600.0)
    with working(new_worker(url, tmp_path, settings=settings)) as worker:
        wait_until(lambda: sum(each.processed for each in worker.statistics()) == SOURCES * 4000)
    assert_as_uninterrupted(broker, url, tmp_path, frames)


def test_one_goes_on_where_another_has_stopped(broker, tmp_path):
    url, frames = broker.url(), engines()
    together = round_robin(frames)
    for start in range(0, len(together), 60):
        write(broker, url, together[start : start + 60])
        with working(new_worker(url, tmp_path)):
            wait_until(has_committed(broker, url, frames))
    assert_as_uninterrupted(broker, url, tmp_path, frames)


def test_workers_share_partitions_as_they_come_and_go(broker, tmp_path):
    url, frames = broker.url(), engines()
    together = round_robin(frames)
    third = len(together) // 3
    with working(new_worker(url, tmp_path)) as first:
        write(broker, url, together[:third])
        with working(new_worker(url, tmp_path)) as second:
            wait_until(lambda: second.statistics() and first.statistics())
            write(broker, url, together[third : 2 * third])
            wait_until(has_committed(broker, url, frames))
        assert second.counts["revoked"] > 0
        write(broker, url, together[2 * third :])
        wait_until(has_committed(broker, url, frames))
    assert_as_uninterrupted(broker, url, tmp_path, frames)


def test_frames_that_are_sent_twice_count_once(broker, tmp_path):
    url, frames = broker.url(), engines()
    write(broker, url, [frame for frame in round_robin(frames) for _ in range(2)])
    with working(new_worker(url, tmp_path)):
        wait_until(has_committed(broker, url, frames))
    assert_as_uninterrupted(broker, url, tmp_path, frames)


class Stubborn(Snapshots):
    """A bucket that fails as it is bidden, or takes its time."""

    def __init__(self, place, url, error=None, seconds=0.0):
        super().__init__(str(place), DirectoryObjects(place), KafkaAddress.parse(url).frames, "test")
        self.fails = threading.Event()
        self.failed = 0
        self._error, self._seconds = error or PermissionError(13, "Access denied"), seconds

    def _fail(self):
        if self.fails.is_set():
            self.failed += 1
            if not self._seconds:
                raise self._error
            time.sleep(self._seconds)

    def save(self, *args):
        self._fail()
        return super().save(*args)

    def newest(self, *args):
        self._fail()
        return super().newest(*args)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Access denied"), "Access denied"),
        (OSError(5, "An internal error occurred (500)"), "internal error"),
    ],
    ids=["403", "500"],
)
def test_nothing_is_committed_while_nothing_can_be_saved(broker, tmp_path, caplog, error, said):
    url, frames = broker.url(), engines()
    snapshots = Stubborn(tmp_path, url, error)
    with working(new_worker(url, tmp_path, snapshots=snapshots)) as worker:
        # All are restored by then: one that is not would stand still, and apply nothing.
        wait_until(lambda: sum(each.offset >= 0 for each in worker.statistics()) == PARTITIONS)
        snapshots.fails.set()
        before = committed(broker, url)
        write(broker, url, round_robin(frames))
        wait_until(lambda: sum(each.processed for each in worker.statistics()) == SOURCES * 4000)
        wait_until(lambda: snapshots.failed > 2)
        assert all(offset <= max(before[n][0], 0) + 5 for n, (offset, _) in committed(broker, url).items())
        assert said in caplog.text
        assert any(said in each.problem for each in worker.statistics())
        snapshots.fails.clear()
        wait_until(has_committed(broker, url, frames))
        wait_until(lambda: not any(each.problem for each in worker.statistics()))
    assert_as_uninterrupted(broker, url, tmp_path, frames)


def test_a_partition_that_cannot_be_restored_stands_still_and_says_so(broker, tmp_path, monkeypatch):
    monkeypatch.setattr("kvstream.fleet.worker._RESTORE_SECONDS", 0.2)
    url, frames = broker.url(), engines()
    together = round_robin(frames)
    half = len(together) // 2
    write(broker, url, together[:half])
    with working(new_worker(url, tmp_path)):
        wait_until(has_committed(broker, url, frames))
    write(broker, url, together[half:])
    snapshots = Stubborn(tmp_path, url)
    snapshots.fails.set()
    with working(new_worker(url, tmp_path, snapshots=snapshots)) as worker:
        wait_until(lambda: snapshots.failed > 4)
        wait_until(lambda: {each.problem for each in worker.statistics()} == {"Access denied"})
        assert worker.counts["records"] == 0
        snapshots.fails.clear()
        wait_until(has_committed(broker, url, frames))
    assert_as_uninterrupted(broker, url, tmp_path, frames)


def test_a_bucket_that_takes_its_time_makes_workers_slow_and_nothing_wrong(broker, tmp_path):
    """One that leaves is waited for; ``KVSTREAM_FLEET_BUCKET_SECONDS=10`` has it as slow as that."""
    if isinstance(broker, Tansu):
        pytest.skip("Tansu assigns nothing to a new member once two have left while it balanced the group")
    url, frames = broker.url(), engines()
    together = round_robin(frames)
    half = len(together) // 2
    seconds = float(os.environ.get("KVSTREAM_FLEET_BUCKET_SECONDS", "0.5"))

    def slow():
        snapshots = Stubborn(tmp_path, url, seconds=seconds)
        snapshots.fails.set()
        return new_worker(url, tmp_path, snapshots=snapshots)

    write(broker, url, together[:half])
    with working(slow()), working(slow()):
        wait_until(lambda: any(offset > 0 for offset, _ in committed(broker, url).values()))
        write(broker, url, together[half:])
    with working(slow()):
        wait_until(has_committed(broker, url, frames))
    assert_as_uninterrupted(broker, url, tmp_path, frames)


def test_a_slow_bucket_keeps_no_worker_from_its_group(tmp_path):
    """All partitions together take longer to save than a member of the group may stay away."""
    seconds = 1.7
    with mock_cluster() as broker:
        url, frames = broker.url(), engines()
        snapshots = Stubborn(tmp_path, url, seconds=seconds)
        worker = new_worker(url, tmp_path, snapshots=snapshots, kafka={"max.poll.interval.ms": "6000"})
        assert PARTITIONS * seconds > 6.0
        with working(worker):
            wait_until(lambda: sum(each.offset >= 0 for each in worker.statistics()) == PARTITIONS)
            snapshots.fails.set()
            write(broker, url, round_robin(frames))
            wait_until(has_committed(broker, url, frames))
            assert (worker.counts["lost"], worker.counts["refused_commits"]) == (0, 0)
        assert_as_uninterrupted(broker, url, tmp_path, frames)


def test_a_broker_that_drops_what_a_commit_says_beside_its_offset(broker, tmp_path):
    url, frames = broker.url(), engines()
    together = round_robin(frames)
    half = len(together) // 2

    class Dropping:
        def __init__(self, consumer):
            self._consumer = consumer

        def __getattr__(self, name):
            return getattr(self._consumer, name)

        def commit(self, offsets, **options):
            bare = [ck.TopicPartition(place.topic, place.partition, place.offset) for place in offsets]
            return self._consumer.commit(offsets=bare, **options)

    for part in (together[:half], together[half:]):
        write(broker, url, part)
        worker = new_worker(url, tmp_path)
        worker._consumer = Dropping(worker._consumer)
        with working(worker):
            wait_until(has_committed(broker, url, frames))
        assert {metadata for _, metadata in committed(broker, url).values()} <= {"", None}
        assert not any(where == "state" for where, _ in worker.faults.counts)
    assert_as_uninterrupted(broker, url, tmp_path, frames)


def test_where_the_committed_snapshot_is_gone_nothing_goes_on(broker, tmp_path):
    url, frames = broker.url(), engines()
    write(broker, url, round_robin(frames))
    with working(new_worker(url, tmp_path)):
        wait_until(has_committed(broker, url, frames))
    for path in tmp_path.rglob("*.kvstate"):
        path.unlink()
    gone = {number for number, (offset, _) in committed(broker, url).items() if offset > 0}
    assert gone
    with working(new_worker(url, tmp_path)) as worker:
        wait_until(
            lambda: {p.number for p in worker.statistics() if "has no snapshot of it" in p.problem} == gone
        )
        assert not [each for each in worker.statistics() if each.number in gone and each.offset >= 0]


def test_a_damaged_snapshot_falls_back_to_the_one_before(broker, tmp_path):
    url, frames = broker.url(), engines()
    together = round_robin(frames)
    for part in (together[: len(together) // 2], together[len(together) // 2 :]):
        write(broker, url, part)
        with working(new_worker(url, tmp_path)):
            wait_until(has_committed(broker, url, frames))
    for folder in tmp_path.iterdir():
        kept = sorted(folder.iterdir())
        if len(kept) > 1:  # of a partition without frames there is one
            kept[-1].write_bytes(kept[-1].read_bytes()[:100])
    with working(new_worker(url, tmp_path)) as worker:
        wait_until(lambda: sum(each.processed for each in worker.statistics()) == SOURCES * 4000)
        wait_until(lambda: is_saved(broker, url, tmp_path))
    assert worker.faults.counts["state", "older"] > 0
    assert_as_uninterrupted(broker, url, tmp_path, frames)


def test_each_cache_has_its_newest_summary_in_the_topic(broker, tmp_path):
    url, frames = broker.url(), engines()
    write(broker, url, round_robin(frames))
    with working(new_worker(url, tmp_path)):
        wait_until(has_committed(broker, url, frames))
        wait_until(
            lambda: (
                {
                    key
                    for found in written(broker, url, "summaries").values()
                    for key, record in found
                    if msgspec.json.decode(record.value)["accounts"]["processed"] == 4000
                }
                == {f"{source}\0gpu".encode() for source in frames}
            )
        )


def test_a_refused_commit_is_not_a_lost_partition(broker, tmp_path, monkeypatch):
    """It is tried again with the next snapshot, and nothing is lost or dropped meanwhile."""
    url, frames = broker.url(), engines()
    worker = new_worker(url, tmp_path)
    refusals = []

    class Refusing:
        def __init__(self, consumer):
            self._consumer = consumer

        def __getattr__(self, name):
            return getattr(self._consumer, name)

        def commit(self, **options):
            if len(refusals) < 8:
                refusals.append(options)
                raise ck.KafkaException(ck.KafkaError(ck.KafkaError.REBALANCE_IN_PROGRESS))
            return self._consumer.commit(**options)

    worker._consumer = Refusing(worker._consumer)
    write(broker, url, round_robin(frames))
    with working(worker):
        wait_until(has_committed(broker, url, frames))
    assert worker.counts["refused_commits"] == len(refusals) == 8
    assert worker.counts["lost"] == 0
    assert_as_uninterrupted(broker, url, tmp_path, frames)


class Crash(BaseException):
    """The end of a process, as far as state goes."""


@pytest.mark.parametrize("before", ["publish", "save", "saved", "commit", "committed", "prune"])
def test_a_crash_between_any_two_steps_changes_nothing(broker, tmp_path, before):
    url, frames = broker.url(), engines()
    write(broker, url, round_robin(frames))
    worker = crashing(new_worker(url, tmp_path), before)
    with pytest.raises(Crash), working(worker):
        wait_until(lambda: worker.crashed.is_set())
    with working(new_worker(url, tmp_path)):
        wait_until(has_committed(broker, url, frames))
    assert_as_uninterrupted(broker, url, tmp_path, frames)


def crashing(worker, before):
    """A worker that ends before a step of its third checkpoint, and closes nothing."""
    worker.crashed = threading.Event()
    calls = []

    def crash(step, function, *args, **options):
        if worker.crashed.is_set():
            raise Crash
        calls.append(step)
        if step == before and calls.count(step) == 3:
            worker.crashed.set()
            raise Crash
        return function(*args, **options)

    class Client:
        def __init__(self, client):
            self._client = client

        def __getattr__(self, name):
            return getattr(self._client, name)

        def is_published(self, *args):
            return crash("publish", self._client.is_published, *args)

        def commit(self, **options):
            result = crash("commit", self._client.commit, **options)
            crash("committed", lambda: None)
            return result

    class Kept:
        def __init__(self, snapshots):
            self._snapshots = snapshots
            self.place = snapshots.place

        def newest(self, *args):
            return self._snapshots.newest(*args)

        def save(self, *args):
            result = crash("save", self._snapshots.save, *args)
            crash("saved", lambda: None)
            return result

        def prune(self, *args):
            return crash("prune", self._snapshots.prune, *args)

    worker._outbox, worker._consumer = Client(worker._outbox), Client(worker._consumer)
    worker._snapshots = Kept(worker._snapshots)
    return worker
