"""Workers as processes that are killed, stopped and started, beside one process that nothing interrupts.

What the workers come to is read from the durable snapshots and the committed offsets alone. The short form is
a slow test; ``KVSTREAM_FLEET_KILLS=50 KVSTREAM_FLEET_STOPS=10`` has it as long as wanted, and prints figures.
"""

import os
import random
import signal
import threading
import time
import urllib.request
from collections import defaultdict
from contextlib import ExitStack, contextmanager

import confluent_kafka as ck
import pytest
from msgspec.structs import replace

from kvstream.events.codec import encode_frame
from kvstream.fleet.address import KafkaAddress
from kvstream.fleet.partition import Record
from kvstream.sources.synthetic import generate
from tests.fleet.partitions import partition, seen
from tests.fleet.workers import committed, ids, published, saved, wait_until
from tests.forked import DEVNULL, Kvstream
from tests.ports import free_port
from tests.waiting import DEADLINE

KILLS = int(os.environ.get("KVSTREAM_FLEET_KILLS", "2"))
STOPS = int(os.environ.get("KVSTREAM_FLEET_STOPS", "1"))
SOURCES = 64 if KILLS > 2 else 16
SESSION = 6.0
HELD_BACK = 1000
"""Records of each partition that the undisturbed process leaves until it knows how far the workers came."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


class Engines(threading.Thread):
    """Engines that send frames, every tenth of them twice; counts the events of each."""

    def __init__(self, broker, url):
        super().__init__()
        self.events = defaultdict(int)
        self.stop = threading.Event()
        self._topic = KafkaAddress.parse(url).frames
        self._producer = ck.Producer(
            {
                "bootstrap.servers": broker.address,
                "partitioner": "murmur2",
                "enable.idempotence": True,
                "log_level": 0,
            }
        )

    def run(self):
        frames = {
            f"engine-{n}": generate(
                "incidents", None, blocks=128, rate=256.0, seed=n, source=f"engine-{n}", frame_events=64
            )
            for n in range(SOURCES)
        }
        seq = 0
        while not self.stop.wait(0.25):
            for source, coming in frames.items():
                # A hole in the numbers of one engine, so that there is an incident in any case.
                hole = 1 if source == "engine-0" and seq >= 8 else 0
                frame = replace(next(coming), epoch=1, seq=seq + hole)
                self.events[source] += len(frame)
                for _ in range(2 if random.random() < 0.1 else 1):
                    self._producer.produce(self._topic, encode_frame(frame), source.encode())
            seq += 1
            self._producer.poll(0)
        assert self._producer.flush(60) == 0


class Undisturbed(threading.Thread):
    """One process that reads every record from the first one on, and nothing interrupts."""

    def __init__(self, broker, url):
        super().__init__()
        self.parts, self.alerts = {}, []
        self.stop = threading.Event()
        self.waiting = defaultdict(list)
        self._topic = KafkaAddress.parse(url).frames
        self._consumer = ck.Consumer(
            {"bootstrap.servers": broker.address, "group.id": "undisturbed", "log_level": 0}
        )
        numbers = self._consumer.list_topics(self._topic, timeout=20).topics[self._topic].partitions
        self._consumer.assign([ck.TopicPartition(self._topic, n, ck.OFFSET_BEGINNING) for n in numbers])

    def run(self):
        while not self.stop.is_set():
            message = self._consumer.poll(0.1)
            if message is None or message.error():
                continue
            waiting = self.waiting[message.partition()]
            waiting.append(Record(message.offset(), message.timestamp()[1], message.value()))
            if len(waiting) >= 2 * HELD_BACK:
                self.apply(message.partition(), waiting[:HELD_BACK])
                del waiting[:HELD_BACK]
        self._consumer.close()

    def apply(self, number, records):
        part = self.parts.setdefault(number, partition())
        self.alerts += part.apply(records)

    def reach(self, offsets):
        """Apply what is left up to the committed offsets."""
        for number, offset in offsets.items():
            part = self.parts.setdefault(number, partition())
            assert part.offset <= offset, "the workers are further behind than what is held back"
            self.apply(number, [record for record in self.waiting[number] if record.offset < offset])


@contextmanager
def worker(url, place, config):
    port = free_port()
    arguments = ["fleet", "worker", "--from", url, "--state", place, "--config", config]
    arguments += [
        "--session",
        SESSION,
        "--checkpoint-every",
        0.5,
        "--summary-every",
        2,
        "--metrics",
        f":{port}",
    ]
    with Kvstream(arguments, stdout=DEVNULL, stderr=DEVNULL) as process:
        process.port = port
        yield process


def metric(process, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{process.port}/metrics", timeout=DEADLINE) as answer:
        lines = answer.read().decode().splitlines()
    [value] = [line.split()[1] for line in lines if line.startswith(f"kvstream_worker_{name}_total ")]
    return float(value)


def ends(broker, url):
    topic = KafkaAddress.parse(url).frames
    consumer = ck.Consumer({"bootstrap.servers": broker.address, "group.id": "ends", "log_level": 0})
    try:
        numbers = consumer.list_topics(topic, timeout=20).topics[topic].partitions
        return {
            n: consumer.get_watermark_offsets(ck.TopicPartition(topic, n), timeout=20)[1] for n in numbers
        }
    finally:
        consumer.close()


def caught_up(broker, url):
    """Seconds until all that was in the topic when this was called is committed."""
    began, wanted = time.monotonic(), ends(broker, url)

    def check():
        offsets = committed(broker, url)
        return all(offsets[n][0] >= end for n, end in wanted.items())

    wait_until(check)
    return time.monotonic() - began


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("capacity = 256\nforget_seconds = 600.0\n")
    return path


def test_killed_and_stopped_workers_come_to_what_an_undisturbed_process_does(
    broker, tmp_path, config, capsys
):
    url, place = broker.url(), tmp_path / "state"
    undisturbed, engines = Undisturbed(broker, url), Engines(broker, url)
    undisturbed.start()
    took, refused = [], 0
    with ExitStack() as running:

        def start():
            return running.enter_context(worker(url, place, config))

        workers = [start() for _ in range(3)]
        engines.start()
        try:
            caught_up(broker, url)
            for _ in range(KILLS):
                victim = workers.pop(random.randrange(len(workers)))
                os.kill(victim.pid, signal.SIGKILL)
                workers.append(start())
                took.append(caught_up(broker, url))
            for _ in range(STOPS):
                zombie = max(workers, key=lambda each: metric(each, "assigned") - metric(each, "revoked"))
                before = metric(zombie, "commits"), metric(zombie, "refused_commits"), metric(zombie, "lost")
                os.kill(zombie.pid, signal.SIGSTOP)
                took.append(caught_up(broker, url))
                os.kill(zombie.pid, signal.SIGCONT)
                wait_until(lambda zombie=zombie, before=before: metric(zombie, "lost") > before[2])
                refused += metric(zombie, "refused_commits") - before[1]
                caught_up(broker, url)
        finally:
            engines.stop.set()
            engines.join()
        caught_up(broker, url)
        for each in workers:
            os.kill(each.pid, signal.SIGTERM)
        assert {each.wait() for each in workers} == {143}
    found = saved(broker, url, place)
    undisturbed.stop.set()
    undisturbed.join()
    undisturbed.reach({number: part.offset for number, part in found.items()})
    with capsys.disabled():
        print(
            f"\n{KILLS} kills, {STOPS} stops of workers, session {SESSION:.0f} s: all was committed again "
            f"after {sorted(took)[len(took) // 2]:.1f} s (median), {max(took):.1f} s (slowest); "
            f"{refused:.0f} commits of stopped ones refused; "
            f"{sum(engines.events.values()):,} events of {SOURCES} engines"
        )
    processed = {
        source: part.accounts(source).processed for part in found.values() for source in part.monitor.sources
    }
    assert processed == dict(engines.events)
    assert {n: seen(part) for n, part in found.items()} == {n: seen(undisturbed.parts[n]) for n in found}
    said = published(broker, url)
    assert ids(said) == ids(undisturbed.alerts)
    assert len(ids(said)) > 0
