"""Why a connection was not made or has ended, in words that an operator would search for."""

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Literal, NamedTuple

import anyio

from kvstream.errors import KVStreamError

Kind = Literal[
    "refused",
    "unknown_host",
    "unreachable",
    "timeout",
    "closed",
    "denied",
    "certificate",
    "tls",
    "protocol",
    "other",
]

_KINDS: dict[int, Kind] = {
    errno.ECONNREFUSED: "refused",
    errno.ENOENT: "refused",
    errno.ECONNRESET: "closed",
    errno.ECONNABORTED: "closed",
    errno.EPIPE: "closed",
    errno.EHOSTUNREACH: "unreachable",
    errno.EHOSTDOWN: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.ETIMEDOUT: "timeout",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
}
_WORDS = {
    errno.ECONNREFUSED: "connection refused: nothing listens there",
    errno.ENOENT: "no such socket: nothing listens there",
}
_CLOSED = "the connection was closed before it answered"
_NO_TLS = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")


class ConnectionFailure(NamedTuple):
    """Why a connection was not made or has ended.

    Attributes:
        kind: For those who do something about it.
        words: For a person.
    """

    kind: Kind
    words: str


def connection_failure(error: BaseException, within: float | None = None) -> ConnectionFailure:
    """Return what an error of a connection means, by the first of its causes that says.

    Args:
        error: What a library for sockets, TLS or HTTP raised.
        within: Seconds that were waited for, where a limit of time was ours.
    """
    for cause in _causes(error):
        match cause:
            case KVStreamError():  # of ours, which says what it means
                return ConnectionFailure("other", str(cause))
            case ssl.SSLCertVerificationError():
                return ConnectionFailure(
                    "certificate", f"the server's certificate is not accepted: {cause.verify_message}"
                )
            case ssl.SSLError(reason=reason) if reason in _NO_TLS:
                return ConnectionFailure("tls", "what answers there does not speak TLS")
            case ssl.SSLError():
                reason = str(getattr(cause, "reason", None) or cause).replace("_", " ").lower()
                return ConnectionFailure("tls", f"TLS failed: {reason}")
            case socket.gaierror(errno=socket.EAI_AGAIN):
                return ConnectionFailure("unknown_host", "no name server answers that knows the host")
            case UnicodeDecodeError():  # of an answer
                break
            case socket.gaierror() | UnicodeError():
                return ConnectionFailure("unknown_host", "no host of that name is known")
            case OSError(errno=int(number)) if number > 0:
                words = _WORDS.get(number) or os.strerror(number).lower()
                return ConnectionFailure(_KINDS.get(number, "other"), words)
            case TimeoutError():
                limit = "in time" if within is None else f"within {within:g} s"
                return ConnectionFailure("timeout", f"no answer {limit}")
            case anyio.EndOfStream() | anyio.ClosedResourceError() | ConnectionError():
                return ConnectionFailure("closed", _CLOSED)
            case anyio.BrokenResourceError() if cause.__cause__ is None and cause.__context__ is None:
                return ConnectionFailure("closed", _CLOSED)
    return ConnectionFailure("other", str(error) or type(error).__name__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Return an error and what led to it; of a group, such as a host's addresses, the first."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        else:  # libraries hide a cause as they give it a name of their own
            error = error.__cause__ or error.__context__
