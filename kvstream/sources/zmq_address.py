"""Addresses of publishers over ZMQ, of one rank or of several."""

from typing import Self
from urllib.parse import parse_qs, urlsplit

import msgspec

from kvstream.errors import ConfigError
from kvstream.sources.publishers import MAX_SOURCE
from kvstream.text.addresses import LAST_PORT, without_password, wrong_port

WILDCARDS = ("*", "0.0.0.0", "::")  # noqa: S104 - as publishers name them
"""Hosts that are bound to, as no other machine can be meant."""

MOST_RANKS = 1024

_PARTS = ("topic", "replay", "source", "dp")


class ZmqAddress(msgspec.Struct, frozen=True):
    """Where a publisher is, from ``zmq://host:port?topic=…&replay=tcp://host:port&source=name&dp=8``.

    Attributes:
        endpoint: ZMQ endpoint to connect to, or to bind to if its host is ``*``, ``0.0.0.0`` or ``[::]``.
        topic: Messages of topics that begin with it.
        replay: Endpoint that answers for what was missed; None if there is none.
        source: Name of the publisher's events; by default its host and port, or its topic if bound.
        ranks: Data-parallel ranks that publish at this port and those after it; None if not said.
        rank: The publisher's rank, whatever its batches say; None takes what they say.
    """

    endpoint: str
    topic: str = ""
    replay: str | None = None
    source: str | None = None
    ranks: int | None = None
    rank: int | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """Return the address that a URL names.

        Raises:
            ConfigError: If it is none.
        """
        shown = without_password(url)
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise ConfigError(f"{shown}: {error}") from error
        query = parse_qs(parts.query, keep_blank_values=True)
        if unknown := query.keys() - _PARTS:
            raise ConfigError(f"{shown}: unknown {', '.join(sorted(unknown))}; known are {', '.join(_PARTS)}")
        if parts.scheme == "zmq+ipc" and parts.path:
            endpoint = f"ipc://{parts.netloc}{parts.path}"
        elif parts.scheme == "zmq" and parts.netloc.rpartition(":")[2].isdecimal():
            endpoint = f"tcp://{parts.netloc}"
            if parts.path.strip("/") or parts.fragment:
                raise ConfigError(f"{shown}: nothing can stand after the port but ?topic=… and the like")
        else:
            raise ConfigError(f"{shown}: write zmq://HOST:PORT or zmq+ipc:///PATH")
        replay = query.get("replay", [None])[-1]
        if replay is not None and "://" not in replay:
            raise ConfigError(f"{shown}: write the replay endpoint as tcp://HOST:PORT")
        for each in (endpoint, replay):
            if each is not None and (wrong := _wrong_with(each)):
                raise ConfigError(f"{shown}: {wrong}")
        source = query.get("source", [None])[-1]
        if source is not None and len(source) > MAX_SOURCE:
            raise ConfigError(f"{shown}: source has {len(source):,} characters, more than {MAX_SOURCE}")
        ranks = _ranks(shown, query.get("dp", [None])[-1], endpoint, replay)
        return cls(endpoint, query.get("topic", [""])[-1], replay, source, ranks)

    @property
    def binds(self) -> bool:
        """Return whether publishers connect to us."""
        return self.host in WILDCARDS

    @property
    def host(self) -> str:
        """Return the host of a TCP endpoint, without brackets; empty for other kinds."""
        return host_of(self.endpoint)

    @property
    def topic_bytes(self) -> bytes:
        """Return the topic; bytes of the command line that are no UTF-8 stay what they are."""
        return self.topic.encode("utf-8", "surrogateescape")

    @property
    def name(self) -> str:
        """Return the name of its events, but for a rank."""
        return self.source or self.endpoint.partition("://")[2]

    def of_each_rank(self) -> "list[ZmqAddress]":
        """Return the addresses of its ranks' publishers, each at the port of its rank."""
        if self.ranks is None:
            return [self]
        return [
            msgspec.structs.replace(
                self,
                endpoint=_at_rank(self.endpoint, rank),
                replay=None if self.replay is None else _at_rank(self.replay, rank),
                source=self.name,
                ranks=None,
                rank=rank,
            )
            for rank in range(self.ranks)
        ]

    def at_host(self, host: str) -> "ZmqAddress":
        """Return the same at one address of its host; a replay endpoint of that host goes along."""
        replay = self.replay
        if replay is not None and host_of(replay) == self.host:
            replay = _at_host(replay, host)
        return msgspec.structs.replace(self, endpoint=_at_host(self.endpoint, host), replay=replay)


def host_of(endpoint: str) -> str:
    """Return the host of a ``tcp://`` endpoint, without brackets; empty for other kinds."""
    kind, _, place = endpoint.partition("://")
    return place.rpartition(";")[2].rpartition(":")[0].strip("[]") if kind == "tcp" else ""


def _wrong_with(endpoint: str) -> str:
    """Return what is wrong with a ``tcp://`` endpoint; empty if nothing, or if it is of another kind."""
    kind, _, place = endpoint.partition("://")
    if kind != "tcp":
        return ""
    host, port = host_of(endpoint), place.rpartition(":")[2]
    if "@" in place:  # it would be shown wherever the input is
        return "a name and password cannot be given"
    if not host:
        return f"{place} names no host"
    return wrong_port(port, first=0 if host in WILDCARDS else 1)


def _ranks(url: str, text: str | None, endpoint: str, replay: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isdecimal() and text.isascii() and len(text) < 5 and 1 <= int(text) <= MOST_RANKS):
        raise ConfigError(f"{url}: dp={text} is no number of ranks; write 1 to {MOST_RANKS:,}")
    for each in (endpoint, replay):
        last = None if each is None else each.rpartition(":")[2]
        if last is not None and not (last.isdecimal() and int(last) + int(text) - 1 <= LAST_PORT):
            raise ConfigError(f"{url}: dp={text} needs a port for each rank, from that of {each} on")
    return int(text)


def _at_rank(endpoint: str, rank: int) -> str:
    place, _, port = endpoint.rpartition(":")
    return f"{place}:{int(port) + rank}"


def _at_host(endpoint: str, host: str) -> str:
    written = f"[{host}]" if ":" in host else host
    return f"tcp://{written}:{endpoint.rpartition(':')[2]}"
