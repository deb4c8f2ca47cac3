"""From the names of engines to the addresses of their publishers."""

import json
import socket

import pytest

from kvstream.errors import ConfigError
from kvstream.sources import discovery
from kvstream.sources.discovery import DiscoveryError, Engine
from tests.ports import answering, free_port

DESCRIBED = {
    "publisher": "zmq",
    "endpoint_host": "*",
    "endpoint_port_base": 5557,
    "topic": "kv",
    "block_size": 64,
    "dp_size": 3,
}


def server_info(kv_events, status=200):
    """An HTTP server that describes itself as SGLang's does, among much else."""
    body = json.dumps({"model_path": "m", "kv_events": kv_events, "internal_states": [{}]}).encode()
    return answering(lambda path: (status, body) if path == "/server_info" else (404, b""))


async def test_sglang_describes_a_publisher_for_each_rank():
    with server_info(DESCRIBED) as url:
        addresses = await Engine.parse(url).addresses()
    netloc = url.removeprefix("http://")
    assert [(each.endpoint, each.rank, each.source, each.topic, each.replay) for each in addresses] == [
        (f"tcp://127.0.0.1:{5557 + rank}", rank, netloc, "kv", None) for rank in range(3)
    ]


@pytest.mark.parametrize("host", ["*", "0.0.0.0", "::", "[::]"])
async def test_a_wildcard_is_the_host_of_the_server(host):
    with server_info({**DESCRIBED, "endpoint_host": host}) as url:
        (first, *_) = await Engine.parse(url).addresses()
    assert first.host == "127.0.0.1"


async def test_hosts_replays_and_names_are_taken_as_they_are_given():
    described = {**DESCRIBED, "endpoint_host": "[fd00::1]", "replay_endpoint_port_base": 6000, "dp_size": 2}
    with server_info(described) as url:
        addresses = await Engine.parse(f"{url}/?source=prod").addresses()
    assert [(each.endpoint, each.replay, each.source) for each in addresses] == [
        ("tcp://[fd00::1]:5557", "tcp://[fd00::1]:6000", "prod"),
        ("tcp://[fd00::1]:5558", "tcp://[fd00::1]:6001", "prod"),
    ]


@pytest.mark.parametrize(
    ("kv_events", "why"),
    [
        (None, "--kv-events-config"),
        ({**DESCRIBED, "publisher": "null"}, "publisher"),
        ({**DESCRIBED, "dp_size": 0}, "ranks"),
        ({**DESCRIBED, "dp_size": 10**9}, "ranks"),
        ({**DESCRIBED, "endpoint_port_base": 0}, "ports"),
        ({**DESCRIBED, "endpoint_port_base": 65_535}, "ports"),
        ({**DESCRIBED, "endpoint_port_base": "5557"}, "not understood"),
        ({"dp_size": 1}, "not understood"),
        ([], "not understood"),
    ],
)
async def test_what_cannot_be_used_of_a_description_says_why(kv_events, why):
    with server_info(kv_events) as url:
        with pytest.raises(DiscoveryError, match=why):
            await Engine.parse(url).addresses()


async def test_servers_that_do_not_answer_or_answer_something_else_say_so():
    with pytest.raises(DiscoveryError, match="does not answer"):
        await Engine.parse(f"http://127.0.0.1:{free_port()}").addresses()
    with server_info(DESCRIBED, status=503) as url:
        with pytest.raises(DiscoveryError, match="503"):
            await Engine.parse(url).addresses()
    with answering(lambda path: (200, b"x" * 20_000_000)) as url:
        with pytest.raises(DiscoveryError, match="more than"):
            await Engine.parse(url).addresses()


@pytest.mark.parametrize(
    "wrong", ["http://", "http://h:0", "http://h:1?dp=2", "http://h:99999", "http://[::1", "http://u:p@h:1"]
)
def test_urls_that_are_none_are_refused(wrong):
    with pytest.raises(ConfigError):
        Engine.parse(wrong)


def resolving(monkeypatch, *hosts):
    """Let every name have these addresses."""

    async def getaddrinfo(host, port, **kind):
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, 1, 6, "", (each, int(port)))
            for each in hosts
        ]

    monkeypatch.setattr(discovery.anyio, "getaddrinfo", getaddrinfo)


async def test_a_name_with_several_addresses_is_as_many_engines(monkeypatch):
    resolving(monkeypatch, "10.0.0.2", "10.0.0.1", "fd00::1")
    engine = Engine.parse("zmq://engines:5557?replay=tcp://engines:5558&dp=2")
    assert not engine.is_fixed
    assert [(each.endpoint, each.replay, each.source, each.rank) for each in await engine.addresses()] == [
        (
            f"tcp://10.0.0.{host}:{5557 + rank}",
            f"tcp://10.0.0.{host}:{5558 + rank}",
            f"10.0.0.{host}:5557",
            rank,
        )
        for host in (1, 2)
        for rank in (0, 1)
    ]
    named = Engine.parse("zmq://engines:5557?source=prod")
    assert [each.source for each in await named.addresses()] == ["prod/10.0.0.1", "prod/10.0.0.2"]


@pytest.mark.parametrize("hosts", [["10.0.0.1"], ["10.0.0.1", "fd00::1"], ["fd00::1"]])
async def test_a_name_of_one_machine_stays_its_name(monkeypatch, hosts):
    resolving(monkeypatch, *hosts)
    engine = Engine.parse("zmq://engine:5557")
    assert await engine.addresses() == [engine.zmq]


async def test_a_name_without_an_address_is_not_found():
    with pytest.raises(DiscoveryError, match="has no address"):
        await Engine.parse("zmq://nowhere.invalid:5557").addresses()


@pytest.mark.parametrize("fixed", ["zmq://127.0.0.1:1", "zmq://[::1]:1", "zmq://*:1", "zmq+ipc:///run/kv"])
def test_addresses_that_are_no_names_are_looked_up_never(fixed):
    assert Engine.parse(fixed).is_fixed
