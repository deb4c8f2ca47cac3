"""Names as data: text from outside made safe for one kind of output, one function a kind.

Names of sources, tiers and labels come from whoever sends events. None of them may move a cursor, open a
tag, begin a formula or break a line of what kvstream writes. Equal names stay equal and different ones
different, as far as the output can show it.
"""

import re

# Controls (C0, DEL, C1), surrogates, and characters that reorder or break lines.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+!|~&])")


def _code(match: re.Match[str]) -> str:
    point = ord(match[0])
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"


def for_unicode(text: str) -> str:
    r"""Replace lone surrogates, which no encoding of Unicode holds, by ``\udcXX``.

    Examples:
        >>> for_unicode("a\udcff")
        'a\\udcff'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def for_terminal(text: str) -> str:
    r"""Replace what a terminal or a log would act on by its escape, such as ``\x1b``.

    Examples:
        >>> for_terminal("red \x1b[31m")
        'red \\x1b[31m'
    """
    return _UNPRINTABLE.sub(_code, text)


def for_html(text: str) -> str:
    """Escape markup and quotes for HTML and SVG text and attributes; controls as on a terminal.

    Examples:
        >>> for_html("<b>")
        '&lt;b&gt;'
    """
    from html import escape  # here, as it brings a table of every entity that HTML knows

    return escape(for_terminal(text))


def for_markdown(text: str) -> str:
    r"""Escape Markdown's own characters, HTML among them, and line breaks.

    Examples:
        >>> for_markdown("a|b")
        'a\\|b'
    """
    return _MARKDOWN.sub(r"\\\1", for_terminal(text))


def for_csv(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would take for a formula.

    Source: https://owasp.org/www-community/attacks/CSV_Injection

    Examples:
        >>> for_csv("=1+1")
        "'=1+1"
    """
    return for_terminal(f"'{text}" if text.startswith(_FORMULA_STARTS) else text)


def for_prometheus(text: str) -> str:
    r"""Escape a label value for Prometheus' text formats.

    Source: https://prometheus.io/docs/instrumenting/exposition_formats/

    Examples:
        >>> print(for_prometheus('say "a"'))
        say \"a\"
    """
    return for_unicode(text).replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def for_slack(text: str) -> str:
    """Escape Slack's control characters.

    Source: https://docs.slack.dev/messaging/formatting-message-text

    Examples:
        >>> for_slack("<!channel>")
        '&lt;!channel&gt;'
    """
    return for_terminal(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def shortened(text: str, limit: int) -> str:
    """Return text of at most ``limit`` characters, the last of them ``…`` where it was longer.

    Examples:
        >>> shortened("vllm-0", 4)
        'vll…'
    """
    return text if len(text) <= limit else text[: limit - 1] + "…"
