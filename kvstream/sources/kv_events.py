"""The KV-cache events that vLLM and SGLang publish: msgpack batches to frames, in every shape in the wild.

Token ids and extra keys may hold what users wrote. They are passed over undecoded and go nowhere, but for a
keyed hash of vLLM's cache salt.
"""

from collections.abc import Iterator
from itertools import chain, pairwise

import msgspec

from kvstream._core.kv_events import MAX_PAYLOAD_BYTES as MAX_PAYLOAD_BYTES
from kvstream._core.kv_events import NO_RANK, KVEventReader
from kvstream.errors import MalformedInputError
from kvstream.events.frame import MAX_FRAME_EVENTS, EventFrame
from kvstream.text.escape import shortened

TIER_OF_MEDIUM = {
    None: "gpu",
    "GPU": "gpu",
    "CPU": "cpu",
    "CPU_PINNED": "cpu",
    "CPU_TIER1": "cpu",
    "CPU_TIER2": "disk",
    "STORAGE": "disk",
    "DISK": "disk",
    "EXTERNAL": "remote",
    "REMOTE": "remote",
}
"""Tiers of the media that engines name; of any other, the name in small letters."""

HOST_POOLS = ("CPU_PINNED", "CPU_TIER1")
"""SGLang's names of its host memory, which it empties with the device's; vLLM empties the device alone."""

_MAX_NAME = 64
_LONGEST_REASON = 300  # characters
_MAX_REASONS = 10  # of a batch's malformed events; the others are counted together


class Rejected(msgspec.Struct, frozen=True):
    """A batch, or events of one, that could not be decoded.

    Attributes:
        batch: Number of the batch among those that ``frames`` decoded, from 0.
        unit: ``batch`` if none of it was decoded, or ``event``.
        reason: What is wrong.
        count: Batches or events that this is about.
    """

    batch: int
    unit: str
    reason: str
    count: int = 1


