"""What errors of connections mean, each as the library raises it."""

import errno
import socket
import ssl

import anyio
import pytest

from kvstream.errors import KVStreamError
from kvstream.faults.connecting import connection_failure
from tests.ports import free_port
from tests.waiting import DEADLINE


async def failed(connect):
    with pytest.raises(OSError) as raised:  # noqa: PT011 - of any kind
        await connect
    return connection_failure(raised.value)


async def test_where_nothing_listens_the_connection_is_refused(tmp_path):
    for connect in (
        anyio.connect_tcp("127.0.0.1", free_port()),
        anyio.connect_tcp("localhost", free_port()),  # of which there may be several addresses
        anyio.connect_unix(tmp_path / "missing.sock"),
    ):
        kind, words = await failed(connect)
        assert kind == "refused"
        assert "nothing listens there" in words


async def test_a_name_of_no_host_is_said_to_be_unknown():
    assert (await failed(anyio.connect_tcp("no-such-host.invalid", 1))).kind == "unknown_host"
    assert connection_failure(UnicodeError("label empty or too long")).kind == "unknown_host"


async def test_what_speaks_no_tls_is_said_to(certificates):
    async def serve(stream):
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with anyio.fail_after(DEADLINE):
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, serve)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            kind, words = await failed(anyio.connect_tcp("127.0.0.1", port, tls=True))
            tasks.cancel_scope.cancel()
    assert kind == "tls"
    assert "does not speak TLS" in words


def of(error, cause):
    """An error as a library raises it that gives its cause a name of its own."""
    try:
        try:
            raise cause
        except BaseException:
            raise error from None
    except BaseException as raised:
        return raised


def certificate_error():
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (TimeoutError(), "timeout", "no answer within 5 s"),
        (of(OSError("broken"), TimeoutError()), "timeout", "no answer within 5 s"),
        (OSError(errno.ECONNRESET, "x"), "closed", "connection reset by peer"),
        (of(anyio.BrokenResourceError(), OSError(errno.EPIPE, "x")), "closed", "broken pipe"),
        (anyio.BrokenResourceError(), "closed", "the connection was closed before it answered"),
        (OSError(errno.EHOSTUNREACH, "x"), "unreachable", "no route to host"),
        (PermissionError(errno.EACCES, "x"), "denied", "permission denied"),
        (certificate_error(), "certificate", "self-signed certificate"),
        (ssl.SSLError(1, "x"), "tls", "TLS failed"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "unknown_host", "no name server answers"),
        (ExceptionGroup("", [OSError(errno.ECONNREFUSED, "x")]), "refused", "connection refused"),
        (ValueError("what"), "other", "what"),
        (ValueError(), "other", "ValueError"),
        (of(KVStreamError("ours"), TimeoutError()), "other", "ours"),
        (of(ValueError("no text"), UnicodeDecodeError("utf-8", b"", 0, 1, "x")), "other", "no text"),
    ],
)
def test_the_first_cause_that_says_what_went_wrong_is_said(error, kind, words):
    failure = connection_failure(error, within=5)
    assert failure.kind == kind
    assert words in failure.words
