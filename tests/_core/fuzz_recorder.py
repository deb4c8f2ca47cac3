"""Random calls of recorders, counted: ``python -m tests._core.fuzz_recorder [CALLS] [SEED]``."""

import random
import sys
from array import array

import numpy as np

from kvstream._core.recorder import CallRecorder, StepRecorder
from kvstream.errors import MalformedInputError
from kvstream.events.clock import Clock
from kvstream.events.recorded import recorded_frame
from kvstream.events.types import REASONS

EDGES = [0, 1, -1, -32, 2**30 - 1, 2**30, 2**31, 2**62, 2**63 - 1, -(2**63), 2**63, 2**64 - 1]
BAD = [None, "7", b"7", 1.5, 2**64, -(2**63) - 1, object()]


def slotted(*names):
    return type("Slotted", (), {"__slots__": names})


KINDS = [
    slotted("block_id"),
    slotted("a", "block_id"),
    slotted("a", "b", "block_id", "c"),
    type("Unslotted", (), {}),
    type("Derived", (slotted("block_id"),), {}),
]


class Fuzz:
    """Calls recorders and counts what they have to give back."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.offered = self.given_back = 0
        self.steps = StepRecorder(Clock(), 5_000, on_step=lambda: None, on_full=self.take)
        self.calls = type("Applying", (CallRecorder,), {"_apply_recorded": lambda _: self.take()})(
            Clock(), 4_096
        )

    def take(self):
        for recorded in (self.steps.take(), self.calls._take_recorded()):
            frame = recorded_frame(recorded, "engine", "gpu")
            assert len(frame.ops) == len(frame.blocks) == len(frame.ts)
            assert frame.reasons is None or len(frame.reasons) == len(frame.ops)
            assert (frame.ts > 0).all()
            self.given_back += len(frame) + recorded[-1]

    def number(self):
        return self.random.choice(EDGES) if self.random.random() < 0.2 else self.random.getrandbits(14)

    def block(self):
        chance = self.random.random()
        if chance < 0.5:
            return self.number()
        if chance < 0.6:
            return self.random.choice(BAD)
        made = self.random.choice(KINDS)()
        if chance < 0.97:
            made.block_id = self.number() if chance < 0.95 else self.random.choice(BAD)
        return made

    def several(self):
        n = int(2 ** self.random.uniform(0, 14)) if self.random.random() < 0.01 else self.random.randrange(8)
        form = self.random.randrange(6)
        if form == 0:
            return np.arange(n * 2)[::2]
        if form == 1:
            return np.arange(n, dtype=np.uint64) + np.uint64(2**63)
        if form == 2:
            return np.arange(n, dtype=np.int32)
        if form == 3:
            return array("q", range(n))
        if form == 4:
            return tuple(self.number() for _ in range(n))
        return [self.block() for _ in range(n)]

    def step(self):
        name = self.random.choice(["accessed", "allocated", "evicted"])
        options = {"reason": self.random.choice([None, *REASONS, "nonsense"])} if name == "evicted" else {}
        if self.random.random() < 0.2:
            several = self.several()
            self.offered += len(several)
            getattr(self.steps, f"{name}_nowait")(several, **options)
        else:
            self.offered += 1
            getattr(self.steps, f"{name}_nowait")(self.block(), **options)

    def call(self):
        name = self.random.choice(["accessed_nowait", "allocated_nowait", "evicted_nowait", "record"])
        try:
            if name == "record":
                several = self.several()
                self.calls.record(self.random.randrange(5), several, self.random.choice(REASONS))
                self.offered += len(several)
            else:
                block = self.block()
                getattr(self.calls, name)(block)
                self.offered += 1
        except MalformedInputError:
            pass  # nothing is recorded then

    def run(self, calls):
        for number in range(calls):
            self.random.choice((self.step, self.call))()
            if number % 64 == 0:
                self.steps.end_step(*self.random.choice(((), (None,), (5,))))
            elif number % 1_001 == 0:
                self.steps.begin_step()
            elif number % 5_003 == 0:
                self.take()
            elif number == calls // 2:
                self.steps.close()
            elif number % 100_003 == 0:
                self.take()
                self.calls._record_after_fork()
        self.take()


def main():
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    fuzz = Fuzz(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    fuzz.run(calls)
    assert fuzz.given_back == fuzz.offered, (fuzz.given_back, fuzz.offered)
    print(f"{calls:,} calls, {fuzz.offered:,} events")


if __name__ == "__main__":
    main()
