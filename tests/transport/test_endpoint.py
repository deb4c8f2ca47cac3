import pytest

from kvstream.errors import ConfigError
from kvstream.transport.endpoint import Endpoint


@pytest.mark.parametrize(
    ("text", "endpoint", "is_local"),
    [
        ("unix:/run/kv.sock", Endpoint(path="/run/kv.sock"), True),
        ("unix:///run/kv.sock", Endpoint(path="/run/kv.sock"), True),
        ("unix:kv.sock", Endpoint(path="kv.sock"), True),
        ("tcp://127.0.0.1:70", Endpoint(host="127.0.0.1", port=70), True),
        ("tcp://[::1]:70", Endpoint(host="::1", port=70), True),
        ("tcp://localhost:0", Endpoint(host="localhost", port=0), True),
        ("tcp://0.0.0.0:70", Endpoint(host="0.0.0.0", port=70), False),
        ("tcp://engines.example:70", Endpoint(host="engines.example", port=70), False),
        ("tls://[::1]:70", Endpoint(host="::1", port=70, tls=True), True),
        ("tls://engines.example:70", Endpoint(host="engines.example", port=70, tls=True), False),
    ],
)
def test_endpoints(text, endpoint, is_local):
    assert Endpoint.parse(text) == endpoint
    assert endpoint.is_local == is_local
    assert Endpoint.parse(str(endpoint)) == endpoint
    assert endpoint.is_exposed == (text.startswith("tcp:") and not is_local)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "tcp://host",
        "tcp://:70",
        "tcp://h:x",
        "udp://h:1",
        "tcp://h:1/x",
        "tcp://[",
        "tls://u@h:1",
    ],
)
def test_what_is_no_endpoint(text):
    with pytest.raises(ConfigError, match="no endpoint"):
        Endpoint.parse(text)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        (":9109", Endpoint(host="127.0.0.1", port=9109)),
        ("[::]:9109", Endpoint(host="::", port=9109)),
        ("h:9109", Endpoint(host="h", port=9109)),
    ],
)
def test_addresses_of_http_servers_are_on_this_machine_by_default(text, endpoint):
    assert Endpoint.parse_address(text) == endpoint
