import socket
import subprocess

import pytest

from kvstream.transport.messages import with_length
from tests.cli.conftest import DEADLINE, SCAN, running
from tests.cli.test_serve import listening


@pytest.mark.parametrize("endpoint", ["unix:{folder}/nobody", "tcp://127.0.0.1:1", "unix:{folder}"])
def test_a_replay_to_nobody_is_one_clear_line(kvstream, tmp_path, endpoint):
    to = endpoint.format(folder=tmp_path)
    ran = kvstream("replay", SCAN, "--to", to, "--speed", "0", "--wait", "0.2")
    assert ran.code == 1
    assert to in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_replay_that_is_refused_ends_at_once(kvstream, tmp_path):
    (tmp_path / "token").write_text("secret")
    options = ("--token-file", tmp_path / "token")
    arguments = ("serve", "--listen", f"unix:{tmp_path}/kv.sock", *options)
    with running(*arguments, stderr=subprocess.PIPE) as process:
        ran = kvstream("replay", SCAN, "--to", listening(process), "--speed", "0")
        assert ran.code == 1
        assert "authentication failed: wrong token" in ran.err
        assert len(ran.err.splitlines()) == 1
        process.terminate()
        process.communicate(timeout=DEADLINE)


def test_a_replay_whose_server_dies_says_so(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/kv.sock")
        server.listen()
        arguments = ("replay", SCAN, "--to", f"unix:{tmp_path}/kv.sock", "--speed", "0.01", "--wait", "0.5")
        with running(*arguments, stderr=subprocess.PIPE) as replay:
            peer, _ = server.accept()
            peer.sendall(with_length(b"\x00"))  # lets it in
            assert peer.recv(1000)
            peer.close()
            server.close()
            _, err = replay.communicate(timeout=DEADLINE)
            assert replay.returncode == 1
            assert b"nothing could be sent" in err
            assert f"check kvstream serve --listen unix:{tmp_path}/kv.sock, or --wait longer".encode() in err
            assert b"Traceback" not in err
