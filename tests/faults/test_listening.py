"""What errors of listening mean, each as the system raises it, and what to do about them."""

import errno
import socket

import pytest

from kvstream import ConfigError, KVStream
from kvstream.faults.listening import listen_failure
from kvstream.transport.endpoint import Endpoint
from kvstream.transport.server import FrameServer


async def test_a_socket_in_a_missing_directory_says_to_create_it(tmp_path):
    server = FrameServer(KVStream(), Endpoint.parse(f"unix:{tmp_path}/missing/kv.sock"))
    with pytest.raises(ConfigError, match="No such file or directory; create its directory"):
        await server.bind()


async def test_a_port_in_use_says_to_name_another():
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = FrameServer(KVStream(), Endpoint.parse(f"tcp://127.0.0.1:{other.getsockname()[1]}"))
        with pytest.raises(ConfigError, match="stop what listens there, or name another path or port"):
            await server.bind()


async def test_another_server_at_a_socket_is_to_be_stopped(tmp_path):
    endpoint = Endpoint.parse(f"unix:{tmp_path}/kv.sock")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(endpoint.path)
        other.listen()
        with pytest.raises(ConfigError, match="another server listens there; stop it, or name another path"):
            await FrameServer(KVStream(), endpoint).bind()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied"),
            "Permission denied; name a path that this user may write to, or a port above 1023",
        ),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (OSError("AF_UNIX path too long"), "AF_UNIX path too long"),
        (ConfigError("what is there is no socket"), "what is there is no socket"),
    ],
)
def test_a_remedy_is_named_where_one_is_known(error, words):
    assert listen_failure(error) == words
