"""A whole fleet: engines, workers as processes, and one process that nothing interrupts to compare them with.

What the workers come to is read from the durable snapshots and the committed offsets alone.
"""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from contextlib import ExitStack, contextmanager

import confluent_kafka as ck
from msgspec.structs import replace

from kvstream.events.codec import encode_frame
from kvstream.fleet.address import KafkaAddress
from kvstream.fleet.partition import Record
from kvstream.sources.synthetic import generate
from tests.fleet.brokers import PARTITIONS
from tests.fleet.partitions import partition, seen
from tests.fleet.workers import committed, ids, published, saved, wait_until
from tests.forked import DEVNULL, Kvstream
from tests.ports import free_port
from tests.waiting import DEADLINE

SESSION = 6.0
"""Seconds; the least that brokers accept."""

_AHEAD = 1500  # records of a partition that are not committed; the mock cluster keeps 5 MB, some 3,000
_HELD_BACK = 2 * _AHEAD  # that the undisturbed process leaves until it knows how far to go


class Engines(threading.Thread):
    """Engines that send frames, every tenth of them twice; counts the events of each.

    They wait for workers that are far behind: the mock cluster drops what it has no room for.
    """

    def __init__(self, broker, url, sources):
        super().__init__()
        self.events = defaultdict(int)
        self.stop = threading.Event()
        self._sources = sources
        self._broker, self._url = broker, url
        self._written, self._committed = {}, {}  # offsets by partition
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
            for n in range(self._sources)
        }
        seq = 0
        while not self.stop.wait(0.25):
            self._producer.poll(0)
            if self._is_ahead():
                continue
            for source, coming in frames.items():
                # A hole in the numbers of one engine, so that there is an incident in any case.
                hole = 1 if source == "engine-0" and seq >= 8 else 0
                frame = replace(next(coming), epoch=1, seq=seq + hole)
                self.events[source] += len(frame)
                for _ in range(2 if random.random() < 0.1 else 1):
                    self._producer.produce(
                        self._topic, encode_frame(frame), source.encode(), on_delivery=self._delivered
                    )
            seq += 1
        assert self._producer.flush(DEADLINE) == 0

    def _delivered(self, error, message):
        assert error is None, error
        self._written[message.partition()] = message.offset()

    def _is_ahead(self):
        def ahead():
            return any(n - self._committed.get(number, 0) > _AHEAD for number, n in self._written.items())

        if ahead():
            found = committed(self._broker, self._url)
            self._committed = {number: max(0, offset) for number, (offset, _) in found.items()}
        return ahead()


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
        numbers = self._consumer.list_topics(self._topic, timeout=DEADLINE).topics[self._topic].partitions
        self._consumer.assign([ck.TopicPartition(self._topic, n, ck.OFFSET_BEGINNING) for n in numbers])

    def run(self):
        while not self.stop.is_set():
            message = self._consumer.poll(0.1)
            if message is None or message.error():
                continue
            waiting = self.waiting[message.partition()]
            waiting.append(Record(message.offset(), message.timestamp()[1], message.value()))
            if len(waiting) >= 2 * _HELD_BACK:
                self.apply(message.partition(), waiting[:_HELD_BACK])
                del waiting[:_HELD_BACK]
        self._consumer.close()

    def end(self, number):
        """The place of the next record of a partition that is not read yet."""
        waiting = self.waiting[number]
        return waiting[-1].offset + 1 if waiting else 0

    def apply(self, number, records):
        part = self.parts.setdefault(number, partition())
        self.alerts += part.apply(records)

    def reach(self, offsets):
        """Apply what is left up to offsets."""
        for number, offset in offsets.items():
            part = self.parts.setdefault(number, partition())
            assert part.offset <= offset, "the workers are further behind than what is held back"
            self.apply(number, [record for record in self.waiting[number] if record.offset < offset])


