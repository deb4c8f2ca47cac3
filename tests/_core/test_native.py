"""The constants that C compilers are given are those of the rest of the project."""

import re
from importlib.resources import files

from kvstream._core import native
from kvstream.events.types import EVENT_TYPES, Op

NAMED = {
    name: int(value)
    for name, value in re.findall(
        r"^    ([A-Z_]+) = (-?\d+)$", files("kvstream._core").joinpath("native.pxd").read_text(), re.M
    )
}


def test_both_forms_of_the_core_have_the_same_constants():
    assert {name: value for name, value in vars(native).items() if name.isupper()} == NAMED


def test_operations_are_those_of_frames():
    assert {NAMED[name] for name in vars(Op) if name.isupper()} == set(range(len(EVENT_TYPES)))
