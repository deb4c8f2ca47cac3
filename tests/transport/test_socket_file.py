import os
import socket
import stat

import anyio
import pytest

from kvstream.errors import ConfigError
from kvstream.transport.socket_file import SocketFile
from tests.transport.test_server import DEADLINE


def leave_behind(path):
    """What a server leaves that was killed."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


async def test_a_dead_server_is_taken_over_from_and_only_this_user_may_come(tmp_path):
    path = tmp_path / "kv.sock"
    leave_behind(path)
    file = SocketFile(str(path))
    async with await file.listen():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        file.remove()
    assert not path.exists()


async def test_one_of_two_servers_that_start_at_once_gets_the_file(tmp_path):
    path = tmp_path / "kv.sock"
    leave_behind(path)
    listeners, refused = [], []

    async def start():
        try:
            listeners.append(await SocketFile(str(path)).listen())
        except ConfigError as error:
            refused.append(error)

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(start)
    assert (len(listeners), len(refused)) == (1, 7)
    await listeners[0].aclose()


@pytest.mark.parametrize("between", ["nothing", "another server's", "a plain file"])
async def test_what_is_there_instead_is_left_alone(tmp_path, between):
    path = tmp_path / "kv.sock"
    file = SocketFile(str(path))
    async with await file.listen():
        os.unlink(path)
        if between == "another server's":
            leave_behind(path)
        elif between == "a plain file":
            path.touch()
        file.remove()
    assert path.exists() == (between != "nothing")


async def test_a_server_with_a_full_backlog_is_not_dead(tmp_path):
    path = str(tmp_path / "kv.sock")
    peers = []
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(path)
        busy.listen(0)
        try:
            while True:  # nobody accepts
                peer = socket.socket(socket.AF_UNIX)
                peers.append(peer)
                peer.setblocking(False)
                peer.connect(path)
        except BlockingIOError:
            pass
        with pytest.raises(ConfigError, match="another server"):
            await SocketFile(path).listen()
        for peer in peers:
            peer.close()


async def test_what_is_no_socket_is_left_alone_and_said(tmp_path):
    path = tmp_path / "kv.sock"
    path.write_text("notes")
    for taken in (path, tmp_path):
        with pytest.raises(ConfigError, match="is no socket"):
            await SocketFile(str(taken)).listen()
    assert path.read_text() == "notes"
