"""Numbers as people type them: ``10k`` blocks, ``5m``, ``100MiB``."""

import re

_NUMBER = r"\s*([0-9]{1,18}(?:_[0-9]{3})*(?:\.[0-9]{1,9})?(?:e[0-9]{1,2})?)\s*"
_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_COUNTS = {**_DECIMAL, **_BINARY}
_BYTES = {**_COUNTS, **{f"{unit}b": size for unit, size in _COUNTS.items()}}
_SECONDS = {
    "": 1.0,
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86_400.0,
}


def whole_number(text: str) -> int:
    """Return a count: ``4096``, ``10k`` (10,000), ``1.5M``, ``16Ki`` (16,384).

    Raises:
        ValueError: If it is none; says what one looks like.

    Example:
        >>> whole_number("10k"), whole_number("16Ki")
        (10000, 16384)
    """
    return _whole(text, _COUNTS, "a whole number such as 4096, 10k or 16Ki")


def size_in_bytes(text: str) -> int:
    """Return bytes: ``4096``, ``100MB``, ``100MiB``.

    Raises:
        ValueError: If it is no size; says what one looks like.

    Example:
        >>> size_in_bytes("100MiB")
        104857600
    """
    return _whole(text, _BYTES, "a size such as 4096, 100MB or 100MiB")


def real_number(text: str) -> float:
    """Return a number: ``0.5``, ``20k``.

    Raises:
        ValueError: If it is none; says what one looks like.
    """
    return _real(text, _COUNTS, "a number such as 0.5, 100 or 20k")


def is_duration(name: str) -> bool:
    """Return whether a setting of this name is a duration."""
    return name.endswith(("_seconds", "_interval", "_timeout"))


def duration_in_seconds(text: str) -> float:
    """Return seconds: ``90``, ``90s``, ``250ms``, ``5m``, ``2h``, ``1d``.

    Raises:
        ValueError: If it is no duration; says what one looks like.

    Example:
        >>> duration_in_seconds("5m")
        300.0
    """
    return _real(text, _SECONDS, "a duration such as 90s, 5m, 2h or 1d")


def _whole(text: str, units: dict[str, int], what: str) -> int:
    found = _parse(text, units)
    value = None if found is None else found[0] * found[1]
    if value is None or value != int(value):
        raise ValueError(f"{text!r} is not {what}")
    return int(value)


def _real(text: str, units: dict[str, int] | dict[str, float], what: str) -> float:
    found = _parse(text, units)
    if found is None:
        raise ValueError(f"{text!r} is not {what}")
    return found[0] * found[1]


def _parse(text: str, units: dict[str, int] | dict[str, float]) -> tuple[float, float] | None:
    """Return a number and the size of its unit."""
    match = re.fullmatch(_NUMBER + r"([a-zµ]*)\s*", text, re.IGNORECASE | re.ASCII) or re.fullmatch(
        _NUMBER + r"(µs)\s*", text
    )
    size = None if match is None else units.get(match[2].lower())
    if match is None or size is None:
        return None
    number = match[1].replace("_", "")
    return (int(number) if number.isdigit() else float(number)), size
