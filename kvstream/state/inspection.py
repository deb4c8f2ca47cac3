"""Inspection: what the snapshots of a directory hold, and whether a stream could go on from them."""

from collections.abc import Sequence
from typing import Any

import msgspec

from kvstream.alerts.drops import DropWatch
from kvstream.alerts.silences import Silences
from kvstream.config import MetricsConfig
from kvstream.engine.limits import StreamLimits
from kvstream.engine.monitor import DAMAGES, Monitor
from kvstream.errors import ConfigError, StateError
from kvstream.events.sequence import FrameSequence
from kvstream.state.resumption import SavedInput, add_saved
from kvstream.state.sections import StreamParts, restore
from kvstream.state.snapshot import Section
from kvstream.state.store import SnapshotFile

_MOST_CACHES, _MOST_BLOCKS = 10_000_000, 2**40


class SavedCache(msgspec.Struct, frozen=True, kw_only=True):
    """A cache in a snapshot.

    Attributes:
        tier: Its tier.
        live_blocks: Blocks that were live.
    """

    tier: str
    live_blocks: int


class SavedPlace(msgspec.Struct, frozen=True, kw_only=True):
    """The place from which an input is read again, as the snapshot does not hold all that follows.

    Attributes:
        input: Its name: the path of a file, the URL of a publisher.
        life: Which of the files that followed each other under the name; of a publisher, its epoch.
        at: Offset in bytes, or number of a batch.
        check: What the input finds the place again by; of a file, it begins with its device and inode.
    """

    input: str
    life: int
    at: int
    check: str = ""


class SavedSection(msgspec.Struct, frozen=True, kw_only=True):
    """A section of a snapshot.

    Attributes:
        kind: What it is of: ``source``, ``stream``, …
        name: Which one, such as the name of a source.
        bytes: Its length in the file.
        caches: The caches of a source.
        epoch: Epoch of the last frame of a source that is in it; None where its frames have no numbers.
        next_frame: Sequence number from which on the frames of that epoch are not in it; None as above.
        inputs: From where inputs go on for a source; of the stream, for all sources without a section.
    """

    kind: str
    name: str
    bytes: int
    caches: list[SavedCache] = []
    epoch: int | None = None
    next_frame: int | None = None
    inputs: list[SavedPlace] = []


class SavedSnapshot(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot"):
    """A snapshot in a directory.

    Attributes:
        file: Name of its file.
        number: Its number, ascending.
        bytes: Its length.
        problems: What is wrong with it, in words; none where it is whole.
        taken_at: When it was begun, seconds since the Unix epoch; None if that cannot be read.
        age_seconds: Seconds since then; None as above.
        writer: Version of kvstream that wrote it; empty if that cannot be read.
        sections: What is in it; none if that cannot be read.
    """

    file: str
    number: int
    bytes: int
    problems: list[str] = []
    taken_at: float | None = None
    age_seconds: float | None = None
    writer: str = ""
    sections: list[SavedSection] = []


def described(file: SnapshotFile, now: float) -> SavedSnapshot:
    """Return what a snapshot holds.

    Args:
        file: The snapshot.
        now: Seconds since the Unix epoch.
    """
    saved = SavedSnapshot(file=file.name, number=file.number, bytes=file.bytes)
    if file.header is None:
        return msgspec.structs.replace(saved, problems=[file.damage])
    sections, problems = [], []
    for section in file.sections:
        try:
            sections.append(_described(section))
        except DAMAGES as error:
            problems.append(f"section {section.kind} {section.name!r} cannot be read: {error!r}")
    return msgspec.structs.replace(
        saved,
        problems=problems,
        taken_at=file.header.taken_at,
        age_seconds=max(0.0, now - file.header.taken_at),
        writer=file.header.writer,
        sections=sections,
    )


def problems_of(file: SnapshotFile) -> list[str]:
    """Return why a stream cannot continue from a snapshot, in words; empty if it can.

    All of it is restored, as a stream would, with the settings that it was saved with.
    """
    if file.damage:
        return [file.damage]
    try:
        config = _config_of(file.sections)
        limits, silences = StreamLimits(config), Silences()
        monitor = Monitor(config, None, silences, limits)
        drops = DropWatch(monitor.rules, silences, limits.descriptions())
        parts = StreamParts([monitor], limits, silences, drops)
        return list(restore(parts, file.sections, lambda name: monitor, 0.0).problems.values())
    except StateError as error:
        return [str(error)]


def _config_of(sections: Sequence[Section]) -> MetricsConfig:
    """Return the settings with which the sources were saved.

    Raises:
        StateError: If they are none.
    """
    try:
        settings: dict[str, Any] = next(
            (section.body["settings"] for section in sections if section.kind == "source"), {}
        )
        return MetricsConfig(max_caches=_MOST_CACHES, max_live_blocks=_MOST_BLOCKS, **settings)
    except (ConfigError, *DAMAGES) as error:
        raise StateError(f"its settings cannot be used: {error}") from error


def _described(section: Section) -> SavedSection:
    body, is_source = section.body, section.kind == "source"
    inputs: dict[str, SavedInput] = {}
    add_saved(inputs, body.get("inputs", {}), section.name if is_source else None)
    described = SavedSection(
        kind=section.kind,
        name=section.name,
        bytes=section.stored_bytes,
        inputs=[
            SavedPlace(input=name, life=places[0].life, at=places[0].at, check=places[0].check)
            for name, saved in inputs.items()
            if (places := saved.places())
        ],
    )
    if not is_source:
        return described
    sequence = FrameSequence()
    sequence.restore(body["sequence"])
    epoch, next_frame = sequence.cursor or (None, None)
    caches = [
        SavedCache(tier=tier, live_blocks=len(saved["table"]["blocks"]))
        for tier, saved in body["tiers"].items()
    ]
    return msgspec.structs.replace(described, caches=caches, epoch=epoch, next_frame=next_frame)
