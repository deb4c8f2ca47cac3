"""Suggestions for misspelt words."""

from collections.abc import Iterable


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most like another one; None if none is like it."""
    from difflib import get_close_matches  # only a misspelt word pays for it

    return next(iter(get_close_matches(word, list(known), n=1)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question that ends a message about an unknown word; empty if no known word is like it.

    Example:
        >>> did_you_mean("windw", ["window", "capacity"])
        '; did you mean window?'
    """
    close = closest(word, known)
    return f"; did you mean {close}?" if close else ""
