"""ReadOptions: what has to be known of an input that it does not say itself."""

from typing import Literal

import msgspec

from kvstream.errors import ConfigError
from kvstream.sources.vllm_cache import ServiceTime

TimeUnit = Literal["s", "ms", "us", "ns"]

NS_OF_UNIT: dict[TimeUnit, int] = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
"""Nanoseconds of each unit."""

SimulatedEngine = Literal["lru", "vllm"]

TraceRows = Literal["whole", "added"]


class ReadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How inputs are read.

    Attributes:
        capacity: Blocks of the simulated cache that a hash trace runs through; None if not given.
        time_unit: Unit of the times in a hash trace; None for the one that its format has.
        engine: By which rules that cache is simulated: ``lru`` serves each request at once and takes no room
            for output (``PrefixCache``), ``vllm`` runs each for its time (``VLLMCache``).
        rows: What a row of a session holds in a hash trace: ``whole`` prompts, or what was ``added`` to it.
        service: How long requests run by the rules of ``vllm``.

    Raises:
        ConfigError: If there is no such unit.
    """

    capacity: int | None = None
    time_unit: TimeUnit | None = None
    engine: SimulatedEngine = "lru"
    rows: TraceRows = "whole"
    service: ServiceTime = ServiceTime()

    def __post_init__(self) -> None:
        if self.time_unit not in (None, *NS_OF_UNIT):
            raise ConfigError(f"time_unit must be one of {', '.join(NS_OF_UNIT)}, not {self.time_unit!r}")
