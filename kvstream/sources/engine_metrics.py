"""EngineMetrics: what an engine says of its cache in ``/metrics``, held against what its events say.

Events and metrics count different things, so that only what must hold between them is compared:

- blocks that the engine has cached are known by events, and no more are known than it has room for;
- prompt tokens that were not found are computed and stored, but for a part of a block a request;
- blocks that events say were found are no more than the engine counts itself.
"""

import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import anyio
from anyio import to_thread

from kvstream.engine.inputs import InputStatistics
from kvstream.errors import ConfigError, MissingExtraError
from kvstream.events.types import DEFAULT_TIER
from kvstream.sources.connection_state import InputConnection
from kvstream.sources.engine_input import Forget, Take
from kvstream.sources.http_client import FetchError, fetch, require_http
from kvstream.state.resumption import MarkerOf, no_marker
from kvstream.stream import KVStream, consumers_of
from kvstream.text.addresses import http_url, without_password

_EVERY_SECONDS = 15.0
_WANTED = (
    "vllm:cache_config_info",
    "vllm:kv_cache_usage_perc",
    "vllm:num_requests_running",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:request_success_total",
    "sglang:page_size",
    "sglang:kv_evictable_tokens",
    "sglang:max_total_num_tokens",
    "sglang:prompt_tokens_total",
    "sglang:cached_tokens_total",
    "sglang:num_requests_total",
)
_NAMES = "|".join(name.removesuffix("_total") for name in _WANTED)
# A counter's type has its name without the suffix, and some of the exporters' samples do.
_WANTED_LINE = re.compile(rf"^(?:# TYPE )?(?:{_NAMES})(?:_total)?[ \t{{][^\n]*", re.M)
_MOST_WANTED = 2 * 1024 * 1024  # characters, with all labels of a thousand ranks
_LONGEST_LINE = 4096
_ENOUGH_BLOCKS = 1_000
"""Blocks that a comparison of counts rests on at least."""


class EngineCounts(NamedTuple):
    """What one rank of an engine says; None is not known.

    Attributes:
        room: Blocks that its cache has room for.
        cached: Blocks that are cached at least.
        queries: Prompt tokens that were looked for, so far.
        hits: Prompt tokens that were found, so far.
        requests: Requests that were served, so far.
        block_size: Tokens in a block.
    """

    room: float | None
    cached: float | None
    queries: float | None
    hits: float | None
    requests: float | None
    block_size: float | None


class EventCounts(NamedTuple):
    """What the events of one source say.

    Attributes:
        live: Blocks live.
        allocations: Blocks allocated, so far.
        accesses: Hits, and blocks stored again, so far.
    """

    live: int
    allocations: int
    accesses: int


class Difference(NamedTuple):
    """How far the two are apart in one thing, as a share, and in what."""

    share: float
    text: str


def read_counts(text: str) -> dict[str, EngineCounts]:
    """Return what each rank says, by its number, from the text of ``/metrics`` of vLLM or SGLang.

    Only lines of the metrics that are wanted are parsed, which are few: parsing takes seconds for 16 MiB of
    others, and minutes for a line of that length.

    Raises:
        MissingExtraError: If ``kvstream[prometheus]`` is not installed.
        ValueError: If the text is no exposition, or more of it is wanted than an engine has.
    """
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError:
        raise MissingExtraError("--engine-metrics", "prometheus") from None
    values: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(_wanted(text)):
        for sample in family.samples:
            name, labels = sample.name, sample.labels
            if not name.startswith(("vllm:", "sglang:")) or labels.get("tp_rank", "0") != "0":
                continue  # of tensor-parallel ranks, each says the same
            rank = values[labels.get("engine", labels.get("dp_rank", ""))]
            rank[name] += sample.value
            if name == "vllm:cache_config_info":
                for label in ("num_gpu_blocks", "block_size"):
                    if labels.get(label, "").isdecimal():
                        rank[label] = float(labels[label])
    shared = values.pop("", None)  # of all ranks together
    if shared is not None and len(values) <= 1:
        [only] = values or ["0"]
        for name, value in shared.items():
            values[only].setdefault(name, value)
    return {rank: _counts(found) for rank, found in values.items()}


