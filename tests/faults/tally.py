"""What becomes of mutants: counted by reason, and what must not have happened with the seed that shows it."""

import re
import traceback
from collections import Counter
from typing import Any

import msgspec

_MOST_OUTCOMES = 1_000
_SHOWN = 30


class Crash(msgspec.Struct):
    """Something that must not happen.

    Attributes:
        what: Type and message of the exception, or what else was wrong.
        place: File and line where it was raised.
        seed: Seed of the first round in which it happened.
        times: Mutants, or rounds, in which it happened.
        example: The first mutant, hexadecimal and cut.
    """

    what: str
    place: str
    seed: int
    times: int = 1
    example: str = ""


class Tally:
    """The outcomes of one kind of mutants.

    Attributes:
        mutants: How many were tried.
        past_header: Those whose outermost form was decoded.
        outcomes: Mutants by what became of them.
        crashes: What must not happen, by (type, place).
    """

    def __init__(self) -> None:
        self.mutants = self.past_header = 0
        self.outcomes: Counter[str] = Counter()
        self.crashes: dict[tuple[str, str], Crash] = {}

    def count(self, outcome: str, past: bool) -> None:
        """Count a mutant."""
        self.mutants += 1
        self.past_header += past
        if outcome not in self.outcomes and len(self.outcomes) >= _MOST_OUTCOMES:
            outcome = "other"
        self.outcomes[outcome] += 1

    def crash(self, seed: int, error: BaseException | str, mutant: bytes = b"") -> None:
        """Note what must not happen."""
        if isinstance(error, str):
            what, place = error, ""
        else:
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            ours = [f for f in traceback.extract_tb(error.__traceback__) if "kvstream" in f.filename]
            place = f"{ours[-1].filename.rpartition('kvstream/')[2]}:{ours[-1].lineno}" if ours else "?"
            what = f"{type(error).__name__}: {error}"[:200]
        key = (what.partition(":")[0], place)
        if key in self.crashes:
            self.crashes[key].times += 1
        else:
            self.crashes[key] = Crash(what, place, seed, example=mutant.hex()[:2_000])

    def to_dict(self) -> dict[str, Any]:
        """Return the tally as plain data."""
        return {
            "mutants": self.mutants,
            "past_header": self.past_header,
            "past_header_share": round(self.past_header / self.mutants, 3) if self.mutants else None,
            "outcomes": dict(self.outcomes.most_common(_SHOWN)),
            "crashes": [msgspec.to_builtins(crash) for crash in self.crashes.values()],
        }


def kind_of(reason: str) -> str:
    """Return the words of a reason without what is different each time."""
    reason = re.sub(r"`[^`]*`|'[^']*'|\"[^\"]*\"|0x[0-9a-f]+|-?[0-9][0-9,.]*", "…", reason)
    return reason.partition(" - at ")[0][:60]
