"""What is counted of events: each count declared once, with its help text and the metric that exports it."""

from collections.abc import Callable, Iterable
from itertools import compress
from operator import attrgetter
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

import numpy as np
from msgspec import Struct, field

from kvstream.events.frame import I64
from kvstream.events.types import REASONS


class Count(NamedTuple):
    """How a count is shown; it annotates the field that holds it.

    Attributes:
        help: What is counted, in a sentence.
        metric: Name of its Prometheus metric, without ``_total``; empty where none exports it.
        kind: Whether it only grows.
        rests_on_hits: Whether nothing is known of it where an engine publishes no hits.
        is_problem: Whether reports list it where it is not 0; ``Accounts`` has a field of that name.
    """

    help: str
    metric: str = ""
    kind: Literal["counter", "gauge"] = "counter"
    rests_on_hits: bool = False
    is_problem: bool = False


HitsReported = Literal["none", "some", "all"]
"""Whether requests report the blocks that they find in a cache: no request, those that ask for it, or all."""

_ENOUGH = 1_000  # allocations without any hit, after which none is reported: a prefix cache finds one sooner


class CacheCounts(Struct, eq=False, kw_only=True):
    """What is counted of the events of one source and tier.

    Attributes:
        evictions: Generations ended otherwise than by a clear, by reason code, int64.
    """

    evictions: I64 = field(default_factory=lambda: np.zeros(len(REASONS), dtype=np.int64))
    allocations: Annotated[int, Count("Blocks allocated.", "kvstream_allocations")] = 0
    sampled_allocations: Annotated[int, Count("Generations with measured intervals.")] = 0
    accesses: Annotated[int, Count("Hits on live blocks.", "kvstream_accesses", rests_on_hits=True)] = 0
    stores: Annotated[int, Count("Stores, which were allocations, further copies or accesses.")] = 0
    published_hits: Annotated[int, Count("Accesses that were published as stores.")] = 0
    copies_stored: Annotated[int, Count("Stores of further copies of live blocks.")] = 0
    copies_removed: Annotated[int, Count("Removals of copies of blocks that stayed live.")] = 0
    shared_between_salts: Annotated[
        int,
        Count("Stores and hits of blocks stored under another salt.", "kvstream_shared_between_salts"),
    ] = 0
    residents: Annotated[int, Count("Blocks of snapshots, most of them live already or born unknown.")] = 0
    unknown_births: Annotated[
        int,
        Count(
            "Blocks first seen in a snapshot or by an access, of unknown birth.", "kvstream_unknown_births"
        ),
    ] = 0
    unknown_lifetimes: Annotated[
        int, Count("Evictions of blocks of unknown birth.", "kvstream_unknown_lifetimes")
    ] = 0
    sized_lookups: Annotated[int, Count("Lookups of blocks of known size.")] = 0
    hit_tokens: Annotated[int, Count("Tokens of hits on blocks of known size.", rests_on_hits=True)] = 0
    lookup_tokens: Annotated[int, Count("Tokens of lookups of blocks of known size.")] = 0
    clears: Annotated[int, Count("Clears of the whole cache.")] = 0
    cleared: Annotated[int, Count("Generations ended by a clear or a restart.")] = 0
    replacements: Annotated[int, Count("Generations ended by another allocation of their block.")] = 0
    never_accessed: Annotated[
        int,
        Count(
            "Evicted blocks that were never accessed.", "kvstream_never_reused_evictions", rests_on_hits=True
        ),
    ] = 0
    accessed_once: Annotated[int, Count("Evicted blocks that were accessed once.")] = 0
    access_total: Annotated[int, Count("Hits on blocks that were evicted later.")] = 0
    unknown_evictions: Annotated[
        int, Count("Evictions of blocks not live.", "kvstream_unknown_evictions", is_problem=True)
    ] = 0
    unknown_accesses: Annotated[
        int, Count("Accesses of blocks not live.", "kvstream_unknown_accesses", is_problem=True)
    ] = 0
    unknown_reasons: Annotated[
        int, Count("Evictions for an unknown reason, kept as other.", is_problem=True)
    ] = 0
    time_regressions: Annotated[
        int, Count("Negative intervals, taken as 0.", "kvstream_time_regressions", is_problem=True)
    ] = 0
    clock_steps: Annotated[
        int, Count("Steps back in time of more than ten windows.", "kvstream_clock_steps", is_problem=True)
    ] = 0

    def add_counts(self, other: "CacheCounts") -> None:
        """Add the counts of another stretch, and nothing else that it may hold."""
        counts = _cache_counts(other)
        pairs = zip(_CACHE_COUNTS, counts, strict=True)
        for name, count in compress(pairs, counts):  # few are not 0 where frames are small
            setattr(self, name, getattr(self, name) + count)
        self.evictions += other.evictions

    @property
    def total_evictions(self) -> int:
        """Return generations ended other than by a clear."""
        return sum(self.evictions.tolist())  # a tenth of what numpy takes for so few

    @property
    def processed(self) -> int:
        """Return events that these counts account for."""
        ended = self.total_evictions - self.replacements + self.unknown_evictions
        accessed = self.accesses + self.unknown_accesses
        begun = self.allocations + self.copies_stored + self.residents
        return begun + self.copies_removed + accessed + ended + self.clears

    @property
    def hits_reported(self) -> HitsReported | None:
        """Return whether hits are reported; None as long as there is not enough to tell."""
        if self.accesses + self.unknown_accesses > self.published_hits:
            return "all"
        if self.published_hits:
            return "some"
        return "none" if self.allocations >= _ENOUGH else None

    @property
    def ended_by_reason(self) -> dict[str, int]:
        """Return generations ended, by reason; those that a clear ended among the ``cleared``."""
        by_reason = dict(zip(REASONS, self.evictions.tolist(), strict=True))
        by_reason["cleared"] += self.cleared
        return by_reason