def _wanted(text: str) -> str:
    """Return the lines of the metrics that are wanted.

    Raises:
        ValueError: If one of them, or all together, are longer than an engine's.
    """
    lines, size = [], 0
    for found in _WANTED_LINE.finditer(text):
        length = found.end() - found.start() + 1
        size += length
        if length > _LONGEST_LINE:
            raise ValueError(f"a line of {length:,} characters is longer than {_LONGEST_LINE:,}")
        if size > _MOST_WANTED:
            raise ValueError(f"there are more than {_MOST_WANTED:,} characters of the metrics that are read")
        lines.append(found[0])
    return "".join(f"{line}\n" for line in lines)


def _counts(found: dict[str, float]) -> EngineCounts:
    if any(name.startswith("vllm:") for name in found):
        room, used = found.get("num_gpu_blocks"), found.get("vllm:kv_cache_usage_perc")
        # What requests hold is cached but for a block that is not full, and one ahead.
        partial = 2 * found.get("vllm:num_requests_running", 0.0)
        return EngineCounts(
            room,
            None if room is None or used is None else room * used - partial,
            found.get("vllm:prefix_cache_queries_total"),
            found.get("vllm:prefix_cache_hits_total"),
            found.get("vllm:request_success_total"),
            found.get("block_size"),
        )
    size, evictable = found.get("sglang:page_size"), found.get("sglang:kv_evictable_tokens")
    tokens = found.get("sglang:max_total_num_tokens")
    return EngineCounts(
        tokens / size if tokens is not None and size else None,
        evictable / size if evictable is not None and size else None,
        found.get("sglang:prompt_tokens_total"),
        found.get("sglang:cached_tokens_total", 0.0 if "sglang:prompt_tokens_total" in found else None),
        found.get("sglang:num_requests_total"),
        size,
    )


def differences_now(engine: EngineCounts, events: EventCounts) -> list[Difference]:
    """Return how far the blocks that are cached are apart."""
    found = []
    if engine.room and engine.cached is not None:
        missing = max(0.0, engine.cached - events.live) / engine.room
        text = f"the engine has {engine.cached:,.0f} blocks cached, the events know {events.live:,}"
        found.append(Difference(missing, text))
    if engine.room:
        surplus = max(0.0, events.live / engine.room - 1)
        text = f"by the events {events.live:,} blocks are cached, where the engine has {engine.room:,.0f}"
        found.append(Difference(surplus, text))
    return found


def differences_since(
    before: tuple[EngineCounts, EventCounts], now: tuple[EngineCounts, EventCounts]
) -> list[Difference] | None:
    """Return how far what was stored and found meanwhile is apart; None while it is too little to tell."""
    (engine_before, events_before), (engine, events) = before, now
    counts = (engine.queries, engine.hits, engine.requests, engine_before.queries, engine_before.hits)
    size = engine.block_size
    if None in counts or engine_before.requests is None or not size:
        return []
    queries = _grown(engine_before.queries, engine.queries) / size
    hits = _grown(engine_before.hits, engine.hits) / size
    requests = _grown(engine_before.requests, engine.requests)
    allocations = events.allocations - events_before.allocations
    accesses = events.accesses - events_before.accesses
    computed = queries - hits - requests  # a part of a block a request is not stored
    if max(computed, accesses) < _ENOUGH_BLOCKS:
        return None
    missing = max(0.0, 1 - (allocations + accesses) / computed) if computed >= _ENOUGH_BLOCKS else 0.0
    surplus = max(0.0, 1 - hits / accesses) if accesses >= _ENOUGH_BLOCKS else 0.0
    return [
        Difference(
            missing, f"of {computed:,.0f} blocks computed, the events know {allocations + accesses:,} stored"
        ),
        Difference(surplus, f"by the events {accesses:,} blocks were found, by the engine {hits:,.0f}"),
    ]


def _grown(before: float | None, now: float | None) -> float:
    return (now or 0.0) - (before or 0.0)


