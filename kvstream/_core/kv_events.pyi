from collections.abc import Callable, Iterable, Sequence
from typing import final

from kvstream.events.frame import I64, U8, U16
from kvstream.events.types import Labels

MAX_PAYLOAD_BYTES: int
MAX_BATCH_EVENTS: int
MAX_DEPTH: int
NO_RANK: int

@final
class KVEventReader:
    is_snapshot: bool
    @property
    def batches(self) -> int: ...
    @property
    def last_ts(self) -> int: ...
    @property
    def unknown_events(self) -> int: ...
    def __init__(
        self, tier_of: Callable[[str | None], str], known_tiers: Iterable[str], host_pools: Iterable[str]
    ) -> None: ...
    def read(self, payloads: Sequence[bytes]) -> list[tuple[int, str, str, int]]: ...
    def take(
        self,
    ) -> list[tuple[int, str, U8, I64, I64, U16 | None, tuple[Labels, ...], list[tuple[int, int]]]]: ...
