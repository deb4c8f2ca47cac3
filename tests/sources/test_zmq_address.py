import pytest

from kvstream.errors import ConfigError
from kvstream.sources.zmq_address import ZmqAddress


def test_addresses():
    assert ZmqAddress.parse("zmq://h:5557?topic=kv&replay=tcp://h:5558&source=a") == ZmqAddress(
        "tcp://h:5557", "kv", "tcp://h:5558", "a"
    )
    assert ZmqAddress.parse("zmq+ipc:///run/kv").endpoint == "ipc:///run/kv"
    assert ZmqAddress.parse("zmq://[::1]:5557").endpoint == "tcp://[::1]:5557"


@pytest.mark.parametrize(
    "wrong",
    [
        "zmq://host",
        "zmq:",
        "http://h:1",
        "zmq://h:1?topics=x",
        "zmq://h:1?replay=h:2",
        "zmq://[::1:5557",
        "zmq://h:1?source=" + "x" * 250,
        "zmq://h:1?dp=0",
        "zmq://h:1?dp=eight",
        "zmq://h:1?dp=-1",
        "zmq://h:1?dp=99999999999999999999",
        "zmq://h:65535?dp=2",
        "zmq://h:1?dp=2&replay=tcp://h:65535",
        "zmq+ipc:///run/kv?dp=2",
        "zmq://h:65536",
        "zmq://h:0",
        "zmq://h:١٢",
        "zmq://:5557",
        "zmq://[::1",
        "zmq://h:1?replay=tcp://h:65536",
        "zmq://h:1?replay=tcp://h",
        "zmq://user:secret@h:1",
        "zmq://user:secret@h",
        "zmq://user:secret@*:1",
        "zmq://user:secret@h:1?unknown=1",
        "zmq://h:1?replay=tcp://user:secret@h:1",
        "zmq://h:5557/kv-events",  # which is no topic
        "zmq://h:5557#kv",
    ],
)
def test_what_is_no_address_is_refused(wrong):
    with pytest.raises(ConfigError) as refused:
        ZmqAddress.parse(wrong)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "binds"), [("*", True), ("0.0.0.0", True), ("[::]", True), ("[::1]", False), ("h", False)]
)
def test_wildcards_are_bound_to(host, binds):
    assert ZmqAddress.parse(f"zmq://{host}:5557").binds is binds


def test_ranks_are_at_the_ports_that_follow_also_for_replays():
    address = ZmqAddress.parse("zmq://[fe80::1]:5557?replay=tcp://[fe80::1]:5600&dp=3&topic=kv")
    assert [
        (each.endpoint, each.replay, each.source, each.rank, each.topic) for each in address.of_each_rank()
    ] == [
        (f"tcp://[fe80::1]:{5557 + rank}", f"tcp://[fe80::1]:{5600 + rank}", "[fe80::1]:5557", rank, "kv")
        for rank in range(3)
    ]
    assert ZmqAddress.parse("zmq://h:1?dp=1&source=a").of_each_rank()[0].rank == 0
    one = ZmqAddress.parse("zmq://h:1")
    assert one.of_each_rank() == [one]


def test_one_address_of_a_name_takes_the_replay_of_that_name_along():
    address = ZmqAddress.parse("zmq://engines:5557?replay=tcp://engines:5558")
    assert address.at_host("fd00::7") == ZmqAddress("tcp://[fd00::7]:5557", "", "tcp://[fd00::7]:5558")
    other = ZmqAddress.parse("zmq://engines:5557?replay=tcp://elsewhere:5558")
    assert other.at_host("10.0.0.1").replay == "tcp://elsewhere:5558"
