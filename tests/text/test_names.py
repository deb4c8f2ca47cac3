import pytest

from kvstream.text.names import MAX_NAME, bounded_name
from tests.text.test_escape import HOSTILE_NAMES


@pytest.mark.parametrize("name", ["vllm-0", "é" * MAX_NAME, "pod/a\x1b[31m", ""])
def test_valid_names_stay_as_they_are(name):
    assert bounded_name(name.encode()) == bounded_name(name) == name


def test_other_names_become_valid_short_and_stay_apart():
    names = [
        *[bytes([byte]) for byte in range(128, 256)],
        *[b"x" * MAX_NAME + b"%d" % n for n in range(50)],
        "é".encode() * 5_000,
        "é".encode() * 5_000 + b"\xff",
        b"\\xff",
    ]
    bounded = {bounded_name(name) for name in names}
    assert len(bounded) == len(names)
    assert all(name.encode() and len(name) <= MAX_NAME for name in bounded)


def test_hostile_names_stay_apart():
    assert len({bounded_name(name, 32) for name in HOSTILE_NAMES}) == len(set(HOSTILE_NAMES))
