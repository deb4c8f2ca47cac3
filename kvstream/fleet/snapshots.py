"""Snapshots of partitions: objects of a directory or a bucket, each whole or not there at all.

An object's name carries the offset up to which it holds the records. As state follows from the records alone,
two workers that save the same offset save the same state: neither harms the other. Which object counts is
said by the group's committed offset, and by nothing here.
"""

import re
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import msgspec

from kvstream.errors import ConfigError, MissingExtraError, StateError
from kvstream.state.files import LocalFiles
from kvstream.state.snapshot import Header, Section, pack, unpack

KEPT = 2
"""Snapshots of a partition that are kept: the committed one, and one to fall back to."""

_NAME = re.compile(r"offset-(\d{20})\.kvstate")


class Objects(Protocol):
    """What is asked of a directory or a bucket. Each call may raise OSError."""

    def names(self, folder: str) -> list[str]:
        """Return the names of the objects in a folder; none where there is no folder."""

    def read(self, folder: str, name: str) -> bytes:
        """Return an object's bytes."""

    def write(self, folder: str, name: str, data: bytes) -> None:
        """Return once an object is durable, in the place of one with its name; nobody sees a part of it."""

    def remove(self, folder: str, name: str) -> None:
        """Remove an object, if it is there."""


class DirectoryObjects:
    """Objects in directories of the local disk, or of one that is mounted.

    Args:
        root: The directory; made where there is none.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self, folder: str) -> list[str]:
        """Return the names of the objects in a folder; none where there is no folder."""
        try:
            return LocalFiles(self._root / folder).names()
        except FileNotFoundError:
            return []

    def read(self, folder: str, name: str) -> bytes:
        """Return an object's bytes."""
        return LocalFiles(self._root / folder).read(name)

    def write(self, folder: str, name: str, data: bytes) -> None:
        """Return once an object is on the disk under its name."""
        (self._root / folder).mkdir(parents=True, exist_ok=True)
        files = LocalFiles(self._root / folder)
        unfinished = f"unfinished-{uuid.uuid4().hex}.tmp"
        try:
            file = files.create(unfinished)
            try:
                file.write(data)
                file.sync()
            finally:
                file.close()
            files.rename(unfinished, name)
        except BaseException:
            files.remove(unfinished)
            raise
        files.sync()

    def remove(self, folder: str, name: str) -> None:
        """Remove an object, if it is there."""
        LocalFiles(self._root / folder).remove(name)


class BucketObjects:
    """Objects in a bucket, or whatever else fsspec knows by a URL.

    Args:
        files: The file system, as fsspec has it.
        root: The bucket, and what names there begin with.
    """

    def __init__(self, files: Any, root: str) -> None:
        self._files, self._root = files, root

    @classmethod
    def at(cls, url: str) -> Self:
        """Return the objects at ``s3://BUCKET/PREFIX`` and the like; its client may ask for credentials.

        Raises:
            ConfigError: If fsspec knows no such URL.
            MissingExtraError: If fsspec, or its package for that kind of URL, is not installed.
        """
        try:
            from fsspec.core import url_to_fs

            return cls(*url_to_fs(url, use_listings_cache=False))
        except ImportError:
            raise MissingExtraError(f"state in {url}", "bucket") from None
        except ValueError as error:
            raise ConfigError(f"state in {url}: {error}") from error

    def names(self, folder: str) -> list[str]:
        """Return the names of the objects in a folder; none where there is no folder."""
        try:
            paths = self._files.ls(f"{self._root}/{folder}", detail=False)
        except FileNotFoundError:
            return []
        return [path.rpartition("/")[2] for path in paths]

    def read(self, folder: str, name: str) -> bytes:
        """Return an object's bytes."""
        data: bytes = self._files.cat_file(f"{self._root}/{folder}/{name}")
        return data

    def write(self, folder: str, name: str, data: bytes) -> None:
        """Return once the object is stored: what a bucket has, it has whole."""
        self._files.pipe_file(f"{self._root}/{folder}/{name}", data)

    def remove(self, folder: str, name: str) -> None:
        """Remove an object, if it is there."""
        self._files.rm_file(f"{self._root}/{folder}/{name}")


