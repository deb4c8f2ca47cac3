"""Retries: how long to wait before something that failed is tried again."""

import random

_FIRST_SECONDS = 0.1


def pause_seconds(failures: int, longest: float) -> float:
    """Return the pause after a number of failures in a row, in seconds.

    Pauses double from 0.1 s to ``longest`` and are shortened at random by up to half, so that many
    clients of a server that comes back do not ask it all at once.

    Args:
        failures: Failures in a row, 1 or more.
        longest: Seconds at most.
    """
    pause = min(longest, _FIRST_SECONDS * 2.0 ** min(failures - 1, 30))
    return pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
