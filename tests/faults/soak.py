"""A soak: ``python -m tests.faults.soak --seconds 600``.

A real ``kvstream serve`` is fed by producer processes at twice what it can process, under each overflow
policy in turn, and then at half of it; hostile clients are beside it all the time. At the end of each phase
every event must be accounted for, on both sides, and the server's memory must not have grown. Prints a JSON
line a phase, with the times in which ``/healthz`` answered; the exit status is 1 if anything was wrong.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from statistics import quantiles
from typing import Any

import msgspec

from tests.faults import mutants
from tests.faults.server import RunningServer, peak_rss_mb, rss_mb
from tests.faults.soak_producer import Order
from tests.waiting import DEADLINE

POLICIES = ("block", "drop_newest", "drop_oldest", "sample")
PRODUCERS = 2
_CALIBRATION_SECONDS = 4.0
_HEALTH_PAUSE_SECONDS = 0.05
_MOST_GROWTH_MB, _MOST_GROWTH = 24, 0.10
_REASONS: dict[str, set[str]] = {
    "block": set(),
    "drop_newest": {"queue_full"},
    "drop_oldest": {"displaced", "queue_full"},
    "sample": {"sampled", "queue_full"},
}
"""Reasons for which producers of a policy may drop."""
_LOSSES = ("lost_frames", "duplicate_frames", "restarts")


class Watch:
    """Asks the server for its health and looks at its memory, in a thread of its own, while entered."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self.answers_ms: list[float] = []
        self.unanswered = 0
        self.rss_mb: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        looked = 0.0
        while not self._stop.wait(_HEALTH_PAUSE_SECONDS) and self._server.alive:
            begun = time.perf_counter()
            try:
                self._server.get("healthz")
                self.answers_ms.append((time.perf_counter() - begun) * 1e3)
            except OSError:
                self.unanswered += 1
            if time.monotonic() - looked >= 1.0 and self._server.alive:
                looked = time.monotonic()
                self.rss_mb.append(rss_mb(self._server.process.pid))

    def growth_mb(self) -> int:
        """Return by how much more memory there was in the last third of the time than in the second."""
        third = len(self.rss_mb) // 3
        return max(self.rss_mb[-third:]) - max(self.rss_mb[third : 2 * third]) if third else 0

    def report(self) -> dict[str, Any]:
        """Return the curve of memory, in at most twenty points, and times of answers."""
        every = max(1, len(self.rss_mb) // 20)
        cuts = quantiles(self.answers_ms, n=100) if len(self.answers_ms) > 1 else [0.0] * 99
        return {
            "rss_mb": self.rss_mb[::every],
            "rss_growth_mb": self.growth_mb(),
            "healthz_ms": {
                "p50": round(cuts[49], 1),
                "p99": round(cuts[98], 1),
                "worst": round(max(self.answers_ms, default=0.0), 1),
                "answers": len(self.answers_ms),
                "unanswered": self.unanswered,
            },
        }


def _python(module: str, *arguments: str) -> "subprocess.Popen[bytes]":
    env = {**os.environ, "KVSTREAM_TOKEN": mutants.TOKEN}
    return subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, env=env)


Accounts = list[dict[str, Any]]
"""What producers say at their end, one each; ``{"failed": True}`` of one that does not come so far."""


def _produce(server: RunningServer, policy: str, seconds: float, rate: float, name: str) -> Accounts:
    """Run the producers to their end; the rate is that of all together."""
    with ExitStack() as stack:
        processes = []
        for number in range(PRODUCERS):
            order = Order(f"unix:{server.path}", f"{name}-{number}", policy, seconds, rate / PRODUCERS)
            text = msgspec.json.encode(order).decode()
            process = stack.enter_context(_python("tests.faults.soak_producer", text))
            stack.callback(process.kill)
            processes.append(process)
        end = time.monotonic() + seconds + 2 * DEADLINE
        while any(process.poll() is None for process in processes):
            if not server.alive or time.monotonic() > end:  # they would wait for it
                for process in processes:
                    process.kill()
            time.sleep(0.1)
        printed = [process.communicate()[0] for process in processes]
    return [json.loads(text) if text.strip() else {"failed": True} for text in printed]


def capacity(server: RunningServer) -> float:
    """Return the events a second that the server processes when producers wait for it."""
    produced = _produce(server, "block", _CALIBRATION_SECONDS, 0.0, "calibration")
    return sum(accounts["rate"] for accounts in produced)


