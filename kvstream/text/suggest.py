"""The word that somebody may have meant."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question that ends a message about an unknown word; empty if no known word is like it.

    Example:
        >>> did_you_mean("windw", ["window", "capacity"])
        '; did you mean window?'
    """
    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
