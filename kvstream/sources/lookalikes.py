"""What an input looks like that holds no events, so that an error can name it."""

import re

_LFS_POINTER = b"version https://git-lfs.github.com/spec"
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (_LFS_POINTER, "a Git LFS pointer: 'git lfs pull' gets the file itself"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF-", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive: unpack it first"),
    (b"BZh", "bzip2: unpack it first, or compress it as .gz or .zst"),
    (b"\xfd7zXZ\x00", "xz: unpack it first, or compress it as .gz or .zst"),
    (b"\x04\x22\x4d\x18", "lz4: unpack it first, or compress it as .gz or .zst"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"\x7fELF", "an executable"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\xff\xfe", "UTF-16 text: save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text: save it as UTF-8"),
    (b"# HELP", "Prometheus metrics"),
    (b"# TYPE", "Prometheus metrics"),
    (b"#!", "a script"),
    (b"---\n", "YAML"),
)
_TAR = (257, b"ustar")
_RESULTS = re.compile(rb'\{"type": ?"(alert|summary|eviction|malformed|input|analysis|report)"')
_MARKDOWN = re.compile(rb"^(#{1,6} |```|\* |- )", re.MULTILINE)


def is_lfs_pointer(head: bytes) -> bool:
    """Return whether an input that begins with ``head`` is a Git LFS pointer instead of the file."""
    return head.startswith(_LFS_POINTER)


def looks_like(head: bytes) -> str | None:
    """Return what an input that begins with ``head`` looks like, None if it is like nothing known.

    Examples:
        >>> looks_like(b"<!DOCTYPE html><html>")
        'an HTML page'
    """
    for beginning, name in _BEGINNINGS:
        if head.startswith(beginning):
            return name
    if head[_TAR[0] :].startswith(_TAR[1]):
        return "a tar archive: unpack it first"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lower = text[:200].lower()
    if lower.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if lower.startswith((b"<?xml", b"<svg")):
        return "XML"
    if _RESULTS.match(text):
        return "results of kvstream, not events"
    if text.startswith((b"{", b"[")):
        return _json(text)
    if _is_csv(text):
        return "CSV"
    if b"\x00" in text:
        return None
    return "Markdown" if _MARKDOWN.search(text) else "text" if _is_text(text) else None


def _json(text: bytes) -> str:
    first = text.split(b"\n", 1)[0].strip()
    if first in (b"{", b"["):
        return "one JSON document over several lines: events stand one a line"
    if first.startswith(b"["):
        return "a JSON array: events stand one a line"
    return "JSON lines of another kind"


def _is_csv(text: bytes) -> bool:
    """Return whether the first lines have the same separators, two of them or more."""
    lines = text.split(b"\n")[:-1][:3]
    return len(lines) > 1 and any(
        lines[0].count(mark) > 1 and len({line.count(mark) for line in lines}) == 1
        for mark in (b",", b";", b"\t")
    )


def _is_text(text: bytes) -> bool:
    try:
        text[:200].decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        return error.start > 190  # cut within a character
    return bool(text)
