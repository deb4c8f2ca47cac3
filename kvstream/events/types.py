"""The events, one Struct each: the form people, pipes and JSON lines use."""

from typing import Annotated, Any, Final, get_args

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import astuple

from kvstream.errors import MalformedInputError

DEFAULT_SOURCE = "default"
DEFAULT_TIER = "gpu"

Timestamp = Annotated[int, Meta(ge=0, le=2**63 - 1, description="Nanoseconds since the Unix epoch")]
BlockId = Annotated[
    int, Meta(description="Physical block number, or a 64-bit content hash (signed or unsigned)")
]
MAX_RANK = 4095
Rank = Annotated[int, Meta(ge=0, le=MAX_RANK, description="Data-parallel rank of an engine")]
MAX_NAME = 256
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]


class Op:
    """Operation codes of the ``ops`` column of a frame.

    Plain integers: looking up a member of an ``IntEnum`` takes Python 3.11 a microsecond, which shows
    where small frames are applied.
    """

    ALLOC: Final = 0
    ACCESS: Final = 1
    EVICT: Final = 2
    CLEAR: Final = 3
    STORE: Final = 4
    PREFIX: Final = 5
    REMOVE: Final = 6
    RESIDENT: Final = 7


MOST_SLOTS: Final = 2**32
"""An id from here on, or a negative one, can only be a content hash."""

BIRTH_UNKNOWN: Final = -(2**63)
"""In place of the birth, ns, of a block that was in the cache before anything was heard of it."""

REASONS = ("capacity", "replaced", "cleared", "expired", "preempted", "manual", "other")
"""Why a generation ended; a reason's code in a frame is its place here."""

REASON_CODE = {name: code for code, name in enumerate(REASONS)}
REPLACED = REASON_CODE["replaced"]
OTHER = REASON_CODE["other"]
UNKNOWN_REASON = 255
"""Code of a reason that the producer spelled in a way nobody knows: kept as ``other`` and counted."""


def checked_name(name: str) -> str:
    """Return the name of a source, a tier or a label, checked.

    Raises:
        MalformedInputError: If it has not 1 to 256 characters, or a lone surrogate, which no encoding holds.
    """
    if type(name) is not str or not 1 <= len(name) <= MAX_NAME:
        raise MalformedInputError(f"a name must have 1 to {MAX_NAME} characters")
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise MalformedInputError(f"a name must be Unicode text: {error}") from None
    return name


class Labels(Struct, frozen=True, omit_defaults=True):
    """Labels of an allocation. What happens to the block from then on counts for them.

    Attributes:
        tenant: Customer or team.
        lora: LoRA adapter.
        model: Model, where an engine serves several.
        group: Anything else, such as a traffic class.
        session: Session of the request; from KV events a keyed hash (``text.pseudonym``).
        salt: Cache salt of the request, likewise. Only requests with the same salt share blocks.
        cache_group: Group of layers, where an engine has several.
        spec_kind: Kind of attention of that group, such as ``full_attention``.
    """

    tenant: Name | None = None
    lora: Name | None = None
    model: Name | None = None
    group: Name | None = None
    session: Name | None = None
    salt: Name | None = None
    cache_group: Name | None = None
    spec_kind: Name | None = None


LABEL_NAMES: tuple[str, ...] = Labels.__struct_fields__


def checked_labels(labels: Labels) -> Labels:
    """Return labels, checked as decoders check them; an empty one would be none to Prometheus.

    Raises:
        MalformedInputError: If they are no ``Labels``, or one of them is no name.
    """
    if not isinstance(labels, Labels):
        raise MalformedInputError(f"labels must be such as kvstream.Labels(tenant='acme'), not {labels!r}")
    for name in astuple(labels):
        if name is not None:
            checked_name(name)
    return labels


class BlockAllocated(Struct, frozen=True, tag="alloc", omit_defaults=True, gc=False):
    """A block was allocated: a new generation of it begins.

    Attributes:
        block: Block id.
        ts: When, in nanoseconds since the Unix epoch.
        source: Cache instance, such as an engine rank (``vllm-0/dp0``).
        tier: Where the block lives: ``gpu``, ``cpu``, ``disk``, ``remote``.
        key: 64-bit hash of the content, if known.
        labels: Label set to which everything that happens to the generation is attributed.
    """

    block: BlockId
    ts: Timestamp
    source: Name = DEFAULT_SOURCE
    tier: Name = DEFAULT_TIER
    key: int | None = None
    labels: Labels | None = None


