"""Results: what was found in each stream, kept as JSON lines, so that long runs make one table."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from kvstream.alerts.scoring import Raised, Score
from tests.detection.judge import Run, Table, early, scored
from tests.detection.streams import Stream


class Found(msgspec.Struct):
    """What one set of rules made of a stream.

    Attributes:
        raised: Every alert.
        score: How the incident was found; None in a quiet stream.
        early: Alerts before its onset, or of other sources.
    """

    raised: list[Raised]
    score: Score | None = None
    early: int = 0


class Result(msgspec.Struct):
    """One stream, and what each set of rules made of it.

    Attributes:
        seed: Seed of the stream.
        stream: What is known of it (``Stream``).
        by: What was found, by the name of the rules.
    """

    seed: int
    stream: dict[str, str | float | bool | None]
    by: dict[str, Found]

    @classmethod
    def of(cls, seed: int, stream: Stream, made: Run) -> "Result":
        """Return the result of a stream that was gone through."""
        by = {}
        for name, raised in made.raised.items():
            by[name] = Found(raised)
            if stream.onset is not None:
                score = scored(stream, raised, made.notifications[name])
                by[name] = Found(raised, score, early(stream, raised))
        facts = {name: value for name, value in vars(stream).items() if name != "frames"}
        return cls(seed, facts, by)

    def restored(self) -> Stream:
        """Return the stream, without its frames."""
        return Stream(frames=lambda: iter(()), **self.stream)


def tables(results: Iterable[Result]) -> dict[str, Table]:
    """Return the scores of each set of rules over all results."""
    found: dict[str, Table] = {}
    for result in results:
        stream = result.restored()
        for name, by in result.by.items():
            table = found.setdefault(name, Table())
            if by.score is None:
                table.quiet.append((stream, by.raised))
            else:
                table.incidents.append((stream, by.score))
                table.early += by.early
    return found


def read(files: Iterable[Path]) -> Iterator[Result]:
    """Yield the results in files of JSON lines."""
    for file in files:
        for line in file.read_bytes().splitlines():
            yield msgspec.json.decode(line, type=Result)
