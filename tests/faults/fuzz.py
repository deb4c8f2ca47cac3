"""Fuzzing: ``python -m tests.faults.fuzz KIND --count 100000 --seed 0``.

A round is ``ROUND`` mutants that follow from the kind and the seed alone, so that a range of seeds can be
run in parts, at several places or again: ``--count`` mutants are the rounds of seed S, S + 1 and so on. In
process by default, against decoders with a stream or monitor behind them, accounts checked after each
round; with ``--served`` against a real ``kvstream serve``. One JSON line says what became of them; the exit
status is 1 if anything crashed, hung, did not add up or took too much memory.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import kvstream
from tests.faults.in_process import files, frames, hellos, in_event_loop, payloads, requests
from tests.faults.line_coverage import LineCoverage
from tests.faults.publishing import messages
from tests.faults.served import Served, served_frames, served_hellos, served_requests
from tests.faults.server import peak_rss_mb, rss_mb
from tests.faults.tally import Tally

ROUND = 1_000
_HANG_SECONDS = 300
_PACKAGE = Path(kvstream.__file__).parent
_EVENTS = ("codec.py", "frame.py", "log.py", "arrays.py")
COVERED = [
    *(_PACKAGE / "events" / name for name in _EVENTS),
    *(_PACKAGE / "link.py", _PACKAGE / "web" / "app.py", *sorted((_PACKAGE / "sources").glob("*.py"))),
]
Round = Callable[[Tally, int, int], None]
"""Tries so many mutants of a seed and notes what became of them: (tally, seed, count)."""


KINDS: dict[str, Round] = {
    "frames": frames,
    "payloads": payloads,
    "files": files,
    "hellos": in_event_loop(hellos),
    "requests": in_event_loop(requests),
    "messages": in_event_loop(messages),
}
SERVED = {"frames": served_frames, "hellos": served_hellos, "requests": served_requests}


@contextmanager
def _hang_noted(tally: Tally, seed: int) -> Iterator[None]:
    """Break a round off that takes far too long."""

    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"a round takes more than {_HANG_SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(_HANG_SECONDS)
    try:
        yield
    except Exception as error:
        tally.crash(seed, error)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(
    kind: str,
    count: int,
    seed: int = 0,
    *,
    served: bool = False,
    most_mb: int = 1_000,
    progress: bool = False,
) -> dict[str, Any]:
    """Try mutants of a kind and return what became of them.

    Args:
        kind: One of ``KINDS``.
        count: Mutants, in rounds of ``ROUND``.
        seed: Seed of the first round.
        served: Against a real server.
        most_mb: Resident memory that the process which decodes may have, MiB.
        progress: Say on standard error now and then how far it is.
    """
    tally = Tally()
    rounds = Served(SERVED[kind]) if served else KINDS[kind]
    begun = printed = time.perf_counter()
    first_mb, number = 0, seed
    with ExitStack() as stack:
        if isinstance(rounds, Served):
            stack.callback(rounds.close)
        while count > 0:
            with _hang_noted(tally, number):
                rounds(tally, number, min(ROUND, count))
            count -= ROUND
            number += 1
            first_mb = first_mb or rss_mb()
            if progress and time.perf_counter() - printed > 10:
                printed = time.perf_counter()
                left = f"{count:,} left, next seed {number}, {len(tally.crashes)} kinds of crashes"
                print(f"{kind}: {tally.mutants:,} mutants, {left}, {rss_mb()} MB", file=sys.stderr)
        memory = (first_mb, rss_mb(), peak_rss_mb())
        if isinstance(rounds, Served):
            memory = (rounds.first_mb, rounds.last_mb, rounds.peak_mb)
    if memory[2] > most_mb:
        tally.crash(seed, f"{memory[2]} MB of memory are more than {most_mb}")
    return {
        "kind": kind,
        "served": served,
        "seeds": [seed, number - 1],
        "mutants_per_second": round(tally.mutants / (time.perf_counter() - begun)),
        "rss_mb": dict(zip(("first", "last", "peak"), memory, strict=True)),
        **tally.to_dict(),
    }


def main() -> int:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=[*KINDS, "all"])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; a round is 1,000 mutants")
    parser.add_argument("--served", action="store_true", help="against a real kvstream serve")
    parser.add_argument("--most-mb", type=int, default=1_000)
    parser.add_argument("--coverage", action="store_true", help="report lines reached; slow: for samples")
    chosen = parser.parse_args()
    names = [chosen.kind] if chosen.kind != "all" else list(SERVED if chosen.served else KINDS)
    failed = False
    with ExitStack() as stack:
        lines = stack.enter_context(LineCoverage(COVERED)) if chosen.coverage else None
        for kind in names:
            result = fuzz(
                *(kind, chosen.count, chosen.seed),
                served=chosen.served,
                most_mb=chosen.most_mb,
                progress=True,
            )
            failed |= bool(result["crashes"])
            print(json.dumps(result, ensure_ascii=True), flush=True)
    if lines is not None:
        for path, (reached, there) in lines.report().items():
            name = path.removeprefix(f"{_PACKAGE}/")
            print(f"{name:32} {reached:4} of {there:4} lines {reached / max(1, there):4.0%}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
