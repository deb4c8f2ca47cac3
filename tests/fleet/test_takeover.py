"""Workers that are killed, stopped, cut off and added come to what an undisturbed process does.

The short forms are slow tests. They are as long as wanted by ``KVSTREAM_FLEET_KILLS=50``, ``…_STOPS=10`` and
``…_CUTS=5``, and print how long it took until others had taken over.
"""

import os
import random
import signal
import time

import pytest

from tests.fleet.brokers import mock_cluster
from tests.fleet.fleets import Fleet, figures, offsets
from tests.fleet.networks import cut_off_network
from tests.fleet.workers import wait_until
from tests.waiting import DEADLINE

KILLS = int(os.environ.get("KVSTREAM_FLEET_KILLS", "1"))
STOPS = int(os.environ.get("KVSTREAM_FLEET_STOPS", "1"))
CUTS = int(os.environ.get("KVSTREAM_FLEET_CUTS", "1"))
SOURCES = 64 if KILLS > 2 else 16

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def start(fleet, workers):
    for _ in range(workers):
        fleet.start()
    fleet.is_judged()


@pytest.mark.parametrize("protocol", [(), ("--kip-848",)], ids=["classic", "kip-848"])
def test_killed_workers(broker, tmp_path, capsys, protocol):
    if protocol and not broker.speaks_kip_848:
        pytest.skip("this broker has no KIP-848")
    with (
        Fleet(broker, tmp_path, SOURCES, protocol) as fleet,
        figures(capsys, f"kill -9 of workers {' '.join(protocol)}") as took,
    ):
        start(fleet, 3)
        for _ in range(KILLS):
            fleet.is_judged()
            judging = wait_until(lambda: [(w, found) for w in fleet.workers if (found := offsets(w))])
            victim, numbers = random.choice(judging)
            killed_at = time.monotonic()
            fleet.kill(victim)
            fleet.start()
            took.append(fleet.taken_over(numbers, killed_at))
        fleet.come_to_the_same()


def test_every_commit_of_a_stopped_worker_is_refused(broker, tmp_path, capsys):
    """It stands still for longer than its session, and goes on as if nothing had been."""
    refused = 0
    with Fleet(broker, tmp_path, SOURCES) as fleet, figures(capsys, "SIGSTOP of a worker") as took:
        zombie, said = fleet.start_spoken()
        start(fleet, 2)
        for _ in range(STOPS):
            fleet.is_judged()
            numbers = wait_until(lambda: offsets(zombie))
            os.kill(zombie.pid, signal.SIGSTOP)
            fleet.workers.remove(zombie)
            took.append(fleet.taken_over(numbers))
            fleet.is_committed()  # by others
            since = len(said)
            os.kill(zombie.pid, signal.SIGCONT)
            wait_until(lambda: [line for line in said[since:] if line.startswith("lost")])  # noqa: B023
            fleet.workers.append(zombie)
            spoken = said[since:]
            asked = set()
            for line in spoken[: next(n for n, line in enumerate(spoken) if line.startswith("lost"))]:
                what, number, offset = line.split()
                if what == "asked":
                    asked.add((number, offset))
                elif (number, offset) in asked:  # what it had asked for before it stood still may be accepted
                    assert what == "refused", spoken
                    refused += 1
        fleet.come_to_the_same()
    with capsys.disabled():
        print(f"{refused} commits of a stopped worker, each refused")


def test_one_worker_then_three_then_two(broker, tmp_path):
    with Fleet(broker, tmp_path, SOURCES) as fleet:
        start(fleet, 1)
        fleet.is_committed()
        start(fleet, 2)
        wait_until(lambda: all(map(offsets, fleet.workers)))  # each has some of four
        fleet.is_committed()
        fleet.end(fleet.workers[0])
        fleet.is_judged()
        fleet.come_to_the_same()


def test_a_worker_that_is_cut_off_the_network_and_comes_back(tmp_path, capsys):
    with (
        mock_cluster() as broker,
        cut_off_network(broker, tmp_path) as network,
        Fleet(broker, tmp_path, SOURCES) as fleet,
        figures(capsys, "network of a worker cut") as took,
    ):
        start(fleet, 2)
        with network.process(fleet.arguments(9109)) as remote:
            remote.port = 9109

            def alone():
                """What it judges and no other does: it learns late of what it has lost."""
                judged = set(offsets(remote, network.asked))
                return judged - {number for each in fleet.workers for number in offsets(each)}

            for _ in range(CUTS):
                numbers = wait_until(alone)
                cut_at = time.monotonic()
                network.cut()
                took.append(fleet.taken_over(numbers, cut_at))
                network.heal()
            wait_until(alone)
            remote.terminate()
            assert remote.wait(DEADLINE) == 143
        fleet.come_to_the_same()