def joint_hits_reported(reported: Iterable[HitsReported | None]) -> HitsReported | None:
    """Return whether hits are reported by several sources, of each of which this is given."""
    kinds = {kind for kind in reported if kind is not None}
    if len(kinds) > 1:
        return "some"
    return kinds.pop() if kinds else None


class SourceCounts(Struct, eq=False, kw_only=True):
    """What is counted of the frames of one source."""

    duplicate_frames: Annotated[
        int, Count("Frames seen before.", "kvstream_duplicate_frames", is_problem=True)
    ] = 0
    duplicate_events: Annotated[int, Count("Events in frames seen before.")] = 0
    lost_frames: Annotated[
        int, Count("Frames missing by their sequence numbers.", "kvstream_lost_frames", is_problem=True)
    ] = 0
    restarts: Annotated[
        int, Count("Times that a source began a new epoch.", "kvstream_source_restarts", is_problem=True)
    ] = 0

    def add(self, other: "SourceCounts") -> None:
        """Add the counts of another source."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def counts_of(kind: type[Struct]) -> dict[str, Count]:
    """Return how each count of a Struct is shown, by the name of its field, in their order."""
    hints: dict[str, Any] = get_type_hints(kind, include_extras=True)
    return {
        name: noted
        for name in kind.__struct_fields__
        for noted in getattr(hints[name], "__metadata__", ())
        if isinstance(noted, Count)
    }


_CACHE_COUNTS = tuple(counts_of(CacheCounts))
_cache_counts: Callable[[CacheCounts], tuple[int, ...]] = attrgetter(*_CACHE_COUNTS)


class DropReason(NamedTuple):
    """Why events never reach the state of a cache.

    Attributes:
        help: What happened to them, in a sentence.
        is_intended: Whether an overflow policy or a sequence number asked for it; all else is a loss.
    """

    help: str
    is_intended: bool = False


DROP_REASONS = {
    "queue_full": DropReason(
        "The queue was full (drop_newest, and the others where that did not help).", True
    ),
    "displaced": DropReason("Newer events of their producer took their place (drop_oldest).", True),
    "sampled": DropReason("Their blocks were left out to make room (sample).", True),
    "duplicate": DropReason("Their frame was seen before.", True),
    "would_block": DropReason("Waiting for room (block) would have stopped the event loop."),
    "malformed": DropReason("They could not be encoded, or had invalid block ids."),
    "refused_by_broker": DropReason("A Kafka broker refused their frame (fleet agent)."),
    "cancelled": DropReason("A call that waited, or the stream, was cancelled."),
    "closed": DropReason("The producer, connection or stream was closed."),
    "shutdown_timeout": DropReason("Closing took longer than shutdown_timeout."),
    "forked": DropReason("They were recorded in a forked child."),
    "too_many_caches": DropReason("There are max_caches sources and tiers already."),
    "too_many_tiers": DropReason("Their source has max_tiers tiers already."),
    "too_many_blocks": DropReason("There are max_live_blocks live blocks already."),
}
"""Each drop reason by name."""