def phase(
    policy: str, seconds: float, factor: float, *, hostile: bool = True, seed: int = 0
) -> dict[str, Any]:
    """Feed a server at a multiple of its capacity and return what was seen, with what was wrong.

    Args:
        policy: Overflow policy of the producers.
        seconds: For how long.
        factor: Multiple of the capacity, which is measured first.
        hostile: Have hostile clients beside it.
        seed: What those send.
    """
    wrong: list[str] = []
    with ExitStack() as stack:
        server = stack.enter_context(RunningServer("--max-connections", "64", token=mutants.TOKEN))
        rate = capacity(server)
        clients = None
        if hostile:
            host, port = server.address
            clients = stack.enter_context(
                _python("tests.faults.hostile", server.path, host, str(port), str(seconds), str(seed))
            )
            stack.callback(clients.kill)
        with Watch(server) as watch:
            produced = _produce(server, policy, seconds, rate * factor, policy)
        attempts = json.loads(clients.communicate(timeout=DEADLINE)[0]) if clients is not None else None
        result: dict[str, Any] = {
            "policy": policy,
            "seconds": seconds,
            "capacity_per_second": round(rate),
            "factor": factor,
            "offered_factor": round(sum(accounts.get("rate", 0.0) for accounts in produced) / rate, 2),
            **watch.report(),
            "hostile": attempts,
            "producers": produced,
        }
        if server.alive:
            result["peak_rss_mb"] = peak_rss_mb(server.process.pid)
            wrong += _unaccounted(server, produced, policy)
            result["faults"] = _faults(server)
            server.stop()
            if server.process.returncode != 143:
                wrong.append(f"it ended with {server.process.returncode} on SIGTERM")
        else:
            wrong.append(f"the server ended, status {server.process.returncode}: {server.last_words()}")
    limit = max(_MOST_GROWTH_MB, _MOST_GROWTH * max(watch.rss_mb, default=0))
    if watch.growth_mb() > limit:
        wrong.append(f"memory grows: {watch.growth_mb()} MB more in the last third than in the second")
    if watch.unanswered:
        wrong.append(f"/healthz was not answered {watch.unanswered} times")
    return {**result, "wrong": wrong}


def _unaccounted(server: RunningServer, produced: Accounts, policy: str) -> list[str]:
    """What does not add up between producers and server."""
    wrong = []
    for producer in produced:
        if producer.get("failed"):
            wrong.append("a producer ended without its accounts")
            continue
        name, dropped = producer["source"], producer["dropped"]
        if producer["offered"] != producer["sent"] + producer["buffered"] + sum(dropped.values()):
            wrong.append(f"{name}: {producer}")
        summary = json.loads(server.get(f"api/summary?source={name}"))
        if summary["accounts"]["processed"] != producer["sent"]:
            wrong.append(f"{name}: {producer['sent']} sent, {summary['accounts']['processed']} processed")
        losses = {loss: summary["accounts"][loss] for loss in _LOSSES}
        if any(losses.values()):
            wrong.append(f"{name}: {losses}")
        if set(dropped) - _REASONS[policy]:
            wrong.append(f"{name}: dropped {dropped} under {policy}")
    accounts = server.accounts()
    parts = accounts["processed"] + sum(accounts["dropped"].values()) + accounts["malformed"]
    if accounts["offered"] != parts + accounts["in_flight"]:
        wrong.append(f"the server's accounts do not add up: {accounts}")
    return wrong


def _faults(server: RunningServer) -> dict[str, float]:
    """Errors that the server contained, by part and reason, as its metrics say."""
    lines = server.get("metrics").decode().splitlines()
    found = [line.rpartition(" ") for line in lines if line.startswith("kvstream_faults_total{")]
    return {name.removeprefix("kvstream_faults_total"): float(value) for name, _, value in found}


def soak(
    seconds: float, *, hostile: bool = True, policies: tuple[str, ...] = POLICIES
) -> list[dict[str, Any]]:
    """Run a phase at twice the capacity for each policy, then one at half of it."""
    phases = [(policy, 2.0) for policy in policies] + [("block", 0.5)]
    results = []
    for number, (policy, factor) in enumerate(phases):
        results.append(phase(policy, seconds, factor, hostile=hostile, seed=number))
        print(json.dumps(results[-1]), flush=True)
    return results


def main() -> int:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="of each of the five phases")
    parser.add_argument("--policy", action="append", choices=POLICIES, help="only these")
    parser.add_argument("--no-hostile", action="store_true", help="without hostile clients")
    chosen = parser.parse_args()
    policies = tuple(chosen.policy or POLICIES)
    results = soak(chosen.seconds, hostile=not chosen.no_hostile, policies=policies)
    paced = results[-1]["healthz_ms"]["p99"]
    print(f"/healthz under a paced load: 99th percentile {paced:.1f} ms (target: below 100)")
    return int(any(result["wrong"] for result in results))


if __name__ == "__main__":
    sys.exit(main())
