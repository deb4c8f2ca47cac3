"""HttpServer: the application of a stream on a port, beside the other tasks of a process."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from kvstream.errors import ConfigError, MissingExtraError
from kvstream.link import Endpoint
from kvstream.stream import KVStream
from kvstream.web.app import create_app

try:
    import uvicorn
except ImportError:
    raise MissingExtraError("serving HTTP", "web") from None

_FAREWELL_SECONDS = 1


class HttpServer:
    """Serves the application of a stream until cancelled.

    Args:
        stream: The stream.
        endpoint: Host and port to listen at; port 0 is any.
        token: What requests must bring, if anything.
        insecure: Listen beyond this machine without a token.
        max_clients: Browsers that may follow live at once.

    Raises:
        ConfigError: If others than this machine could come without a token.
    """

    def __init__(
        self,
        stream: KVStream,
        endpoint: Endpoint,
        *,
        token: str | None = None,
        insecure: bool = False,
        max_clients: int = 64,
    ) -> None:
        endpoint.require_guard(_url(endpoint), token, insecure)
        self.endpoint = endpoint
        self._app = create_app(stream, token=token, max_clients=max_clients)
        self._socket: socket.socket | None = None

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return _url(self.endpoint)

    def bind(self) -> None:
        """Begins to listen; ``url`` then has the port, if any was asked for.

        Raises:
            ConfigError: If the endpoint cannot be listened at.
        """
        host, port = self.endpoint.host, self.endpoint.port
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._socket = socket.create_server(address[:2], family=family)
        except OSError as error:
            raise ConfigError(f"cannot listen at {self.url}: {error.strerror or error}") from error
        self.endpoint = Endpoint(host=host, port=self._socket.getsockname()[1])

    async def serve(self) -> None:
        """Serves until cancelled; ``bind`` comes first. Connections have a second to end."""
        assert self._socket is not None  # noqa: S101
        config = uvicorn.Config(
            self._app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=_FAREWELL_SECONDS,
        )
        server = _Server(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run, server)
            try:
                await anyio.sleep_forever()
            finally:
                self._app.state.live.end()
                server.should_exit = True

    async def _run(self, server: "_Server") -> None:
        with anyio.CancelScope(shield=True):
            await server.serve([self._socket] if self._socket is not None else None)


class _Server(uvicorn.Server):
    """Leaves signals to the process that it is a part of."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _url(endpoint: Endpoint) -> str:
    return f"http://{str(endpoint).removeprefix('tcp://')}/"
