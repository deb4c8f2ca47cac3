"""Errors of HTTP answers that are no success: whether to try again, and when."""

import datetime
import time
from email.utils import parsedate_to_datetime

from kvstream.errors import KVStreamError, UndeliveredError

_MAY_PASS = (408, 425, 429)  # and all from 500 on
_SAY_WHEN = (429, 503)
_LONGEST_RETRY_AFTER = 600.0
_ANSWER_BYTES = 300  # of a refusal's body are shown


def may_pass(status: int) -> bool:
    """Return whether a server that answers a status may take the same later."""
    return status in _MAY_PASS or status >= 500


def failed_answer(status: int, phrase: str, retry_header: str = "", body: bytes = b"") -> KVStreamError:
    """Return the error of an answer that is no success: an ``UndeliveredError`` if it may change.

    Args:
        status: Its status.
        phrase: What the server calls that.
        retry_header: Its ``Retry-After``.
        body: Its body, or the beginning of it.
    """
    answer = f"answered {status} {phrase}".strip()
    if may_pass(status):
        return UndeliveredError(
            answer, retry_after(retry_header, time.time()) if status in _SAY_WHEN else None
        )
    said = body[:_ANSWER_BYTES].decode(errors="replace").strip()
    return KVStreamError(f"{answer}: {said}" if said else answer)


def retry_after(header: str, now: float) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for, at most 600; None if it says nothing.

    Args:
        header: Seconds or an HTTP date.
        now: Seconds since the Unix epoch.
    """
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _LONGEST_RETRY_AFTER)
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:
            date = date.replace(tzinfo=datetime.UTC)
        return min(max(0.0, date.timestamp() - now), _LONGEST_RETRY_AFTER)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