class EngineMetrics:
    """Compares what an engine says in ``/metrics`` with what its events say; brings no events itself.

    Args:
        source: Name of the engine's events; its ranks are ``{source}/dp0`` and so on.
        url: URL of its ``/metrics``.
        counts: Returns what the events of a source say; None if there are none.
        every_seconds: Seconds between two looks.

    Raises:
        ConfigError: If the URL is none.
        MissingExtraError: If ``kvstream[zmq]`` or ``kvstream[prometheus]`` is not installed.
    """

    def __init__(
        self,
        source: str,
        url: str,
        counts: Callable[[str], EventCounts | None],
        *,
        every_seconds: float = _EVERY_SECONDS,
    ) -> None:
        try:
            if not source:
                raise ValueError("it names no source")
            http_url(url)
        except ValueError as error:
            shown = f"{source}={without_password(url)}"
            raise ConfigError(f"{shown}: {error}; write SOURCE=http://HOST:PORT/metrics") from error
        require_http()
        read_counts("")
        self._source, self._url, self._counts = source, url, counts
        self._every_seconds = every_seconds
        self._connection = InputConnection()
        self._ranks: dict[str, _Rank] = {}
        self._malformed = 0

    def statistics(self) -> list[InputStatistics]:
        """Return how far each rank's events are from its metrics."""
        fields: dict[str, Any] = {
            "state": self._connection.state,
            "since": self._connection.since,
            "error": self._connection.error,
            "malformed": self._malformed,
            "refused": {"metrics": self._malformed} if self._malformed else {},
        }
        if not self._ranks:
            return [InputStatistics(input=self._url, **fields)]
        return [
            InputStatistics(
                input=f"{self._url} ({rank.source})",
                source=rank.source,
                drift=None if rank.worst is None else rank.worst.share,
                drift_detail="" if rank.worst is None else rank.worst.text,
                **fields,
            )
            for rank in self._ranks.values()
        ]

    async def deliver(
        self,
        take: Take,
        forget: Forget | None = None,
        *,
        is_alone: bool = True,
        marker_of: MarkerOf = no_marker,
    ) -> None:
        """Look again and again, until cancelled; nothing that goes wrong ends it."""
        while True:
            await self._look()
            await anyio.sleep(self._every_seconds)

    async def _look(self) -> None:
        try:
            body = await fetch(self._url)
            ranks = await to_thread.run_sync(read_counts, body.decode("utf-8", "replace"))
        except FetchError as error:
            self._connection.become("not connected", str(error))
            return
        except Exception as error:  # whatever a server answers, those that were known stay
            self._malformed += 1
            self._connection.become("error", f"what {self._url} answers is not understood: {error}")
            return
        if not ranks:
            self._connection.become("error", f"{self._url} has no metrics of vLLM or SGLang")
            return
        self._connection.become("connected")
        counts = {self._source_of(number, len(ranks) == 1): engine for number, engine in ranks.items()}
        # Those that are there no more go, as what was last found of them would stand for ever.
        self._ranks = {source: self._ranks.get(source) or _Rank(source) for source in counts}
        for source, engine in counts.items():
            self._ranks[source].compare(engine, self._counts(source) or EventCounts(0, 0, 0))

    def _source_of(self, rank: str, is_only: bool) -> str:
        """Return the source of a rank; engines of one rank may say none in their events."""
        ranked = f"{self._source}/dp{rank}"
        return self._source if is_only and self._counts(self._source) is not None else ranked


class _Rank:
    """One rank: the last differences, those of now and those of a past interval."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.worst: Difference | None = None
        self._before: tuple[EngineCounts, EventCounts] | None = None
        self._since: list[Difference] = []

    def compare(self, engine: EngineCounts, events: EventCounts) -> None:
        now = (engine, events)
        if self._before is None or _began_again(self._before, now):
            self._before, self._since = now, []
        since = differences_since(self._before, now)
        if since is not None:
            self._before, self._since = now, since
        self.worst = max([*differences_now(engine, events), *self._since], default=None)


def _began_again(before: tuple[EngineCounts, EventCounts], now: tuple[EngineCounts, EventCounts]) -> bool:
    """Return whether the engine, or the counts of its events, restarted meanwhile."""
    engine = _grown(before[0].queries, now[0].queries) < 0 or _grown(before[0].requests, now[0].requests) < 0
    return engine or now[1].allocations < before[1].allocations or now[1].accesses < before[1].accesses


def event_counts(stream: KVStream) -> Callable[[str], EventCounts | None]:
    """Return a function that returns the event counts of a source's GPU cache."""

    def counts(source: str) -> EventCounts | None:
        for cache in consumers_of(stream).caches(source, DEFAULT_TIER):
            seen = cache.measurements()
            return EventCounts(cache.table.live_count, seen.allocations, seen.accesses)
        return None

    return counts
