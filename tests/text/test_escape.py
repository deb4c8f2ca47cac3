import csv
import html.parser
import io
import re

import pytest
from rich.console import Console

from kvstream.text import escape

HOSTILE_NAMES = {
    "escape sequence": "red \x1b[31m and a title \x1b]0;owned\x07",
    "C1 control": "csi \x9b31m",
    "carriage return": "first\rsecond",
    "line feed": "first\nsecond",
    "line separator": "first\u2028second",
    "right to left": "abc\u202egpj.exe",
    "null": "a\x00b",
    "rich markup": "[/red] [bold]x[/]",
    "html": "<script>alert(1)</script>",
    "attribute": '" onmouseover="alert(1)',
    "formula": '=HYPERLINK("http://x","y")',
    "formula after a tab": "\t=1+1",
    "plus": "+1",
    "at": "@SUM(1)",
    "minus": "-1+1",
    "backslash": "a\\",
    "quote": 'a"b',
    "brace": 'a"} 1\nfake_metric{x="',
    "surrogate": "a\udcffb",
    "high surrogate": "\ud800",
    "markdown": "a | b ` [x](http://y) <b>",
    "slack": "<!channel> & <@U1>",
    "long": "x" * 10_000,
}

names = pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES.keys())


@names
def test_every_form_can_be_encoded(name):
    for function in (
        escape.for_unicode,
        escape.for_terminal,
        escape.for_html,
        escape.for_markdown,
        escape.for_csv,
        escape.for_prometheus,
        escape.for_slack,
    ):
        function(name).encode("utf-8")


@names
def test_a_terminal_gets_one_line_without_controls(name):
    shown = escape.for_terminal(name)
    assert re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u202e]", shown) is None
    out = io.StringIO()
    Console(file=out, width=20_000, force_terminal=True).print(shown, markup=False, highlight=False)
    assert "\x1b" not in out.getvalue()


@names
def test_html_shows_the_name_and_nothing_else(name):
    class Parser(html.parser.HTMLParser):
        tags, text = 0, ""

        def handle_starttag(self, tag, attrs):
            assert (tag, list(dict(attrs))) == ("p", ["title"])
            self.tags += 1

        def handle_data(self, data):
            self.text += data

    parser = Parser()
    shown = escape.for_html(name)
    parser.feed(f'<p title="{shown}">{shown}</p>')
    parser.close()
    assert parser.tags == 1
    assert parser.text == escape.for_terminal(name)


@names
def test_a_csv_cell_begins_no_formula(name):
    cell = next(csv.reader([",".join(['"' + escape.for_csv(name).replace('"', '""') + '"'])]))[0]
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


@names
def test_a_prometheus_label_is_one_value(name):
    from prometheus_client.parser import text_string_to_metric_families

    text = f'a_metric{{source="{escape.for_prometheus(name)}"}} 1\n'
    (family,) = text_string_to_metric_families(text)
    (sample,) = family.samples
    assert sample.labels == {"source": escape.for_unicode(name)}


@names
def test_a_markdown_cell_stays_one_cell(name):
    assert re.search(r"(?<!\\)(\\\\)*[|<`]", escape.for_markdown(name)) is None


def test_different_names_stay_different():
    for function in (escape.for_unicode, escape.for_html, escape.for_prometheus):
        shown = [function(name) for name in HOSTILE_NAMES.values()]
        assert len(set(shown)) == len(shown)


def test_text_is_shortened_to_its_limit():
    assert escape.shortened("x" * 100, 10) == "x" * 9 + "…"
    assert escape.shortened("short", 10) == "short"