class Fleet:
    """Workers around a broker, while engines send.

    Args:
        broker: The broker.
        folder: A directory of its own.
        sources: How many engines there are.
        options: Further ones of each worker.
    """

    def __init__(self, broker, folder, sources=16, options=()):
        self.url = broker.url()
        self.place = folder / "state"
        self.workers = []
        self._config = folder / "config.toml"
        self._config.write_text("capacity = 256\nforget_seconds = 600.0\n")
        self._options = options
        self._broker = broker
        self._undisturbed = Undisturbed(broker, self.url)
        self._engines = Engines(broker, self.url, sources)
        self._running = ExitStack()

    @property
    def events(self):
        return sum(self._engines.events.values())

    def __enter__(self):
        self._undisturbed.start()
        self._engines.start()
        return self

    def __exit__(self, *exc):
        self._engines.stop.set()
        self._engines.join()
        self._running.close()
        self._undisturbed.stop.set()
        self._undisturbed.join()

    def arguments(self, port):
        """The command line of a worker."""
        return [
            *("fleet", "worker", "--from", self.url, "--state", self.place, "--config", self._config),
            *("--session", SESSION, "--checkpoint-every", 0.5, "--summary-every", 2),
            *("--metrics", f":{port}", *self._options),
        ]

    def start(self):
        port = free_port()
        process = self._running.enter_context(Kvstream(self.arguments(port), stdout=DEVNULL, stderr=DEVNULL))
        process.port = port
        self.workers.append(process)
        return process

    def start_spoken(self):
        """Start a worker that says what it commits; return it, and what it says."""
        port, said = free_port(), []
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fleet.spoken_worker", *map(str, self.arguments(port))],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._running.enter_context(process)
        reading = threading.Thread(target=lambda: said.extend(map(str.strip, process.stdout)))
        reading.start()
        self._running.callback(reading.join)
        self._running.callback(process.kill)
        process.port = port
        self.workers.append(process)
        return process, said

    def kill(self, worker):
        self.workers.remove(worker)
        os.kill(worker.pid, signal.SIGKILL)

    def end(self, worker):
        """Stop a worker as it should be stopped."""
        self.workers.remove(worker)
        os.kill(worker.pid, signal.SIGTERM)
        assert worker.wait() == 143

    # How far it is

    def ends(self):
        topic = KafkaAddress.parse(self.url).frames
        consumer = ck.Consumer(
            {"bootstrap.servers": self._broker.address, "group.id": "ends", "log_level": 0}
        )
        try:
            return {
                n: consumer.get_watermark_offsets(ck.TopicPartition(topic, n), timeout=DEADLINE)[1]
                for n in range(PARTITIONS)
            }
        finally:
            consumer.close()

    def is_judged(self, count=PARTITIONS):
        """Wait until the first ``count`` partitions are judged by the workers, each by one."""
        wait_until(lambda: sorted(n for w in self.workers for n in offsets(w)) == sorted(range(count)))

    def taken_over(self, numbers, since=None):
        """Seconds until workers have applied what came after this call (or ``since``) into partitions."""
        began, wanted = time.monotonic() if since is None else since, self.ends()
        left = set(numbers)
        while left:
            for each in self.workers:
                left -= {n for n, offset in offsets(each).items() if n in left and offset > wanted[n]}
            assert time.monotonic() < began + DEADLINE, left
            time.sleep(0.05)
        return time.monotonic() - began

    def is_committed(self):
        """Wait until all that is in the topic now is committed."""
        wanted = self.ends()

        def check():
            offsets = committed(self._broker, self.url)
            return all(offsets[number][0] >= end for number, end in wanted.items())

        wait_until(check)

    # What it comes to

    def come_to_the_same(self):
        """End it all, once there are incidents to compare: accounts, figures and incidents."""
        wait_until(lambda: published(self._broker, self.url))
        self._engines.stop.set()
        self._engines.join()
        self.is_committed()
        for each in self.workers.copy():
            self.end(each)
        found = saved(self._broker, self.url, self.place)
        # Tansu says where its last batch begins, not where it ends.
        ends = {n: max(end, found[n].offset) for n, end in self.ends().items()}
        wait_until(lambda: all(self._undisturbed.end(number) >= end for number, end in ends.items()))
        self._undisturbed.stop.set()
        self._undisturbed.join()
        self._undisturbed.reach({number: part.offset for number, part in found.items()})
        processed = {
            source: part.accounts(source).processed
            for part in found.values()
            for source in part.monitor.sources
        }
        assert processed == dict(self._engines.events)
        parts = self._undisturbed.parts
        assert {n: seen(part) for n, part in found.items()} == {n: seen(parts[n]) for n in found}
        said = ids(published(self._broker, self.url))
        assert said
        assert not ids(self._undisturbed.alerts) - said
        # A worker that ends may have its last commit refused, as in a rebalance, and its alerts published.
        self._undisturbed.reach({number: self._undisturbed.end(number) for number in ends})
        assert not said - ids(self._undisturbed.alerts)


def asked(url):
    """What a server answers; nothing before it listens."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def offsets(worker, asked=asked):
    """The place of the next record in each partition that a worker judges, by its number."""
    url = f"http://127.0.0.1:{worker.port}/metrics?name[]=kvstream_worker_partition_offset"
    found = re.findall(r'^kvstream_worker_partition_offset\{partition="(\d+)"\} (\S+)$', asked(url), re.M)
    return {int(number): float(offset) for number, offset in found if float(offset) >= 0}


@contextmanager
def figures(capsys, what):
    """Times that are printed at the end, whatever is captured."""
    took = []
    yield took
    with capsys.disabled():
        print(
            f"\n{what}: applied again after {sorted(took)[len(took) // 2]:.1f} s (median), "
            f"{max(took):.1f} s (slowest of {len(took)}); session {SESSION:.0f} s"
        )
