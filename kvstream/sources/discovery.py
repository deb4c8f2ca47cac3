"""From the name of an engine to the addresses of its publishers, as they are now.

A publisher over ZMQ by its address, with ``?dp=8`` those of eight ranks; a name with several addresses is as
many engines; and SGLang by the URL of its HTTP server, which describes its publishers.
"""

import ipaddress
import socket as sockets
from collections import defaultdict
from urllib.parse import parse_qs, urlsplit

import anyio
import msgspec

from kvstream.errors import ConfigError
from kvstream.faults.connecting import connection_failure
from kvstream.sources.http_client import FetchError, fetch
from kvstream.sources.publishers import MAX_SOURCE
from kvstream.sources.zmq_address import MOST_RANKS, WILDCARDS, ZmqAddress
from kvstream.text.addresses import http_url, without_password

ENGINE_URLS = ("zmq:", "zmq+ipc:", "http:", "https:")
"""How the names of engines begin; others are files."""

_MOST_ADDRESSES = 1024


class DiscoveryError(ConfigError):
    """Raised when it cannot be found out now where an engine publishes."""


class Engine(msgspec.Struct, frozen=True):
    """An engine's publishers, by name.

    Attributes:
        url: What the user wrote.
        zmq: The publisher's address; None for an HTTP server.
        source: Name of its events; None for the default.

    Examples:
        >>> Engine.parse("zmq://vllm-0:5557?dp=2").zmq.ranks
        2
    """

    url: str
    zmq: ZmqAddress | None
    source: str | None = None

    @classmethod
    def parse(cls, url: str) -> "Engine":
        """Return what a URL names.

        Raises:
            ConfigError: If it is none.
        """
        if not url.startswith(("http:", "https:")):
            return cls(url, ZmqAddress.parse(url))
        try:
            given = parse_qs(http_url(url).query, keep_blank_values=True)
        except ValueError as error:
            raise ConfigError(f"{without_password(url)}: {error}; write http://HOST:PORT") from error
        if unknown := given.keys() - {"source"}:
            raise ConfigError(f"{url}: unknown {', '.join(sorted(unknown))}; known is source")
        source = given.get("source", [None])[-1]
        if source is not None and not 0 < len(source) <= MAX_SOURCE:
            raise ConfigError(f"{url}: source has 1 to {MAX_SOURCE} characters")
        return cls(url, None, source)

    @property
    def is_fixed(self) -> bool:
        """Return whether its addresses never change, so that looking once is enough."""
        return self.zmq is not None and not _is_name(self.zmq)

    async def addresses(self) -> list[ZmqAddress]:
        """Return the addresses of its publishers now, one for each rank.

        Raises:
            DiscoveryError: If that cannot be found out.
        """
        if self.zmq is None:
            return (await _described_by_server(self.url, self.source)).of_each_rank()
        if not _is_name(self.zmq):
            return self.zmq.of_each_rank()
        hosts = await _hosts(self.zmq)
        if len(hosts) == 1:  # by its name, as an engine that moves is the same one
            return self.zmq.of_each_rank()
        return [each for host in hosts for each in _one_of_several(self.zmq, host).of_each_rank()]


def _is_name(address: ZmqAddress) -> bool:
    if address.binds or not address.host:
        return False
    try:
        ipaddress.ip_address(address.host.partition("%")[0])
    except ValueError:
        return True
    return False


async def _hosts(address: ZmqAddress) -> list[str]:
    """Return the addresses of a name that are engines of their own: one family's, as one has several."""
    try:
        found = await anyio.getaddrinfo(
            address.host, address.endpoint.rpartition(":")[2], type=sockets.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:
        raise DiscoveryError(f"{address.host} has no address: {connection_failure(error).words}") from error
    by_family: defaultdict[int, set[str]] = defaultdict(set)
    for family, _, _, _, place in found:
        by_family[family].add(str(place[0]))
    several = max(by_family, key=lambda family: (len(by_family[family]), family == sockets.AF_INET))
    return sorted(by_family[several])[:_MOST_ADDRESSES]


def _one_of_several(address: ZmqAddress, host: str) -> ZmqAddress:
    at_host = address.at_host(host)
    source = f"{address.source}/{host}" if address.source else at_host.name
    return msgspec.structs.replace(at_host, source=source)


class _KVEvents(msgspec.Struct):
    """What SGLang says of its publishers."""

    endpoint_host: str
    endpoint_port_base: int
    publisher: str = "zmq"
    topic: str = ""
    dp_size: int = 1
    replay_endpoint_port_base: int | None = None


class _ServerInfo(msgspec.Struct):
    kv_events: _KVEvents | None = None


async def _described_by_server(url: str, source: str | None) -> ZmqAddress:
    """Return the address of the publishers that an SGLang server describes.

    Raises:
        DiscoveryError: If it does not answer, or has none.
    """
    parts = urlsplit(url)
    try:
        answer = await fetch(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/server_info")
        described = msgspec.json.decode(answer, type=_ServerInfo).kv_events
    except FetchError as error:
        raise DiscoveryError(f"{error}; is it an SGLang server?") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = f"its /server_info is not understood ({error})"
        raise DiscoveryError(f"{why}; is it an SGLang server?") from error
    if described is None:
        raise DiscoveryError("it publishes no KV events: start SGLang with --kv-events-config")
    host = described.endpoint_host.strip("[]")
    if host in WILDCARDS:
        host = str(parts.hostname)
    return _address(described, host, source or parts.netloc.rpartition("@")[2])


def _address(described: _KVEvents, host: str, source: str) -> ZmqAddress:
    ports = (described.endpoint_port_base, described.replay_endpoint_port_base)
    ranks = described.dp_size
    if described.publisher != "zmq" or not 1 <= ranks <= MOST_RANKS:
        raise DiscoveryError(f"its publisher cannot be used: {described.publisher}, {ranks:,} ranks")
    if not all(1 <= port <= 65_536 - ranks for port in ports if port is not None):
        raise DiscoveryError(f"its ports cannot be used: {ports}")
    written = f"[{host}]" if ":" in host else host
    endpoint, replay = (None if port is None else f"tcp://{written}:{port}" for port in ports)
    return ZmqAddress(str(endpoint), described.topic, replay, source[:MAX_SOURCE], ranks)
