import socket

import anyio
import pytest
import zmq

from kvstream.sources.zmq_sockets import MOST_PARTS, SocketReader, speaks_ipv6
from tests.waiting import DEADLINE

DEADLINE_MS = 30_000
BOTH = [(socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")]


@pytest.fixture
def resolving(monkeypatch):
    """Makes the name ``engine`` resolve to the given addresses."""
    resolve = socket.getaddrinfo

    def use(addresses):
        def getaddrinfo(host, port, *args, **kwargs):
            if host not in ("engine", b"engine"):
                return resolve(host, port, *args, **kwargs)
            return [
                (family, socket.SOCK_STREAM, 6, "", (address, int(port)))
                for family, address in addresses
                if (kwargs.get("family") or (args[0] if args else 0)) in (0, family)
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return use


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("tcp://*:5557", True),
        ("tcp://[::1]:5557", True),
        ("tcp://[fe80::1%eth0]:5557", True),
        ("tcp://127.0.0.1:5557", False),
        ("ipc:///run/kv", False),
    ],
)
async def test_addresses_say_themselves_what_they_are(endpoint, expected):
    assert await speaks_ipv6(endpoint) is expected


@pytest.mark.parametrize(("family", "address"), BOTH)
async def test_a_name_with_one_kind_of_address_is_used_over_that(resolving, family, address):
    resolving([(family, address)])
    assert await speaks_ipv6("tcp://engine:5557") is (family == socket.AF_INET6)


@pytest.mark.parametrize(("family", "address"), BOTH)
async def test_a_name_with_both_kinds_is_used_over_the_one_that_is_served(resolving, family, address):
    resolving(BOTH)
    try:
        server = socket.create_server((address, 0), family=family)
    except OSError:
        pytest.skip("needs IPv6")
    with server:
        endpoint = f"tcp://engine:{server.getsockname()[1]}"
        assert await speaks_ipv6(endpoint) is (family == socket.AF_INET6)


async def test_a_name_that_is_served_by_nobody_is_waited_for_no_longer_than_asked(resolving):
    resolving(BOTH)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert await speaks_ipv6(f"tcp://engine:{port}", 0.2) is False


@pytest.mark.parametrize(
    ("addresses", "expected"), [(BOTH, False), (BOTH[:1], True), (BOTH[1:], False), ([], False)]
)
async def test_a_name_that_is_bound_to_is_not_waited_for(resolving, addresses, expected):
    resolving(addresses)
    with anyio.fail_after(DEADLINE):
        assert await speaks_ipv6("tcp://engine:5557", bind=True) is expected


def test_messages_of_many_parts_are_read_in_portions_and_only_their_beginning_kept():
    with zmq.Context() as context, context.socket(zmq.PAIR) as ours, context.socket(zmq.PAIR) as theirs:
        ours.bind("inproc://messages")
        theirs.connect("inproc://messages")
        theirs.send_multipart([b"%d" % part for part in range(3_000)])
        theirs.send_multipart([b"a", b"b"])
        reader = SocketReader(ours)
        assert ours.poll(DEADLINE_MS)
        reads = [reader.read() for _ in range(4)]
        assert reads == [None, None, [b"%d" % part for part in range(MOST_PARTS)], [b"a", b"b"]]
        assert reader.read() is None
        assert not reader.is_readable