class BlockAccessed(Struct, frozen=True, tag="access", omit_defaults=True, gc=False):
    """A live block was found by another request: a prefix-cache hit.

    A block that was not live becomes live; the time of its allocation is unknown.
    """

    block: BlockId
    ts: Timestamp
    source: Name = DEFAULT_SOURCE
    tier: Name = DEFAULT_TIER


class BlockEvicted(Struct, frozen=True, tag="evict", omit_defaults=True, gc=False):
    """A block was evicted: its generation ends."""

    block: BlockId
    ts: Timestamp
    source: Name = DEFAULT_SOURCE
    tier: Name = DEFAULT_TIER
    reason: str = "capacity"


class CacheCleared(Struct, frozen=True, tag="clear", omit_defaults=True, gc=False):
    """The whole cache of one source and tier was emptied at once."""

    ts: Timestamp
    source: Name = DEFAULT_SOURCE
    tier: Name = DEFAULT_TIER


class BlockStored(Struct, frozen=True, tag="store", omit_defaults=True, gc=False):
    """A block was stored, as engines publish it: an allocation, or another copy of a block that is live.

    A block of several copies is live until as many evictions have removed them.
    """

    block: BlockId
    ts: Timestamp
    source: Name = DEFAULT_SOURCE
    tier: Name = DEFAULT_TIER
    labels: Labels | None = None


class PrefixStored(Struct, frozen=True, tag="prefix", omit_defaults=True, gc=False):
    """A block of a request's prefix, published whether it was stored anew or found in the cache.

    It counts as an access if the block was live, and as an allocation if not.
    """

    block: BlockId
    ts: Timestamp
    source: Name = DEFAULT_SOURCE
    tier: Name = DEFAULT_TIER
    labels: Labels | None = None


class BlockRemoved(Struct, frozen=True, tag="remove", omit_defaults=True, gc=False):
    """The last copy of a block was removed: its generation ends, however many copies it seemed to have."""

    block: BlockId
    ts: Timestamp
    source: Name = DEFAULT_SOURCE
    tier: Name = DEFAULT_TIER


class BlockResident(Struct, frozen=True, tag="resident", omit_defaults=True, gc=False):
    """A snapshot shows that a block is in the cache: it is live, of unknown birth.

    For a block that is live already, it changes nothing.
    """

    block: BlockId
    ts: Timestamp
    source: Name = DEFAULT_SOURCE
    tier: Name = DEFAULT_TIER
    labels: Labels | None = None


Event = (
    BlockAllocated
    | BlockAccessed
    | BlockEvicted
    | CacheCleared
    | BlockStored
    | PrefixStored
    | BlockRemoved
    | BlockResident
)

EVENT_TYPES: tuple[type[Any], ...] = get_args(Event)
"""The Struct of each operation; its code in a frame (``Op``) is its place here."""

EVENT_NAMES = (
    "allocations",
    "accesses",
    "evictions",
    "clears",
    "stores",
    "lookups of prefixes",
    "removals of copies",
    "blocks that were cached already",
)
"""What people call the events of each operation, by its code."""

OP_OF = {kind: op for op, kind in enumerate(EVENT_TYPES)}
"""The operation code of each event's Struct."""


class Malformed(msgspec.Struct, frozen=True, tag="malformed"):
    """A piece of input that was counted and skipped.

    Attributes:
        origin: The input's name: a file, ``-`` for standard input.
        unit: What ``position`` counts: ``line`` (from 1) or ``byte`` (from 0).
        position: Where the piece starts.
        reason: What is wrong with it.
        count: Number of such pieces; more than one where there are too many to report each.
    """

    origin: str
    unit: str
    position: int
    reason: str
    count: int = 1

    def __str__(self) -> str:
        more = f" ({self.count - 1:,} more like it)" if self.count > 1 else ""
        return f"{self.origin}: {self.unit} {self.position}: {self.reason}{more}"
