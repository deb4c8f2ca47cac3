"""Sequence numbers of frames: what is lost, what is a repeat, what is a restart, who else uses the name."""

from enum import Enum
from typing import Any, NamedTuple

from kvstream.events.frame import UNNUMBERED, EventFrame

AHEAD = 1024  # frames that a number may be ahead of its place without confirmation
SIGNS = 3  # frames in order that show a producer to be alive in a place where it was not expected
RUNS = 16  # epochs remembered
SILENT = 1024  # frames of others after which an epoch is left

_MOST_MISSING = 2**32  # counted for one gap, so that sums cannot overflow


class Cursor(NamedTuple):
    """The next frame that is expected of a source.

    Attributes:
        epoch: Epoch of its producer, another one after each restart.
        next: Sequence number of the next frame.
    """

    epoch: int
    next: int


class Arrival(Enum):
    """What a frame is to those before it.

    ``NEXT``, ``RESTART`` and ``CONFLICT`` are to be processed, ``REPEAT`` and ``STALE`` to be dropped.
    """

    NEXT = "next"
    RESTART = "restart"
    CONFLICT = "conflict"
    REPEAT = "repeat"
    STALE = "stale"

    @property
    def is_dropped(self) -> bool:
        """Return whether the frame is to be dropped."""
        return self is Arrival.REPEAT or self is Arrival.STALE


NEXT, RESTART = (
    Arrival.NEXT,
    Arrival.RESTART,
)  # to look a member up takes a tenth of a microsecond


class _Run:
    """The numbers of one epoch: those from ``first`` to ``next`` have passed."""

    __slots__ = ("first", "live", "mark", "next", "seen", "signs")

    def __init__(self, seq: int) -> None:
        self.first, self.next = seq, seq + 1
        self.live = True
        self.seen = 0  # arrivals at its last frame
        self.mark = self.signs = 0  # frames in order elsewhere: the number after them, and how many

    def sign(self, seq: int) -> int:
        """Count a frame elsewhere; return how many have now come in order."""
        self.signs = self.signs + 1 if self.signs and seq == self.mark else 1
        self.mark = seq + 1
        return self.signs


class FrameSequence:
    """Follows the sequence numbers of one source's frames.

    An epoch names one run of a producer. Epochs are compared for equality only, as a clock can be set
    back between two runs. The rules:

    1. The first frame of a source sets epoch and number; what was before it is unknown, not lost.
    2. An unknown epoch is a new run of the producer, a restart. All runs before it are left.
    3. The next number, or one up to 1,024 ahead, is next; the numbers between are missing.
    4. A number that has passed is a repeat.
    5. A number further ahead is processed, but the place is kept: only if the frame after it goes on from
       there, the numbers between are missing. So one absurd number changes nothing.
    6. A number before the first one is a repeat as well, until three have come in order; then the numbers
       go on from there.
    7. A frame of a run that was left is stale, until three new numbers of it have come in order: then two
       producers are live under one name. Frames of both are processed from then on, and each change from
       one to the other is a conflict.
    8. A run without a frame among 1,024 of others is left. Sixteen runs are remembered.

    Frames without a number are always next.

    Attributes:
        missing: Frames lost just before the last one that arrived.
        repeats: Frames dropped as repeats within an epoch.
        stale: Frames dropped as belonging to an epoch that was left.
        conflicts: Changes between two producers that are live under this name.
    """

    __slots__ = ("_arrivals", "_epoch", "_run", "_runs", "conflicts", "missing", "repeats", "stale")

    def __init__(self) -> None:
        self.missing = self.repeats = self.stale = self.conflicts = 0
        self._runs: dict[int, _Run] = {}  # by epoch, the one that began last at the end
        self._run: _Run | None = None  # of the last frame that was processed
        self._epoch = 0
        self._arrivals = 0

    @property
    def cursor(self) -> Cursor | None:
        """Return the next expected frame of the last producer; None if no frame had a sequence number."""
        return None if self._run is None else Cursor(self._epoch, self._run.next)

    @property
    def is_from_its_beginning(self) -> bool:
        """Return whether the last producer's first frame came."""
        return self._run is not None and self._run.first == 0

    def save(self) -> dict[str, Any]:
        """Return the numbers so far, as plain values."""
        return {
            "counts": [self.repeats, self.stale, self.conflicts],
            "arrivals": self._arrivals,
            "epoch": self._epoch,
            "lives": [
                [epoch, {name: getattr(run, name) for name in _Run.__slots__}]
                for epoch, run in self._runs.items()
            ],
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what was saved."""
        self.repeats, self.stale, self.conflicts = saved["counts"]
        self._arrivals, self._epoch = saved["arrivals"], saved["epoch"]
        for epoch, values in saved["lives"]:
            run = self._runs[epoch] = _Run(0)
            for name, value in values.items():
                setattr(run, name, value)
        self._run = self._runs.get(self._epoch)

    def arrive(self, frame: EventFrame) -> Arrival:
        """Take in a frame's number; ``missing`` then counts the frames lost just before it."""
        self.missing = 0
        epoch, seq = frame.epoch, frame.seq
        if seq == UNNUMBERED:
            return NEXT
        self._arrivals += 1
        run = self._run
        if run is None or epoch != self._epoch:
            run = self._runs.get(epoch)
            if run is None:
                return self._begin(epoch, seq)
            if self._arrivals - run.seen > SILENT:
                run.live = False
            if not run.live and not self._revives(run, seq):
                self.stale += 1
                return Arrival.STALE
        if not self._place(run, seq):
            self.repeats += 1
            return Arrival.REPEAT
        run.seen = self._arrivals
        if run is self._run:
            return NEXT
        self._run, self._epoch = run, epoch
        self.conflicts += 1
        return Arrival.CONFLICT

    def _begin(self, epoch: int, seq: int) -> Arrival:
        """Begin a run; those before it are left."""
        arrival = RESTART if self._runs else NEXT
        for left in self._runs.values():
            left.live, left.signs = False, 0
        if len(self._runs) == RUNS:
            del self._runs[next(iter(self._runs))]
        self._run = self._runs[epoch] = _Run(seq)
        self._run.seen = self._arrivals
        self._epoch = epoch
        if arrival is RESTART and seq <= AHEAD:
            self.missing = seq
        return arrival

    @staticmethod
    def _revives(run: _Run, seq: int) -> bool:
        """Return whether a frame of a run that was left shows it to be live."""
        if seq < run.next or run.sign(seq) < SIGNS:
            return False
        run.live, run.signs = True, 0
        run.next = seq
        return True

    def _place(self, run: _Run, seq: int) -> bool:
        """Move a live run's place on to a number; False if the frame is a repeat."""
        ahead = seq - run.next
        if 0 <= ahead <= AHEAD:
            self.missing = ahead
            run.next, run.signs = seq + 1, 0
            return True
        if ahead > 0:
            return self._place_ahead(run, seq)
        if seq >= run.first:
            return False
        if run.sign(seq) < SIGNS:
            return False
        run.first, run.next, run.signs = seq, seq + 1, 0
        return True

    def _place_ahead(self, run: _Run, seq: int) -> bool:
        """Take in a number far ahead; one that goes on from another confirms it."""
        if run.signs and seq == run.mark - 1:
            return False
        if run.signs and run.mark > run.next and 0 <= seq - run.mark <= AHEAD:
            self.missing = min(seq - run.next - 1, _MOST_MISSING)
            run.first, run.next, run.signs = run.mark - 1, seq + 1, 0
        else:
            run.sign(seq)
        return True
