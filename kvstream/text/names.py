"""Names from outside made valid and short, so that they can be sources, tiers and labels."""

from kvstream.text.digest import DIGITS, digest

MAX_NAME = 256
"""Characters that the name of a source, a tier or a label may have."""


def bounded_name(raw: bytes | str, limit: int = MAX_NAME) -> str:
    r"""Return a name as text of at most ``limit`` characters; different names stay different.

    A name that is too long, or is not UTF-8, is cut and ends with a digest of the whole.

    Args:
        raw: The name as it came.
        limit: Characters that the result may have, 32 or more.

    Examples:
        >>> bounded_name(b"vllm-0")
        'vllm-0'
        >>> bounded_name(b"\xff")
        '\\xff~a72eeed9830cbf91'
    """
    data = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    # A character has at most four bytes: what is behind these is cut in any case.
    text = data[: 4 * limit + 4].decode("utf-8", "backslashreplace")
    if len(text) <= limit and text.encode() == data:
        return text
    return f"{text[: limit - DIGITS - 1]}~{digest(data)}"
