import pytest

from kvstream import connect
from kvstream.errors import ConfigError
from kvstream.stream import KVStream
from kvstream.transport.endpoint import Endpoint
from kvstream.transport.server import FrameServer
from kvstream.transport.tokens import checked_token, same_token


@pytest.mark.parametrize(("token", "why"), [("", "empty"), (" \n", "empty"), ("\udcff", "UTF-8")])
def test_a_token_that_cannot_be_asked_for_is_refused_by_both_sides(token, why):
    with pytest.raises(ConfigError, match=why):
        checked_token(token)
    with pytest.raises(ConfigError, match=why):
        FrameServer(KVStream(), Endpoint.parse("tcp://127.0.0.1:0"), token=token)
    with pytest.raises(ConfigError, match=why):
        connect("tcp://127.0.0.1:1", token=token)


def test_no_token_is_none():
    assert checked_token(None) is None


@pytest.mark.parametrize(
    ("given", "expected", "same"),
    [
        ("secret", "secret", True),
        ("secret", "Secret", False),
        ("geheimnis-ü-秘密", "geheimnis-ü-秘密", True),
        ("ü", "u", False),
        ("\udcff", "secret", False),
        ("", "secret", False),
        (None, "secret", False),
    ],
)
def test_tokens_of_any_text_are_compared(given, expected, same):
    assert same_token(given, expected) is same
