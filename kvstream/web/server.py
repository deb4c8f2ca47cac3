"""HttpServer: the application of a stream on a port, beside the other tasks of a process; AppServer: any."""

import logging
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence

from kvstream.errors import ConfigError, MissingExtraError
from kvstream.faults.listening import listen_failure
from kvstream.faults.log import FaultLog
from kvstream.stream import KVStream
from kvstream.transport.endpoint import Endpoint
from kvstream.web.app import MAX_CLIENTS, application

try:
    from kvstream.web.connections import Connections, ConnectionStatistics
except ImportError:
    raise MissingExtraError("serving HTTP", "web") from None

_BACKLOG = 2048

_logger = logging.getLogger("kvstream")


class AppServer:
    """Serves an application on a port until cancelled.

    Args:
        endpoint: Host and port to listen at; port 0 is any.
        faults: Where errors of connections are noted.
        token: What requests must bring, if anything; the application asks for it.
        insecure: Listen beyond this machine without a token.
        max_connections: Connections at once; one more closes the one silent for the longest time.
        tls: Serve HTTPS with this.

    Attributes:
        endpoint: Where it listens.

    Raises:
        ConfigError: If others than this machine could come without a token.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        faults: FaultLog,
        *,
        token: str | None = None,
        insecure: bool = False,
        max_connections: int = 512,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._scheme = "http" if tls is None else "https"
        self.endpoint = endpoint
        endpoint.require_guard(self.url, token, insecure)
        self._unprotected = token is not None and tls is None and not endpoint.is_local
        self._connections = Connections(faults, max_connections, tls)
        self._socket: socket.socket | None = None

    @property
    def url(self) -> str:
        """Return the URL of its root."""
        return f"{self._scheme}://{str(self.endpoint).removeprefix('tcp://')}/"

    def statistics(self) -> ConnectionStatistics:
        """Return the connections now."""
        return self._connections.statistics()

    def bind(self) -> None:
        """Begin to listen; ``url`` then has the port, if any was asked for.

        Raises:
            ConfigError: If the endpoint cannot be listened at.
        """
        host, port = self.endpoint.host, self.endpoint.port
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._socket = socket.create_server(
                address,
                family=family,
                backlog=_BACKLOG,
                # [::] is every address of this machine, of IPv4 too.
                dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
            )
        except OSError as error:
            raise ConfigError(f"cannot listen at {self.url}: {listen_failure(error)}") from error
        self._socket.setblocking(False)
        self.endpoint = Endpoint(host=host, port=self._socket.getsockname()[1])
        if self._unprotected:
            _logger.warning("%s takes its token unencrypted: use TLS, or a proxy that does", self.url)

    async def serve_app(self, app: Callable[..., object], take_leave: Callable[[], None]) -> None:
        """Serve until cancelled; ``bind`` comes first. Connections have a second to end.

        Args:
            app: An ASGI application.
            take_leave: Called first at the end, to end answers that go on.
        """
        assert self._socket is not None  # noqa: S101
        try:
            await self._connections.serve(self._socket, app, take_leave)
        finally:
            self._socket.close()


class HttpServer(AppServer):
    """Serves the application of a stream until cancelled.

    Without a token it listens on loopback only and answers only requests that name this machine, so that no
    page in a browser can read it by DNS rebinding.

    Args:
        stream: The stream.
        endpoint: Host and port to listen at; port 0 is any.
        token: What requests must bring, if anything.
        allowed_hosts: Host names that may be asked for besides those of loopback; with a token and no names,
            all may.
        insecure: Listen beyond this machine without a token, and answer whatever host is asked for.
        max_clients: Browsers that may follow live at once; one more displaces another.
        max_connections: Connections at once; one more closes the one silent for the longest time.
        tls: Serve HTTPS with this.
        listening: Where the stream's frames are taken, for a page that waits for the first.

    Attributes:
        endpoint: Where it listens.

    Raises:
        ConfigError: If others than this machine could come without a token.
    """

    def __init__(
        self,
        stream: KVStream,
        endpoint: Endpoint,
        *,
        token: str | None = None,
        allowed_hosts: Iterable[str] = (),
        insecure: bool = False,
        max_clients: int = MAX_CLIENTS,
        max_connections: int = 512,
        tls: ssl.SSLContext | None = None,
        listening: Sequence[str] = (),
    ) -> None:
        super().__init__(
            endpoint,
            stream.faults,
            token=token,
            insecure=insecure,
            max_connections=max_connections,
            tls=tls,
        )
        self._app = application(
            stream,
            token=token,
            allowed_hosts=allowed_hosts,
            authenticated=insecure and token is None,
            max_clients=max_clients,
            connections=self.statistics,
            listening=listening,
        )

    async def serve(self) -> None:
        """Serve until cancelled; ``bind`` comes first. Connections have a second to end."""
        await self.serve_app(self._app, self._app.state.live.end)