class KVEventDecoder:
    r"""Turns the batches of one publisher into numbered frames.

    ``BlockStored`` becomes a store, ``BlockRemoved`` an eviction, ``AllBlocksCleared`` a clear of the medium
    that it names, or else of the tier ``gpu`` and of SGLang's host memory. The medium is the tier, unless the
    locality is ``REMOTE``; a data-parallel rank becomes part of the source. Blocks of another ``group_idx``
    than 0, or of an ``ownership``, get ids of their own, as the same content can be held once by each.

    A LoRA adapter, by name or else by number, is the label ``lora``. Sessions and cache salts are labels as
    keyed hashes (``text.pseudonym``), groups and their kinds of attention where there are several.

    A block with the ``origin`` ``REUSED`` was there before, and what a snapshot shows is resident: when it
    was stored is unknown. A frame has blocks of one ``block_size``. Times of 1e11 and more are milliseconds.

    Args:
        source: Name of the publisher; batches of rank 1 belong to ``{source}/dp1``.
        epoch: Number of the publisher's first life; each restart adds one.
        has_one_rank: Whether ``source`` names the rank, whatever its batches say.

    Attributes:
        add: Called with the bytes of a batch, keeps it for the next ``frames``.
        rejected: What the last ``frames`` could not decode. Other parts of a batch are in the frames.
        undecoded: Batches that the last ``frames`` had no memory to decode; they count as lost.

    Examples:
        >>> decoder = KVEventDecoder("vllm-0")
        >>> decoder.add(b'\x92\xcb\x3f\xf0\0\0\0\0\0\0\x91\x92\xacBlockRemoved\x91\x07')
        >>> [frame.blocks.tolist() for frame in decoder.frames()]
        [[7]]
    """

    def __init__(self, source: str, epoch: int = 0, has_one_rank: bool = False) -> None:
        self.source, self.epoch, self._has_one_rank = source, epoch, has_one_rank
        self.rejected: list[Rejected] = []
        self.undecoded = 0
        self._waiting: list[bytes] = []
        self.add = self._waiting.append  # itself, as a method around it takes as long as to read an event
        self._numbers: dict[str, int] = {}
        self._lost = 0
        self._reader = KVEventReader(_tier_of, TIER_OF_MEDIUM.values(), HOST_POOLS)

    @property
    def unknown_events(self) -> int:
        """Return events of a type that is not known here, which were skipped."""
        return self._reader.unknown_events

    @property
    def batches(self) -> int:
        """Return how many batches were decoded."""
        return self._reader.batches

    @property
    def last_ts(self) -> int:
        """Time of the last batch, ns since the Unix epoch; 0 before the first."""
        return self._reader.last_ts

    def mark_snapshot(self, is_snapshot: bool) -> None:
        """Treat batches from now on as a snapshot of what is cached, or as stores again."""
        self._reader.is_snapshot = is_snapshot

    def lost(self, batches: int) -> None:
        """Count batches that are missing before the next one."""
        self._lost += batches

    def restart(self) -> None:
        """Begin a new epoch, as the publisher has with an empty cache; call ``frames`` before."""
        self.epoch += 1
        self._numbers.clear()

    def frames(self) -> list[EventFrame]:
        """Decode what was added since the last call, to a frame or more for each rank and tier.

        Frames are numbered one by one, with holes as large as the batches that were lost.
        """
        waiting, self.rejected, self.undecoded = self._waiting.copy(), [], 0
        del self._waiting[: len(waiting)]
        try:
            self._read(waiting)
            taken = self._reader.take()
        except MemoryError:
            self._lost += len(waiting) - self.undecoded
            self.undecoded = len(waiting)
            return []
        made: list[EventFrame] = []
        for rank, tier, ops, blocks, ts, label_of, labels, sizes in taken:
            source = self.source if rank == NO_RANK or self._has_one_rank else f"{self.source}/dp{rank}"
            whole = EventFrame(
                *(ops, blocks, ts, source, tier),
                epoch=self.epoch,
                labels=labels,
                label_of=label_of,
                block_tokens=sizes[0][1] if sizes else 0,
            )
            parts = [whole] if len(sizes) < 2 else _cut(whole, sizes)
            for frame in chain.from_iterable(part.cut(MAX_FRAME_EVENTS) for part in parts):
                number = self._numbers.get(source, 0) + self._lost
                self._lost = 0
                self._numbers[source] = number + 1
                made.append(msgspec.structs.replace(frame, seq=number))
        return made

    def _read(self, payloads: list[bytes]) -> None:
        """Read batches, and note what cannot be read."""
        for batch, unit, reason, count in self._reader.read(payloads):
            if unit == "memory":
                self._lost += 1
                self.undecoded += 1
            else:
                self._reject(Rejected(batch, unit, shortened(reason, _LONGEST_REASON), count))

    def _reject(self, rejected: Rejected) -> None:
        """Note what is malformed; from the tenth event of a batch on they are counted together."""
        if [r.batch for r in self.rejected[-_MAX_REASONS:]] == [rejected.batch] * _MAX_REASONS:
            last = self.rejected.pop()
            rejected = msgspec.structs.replace(last, count=last.count + rejected.count)
        self.rejected.append(rejected)


def _cut(whole: EventFrame, sizes: list[tuple[int, int]]) -> Iterator[EventFrame]:
    """Yield the parts of what was read, each with blocks of one size."""
    starts = [0, *(row for row, _ in sizes[1:])]
    for (start, end), (_, tokens) in zip(pairwise([*starts, len(whole)]), sizes, strict=True):
        yield msgspec.structs.replace(whole.take(slice(start, end)), block_tokens=tokens)


def _tier_of(medium: str | None) -> str:
    """Return the tier of a medium.

    Raises:
        MalformedInputError: If the medium is no name.
    """
    if medium in TIER_OF_MEDIUM:
        return TIER_OF_MEDIUM[medium]
    name = str(medium)
    if not 0 < len(name) <= _MAX_NAME:
        raise MalformedInputError(f"a medium has 1 to {_MAX_NAME} characters, not {len(name):,}")
    return name.lower()