def objects_at(place: str) -> Objects:
    """Return the objects of a directory, or of a bucket by its URL.

    Raises:
        ConfigError: If it is a URL that fsspec does not know.
        MissingExtraError: If a package is missing that the URL needs.
    """
    place = place.removeprefix("file://")
    return BucketObjects.at(place.rstrip("/")) if "://" in place else DirectoryObjects(Path(place))


class Snapshot(msgspec.Struct, frozen=True):
    """A snapshot of a partition as it was read.

    Attributes:
        name: Its name.
        offset: Place of the first record that is not in it.
        sections: What is in it.
    """

    name: str
    offset: int
    sections: Sequence[Section]


class Snapshots:
    """The snapshots of the partitions of one topic.

    Args:
        place: Where they are kept, for people to read.
        objects: What is kept there.
        topic: The topic.
        writer: Version of kvstream.
    """

    def __init__(self, place: str, objects: Objects, topic: str, writer: str) -> None:
        self.place = place
        self._objects, self._topic, self._writer = objects, topic, writer
        self._known: dict[int, set[int]] = {}  # offsets by partition, as they were listed or saved

    @classmethod
    def at(cls, place: str, topic: str, writer: str) -> Self:
        """Return the snapshots in a directory, or in a bucket by its URL.

        Raises:
            ConfigError: If it is a URL that fsspec does not know.
            MissingExtraError: If a package is missing that the URL needs.
        """
        return cls(place, objects_at(place), topic, writer)

    def save(
        self, partition: int, offset: int, taken_at: float, sections: Iterator[Section]
    ) -> tuple[str, int]:
        """Return the name and the length of a snapshot once it is durable.

        Args:
            partition: Number of the partition.
            offset: Place of the first record that is not in it.
            taken_at: Seconds since the Unix epoch.
            sections: What is in it.

        Raises:
            Exception: Of whatever keeps it, if it cannot be written.
        """
        name = _name(offset)
        data = pack(Header(number=offset, taken_at=taken_at, writer=self._writer), sections)
        self._objects.write(self._folder(partition), name, data)
        self._known.setdefault(partition, set()).add(offset)
        return name, len(data)

    def newest(self, partition: int, at_most: int | None) -> Snapshot | None:
        """Return the newest whole snapshot up to an offset; None if there is no snapshot at all.

        Args:
            partition: Number of the partition.
            at_most: The offset; None for the newest of all.

        Raises:
            StateError: If none of those that there are can be used.
            Exception: Of whatever keeps them, if it does not answer.
        """
        folder = self._folder(partition)
        names = self._objects.names(folder)
        known = self._known[partition] = {int(match[1]) for name in names if (match := _NAME.fullmatch(name))}
        damages = []
        for offset in sorted(known, reverse=True):
            if at_most is not None and offset > at_most:
                continue
            try:
                _, sections = unpack(self._objects.read(folder, _name(offset)))
            except FileNotFoundError:
                damages.append(f"{_name(offset)} is gone")
            except StateError as error:
                damages.append(f"{_name(offset)} is damaged: {error}")
            else:
                return Snapshot(_name(offset), offset, sections)
        if damages:
            raise StateError(f"{self.place}/{folder}: {'; '.join(damages)}")
        return None

    def prune(self, partition: int, committed: int) -> None:
        """Remove what is older than the committed snapshot and the one before it.

        Raises:
            Exception: Of whatever keeps them, if one cannot be removed.
        """
        known = self._known.get(partition, set())
        for offset in sorted(offset for offset in known if offset <= committed)[:-KEPT]:
            self._objects.remove(self._folder(partition), _name(offset))
            known.discard(offset)

    def _folder(self, partition: int) -> str:
        return f"{self._topic}-{partition:05d}"


def _name(offset: int) -> str:
    return f"offset-{offset:020d}.kvstate"
