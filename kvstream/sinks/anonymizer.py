"""Anonymizer: recordings that can be shared, with the same figures and nothing that leads back."""

import re
import secrets
from hashlib import blake2b

import msgspec
import numpy as np

from kvstream.events.frame import I64, EventFrame
from kvstream.events.types import LABEL_NAMES, Labels

_BEGIN_NS = 946_684_800_000_000_000  # 2000, where every recording begins then
_ALIGNED_NS = 60_000_000_000  # by whole minutes, so that windows are cut where they were
_SLOTS = 2**31  # ids below are physical block numbers, which say nothing of content
_TIERS = ("gpu", "cpu", "disk", "remote")
_RANK = re.compile(r"/dp\d+$")
_DIGEST_BYTES = 8


class Anonymizer:
    """Replaces what frames say of their origin; equal things stay equal within a run, and no longer.

    Content hashes and keys, labels, epochs, and names of sources and unusual tiers become keyed hashes; the
    first event's time becomes one in the first minute of 2000, and the others keep their distance from it.
    Physical block numbers, ranks, operations and reasons stay. So what a cache did stays what it was:
    lifetimes, reuse, evictions. Who has the key could test a guess, so that it is random and kept nowhere.

    Args:
        key: Key of the hashes, up to 64 bytes; by default a random one.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = secrets.token_bytes(32) if key is None else key
        self._shift_ns: int | None = None

    def frame(self, frame: EventFrame) -> EventFrame:
        """Return a frame that says nothing of its origin."""
        if self._shift_ns is None and len(frame):
            first = int(frame.ts[0])
            self._shift_ns = _BEGIN_NS - (first - first % _ALIGNED_NS)
        return msgspec.structs.replace(
            frame,
            blocks=self._ids(frame.blocks, keep_slots=True),
            keys=None if frame.keys is None else self._ids(frame.keys, keep_slots=False),
            ts=np.maximum(frame.ts + np.int64(self._shift_ns or 0), 0),
            source=self._source(frame.source),
            tier=frame.tier if frame.tier in _TIERS else self._name("tier", frame.tier),
            epoch=self._id(frame.epoch) if frame.epoch else 0,
            labels=tuple(map(self._labels, frame.labels)),
        )

    def _ids(self, ids: I64, keep_slots: bool) -> I64:
        distinct, places = np.unique(ids, return_inverse=True)
        renamed = [
            each if each == 0 or (keep_slots and 0 <= each < _SLOTS) else self._id(each)
            for each in distinct.tolist()
        ]
        return np.array(renamed, dtype=np.int64)[places].reshape(ids.shape)

    def _id(self, content: int) -> int:
        digest = self._digest(content.to_bytes(8, "little", signed=True))
        return int.from_bytes(digest, "little", signed=True) or 1  # 0 stands for no key

    def _digest(self, data: bytes) -> bytes:
        return blake2b(data, digest_size=_DIGEST_BYTES, key=self._key).digest()

    def _name(self, kind: str, name: str) -> str:
        return f"{kind}-{self._digest(f'{kind} {name}'.encode('utf-8', 'surrogatepass')).hex()}"

    def _source(self, source: str) -> str:
        rank = _RANK.search(source)
        end = rank.group() if rank else ""
        return self._name("source", source.removesuffix(end)) + end

    def _labels(self, labels: Labels) -> Labels:
        values = {name: getattr(labels, name) for name in LABEL_NAMES}
        return Labels(
            **{name: self._name(name, value) for name, value in values.items() if value is not None}
        )
