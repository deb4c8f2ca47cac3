import pytest

from kvstream.errors import ConfigError
from kvstream.fleet.address import KafkaAddress


def test_topics_and_groups_have_the_prefix():
    address = KafkaAddress.parse("kafka://kafka-0:9092,kafka-1:9092/prod.kv")
    assert address.brokers == "kafka-0:9092,kafka-1:9092"
    assert (address.frames, address.alerts, address.summaries) == (
        "prod.kv.frames",
        "prod.kv.alerts",
        "prod.kv.summaries",
    )
    assert KafkaAddress.parse(str(address)) == address


def test_an_address_of_ipv6_is_one():
    assert KafkaAddress.parse("kafka://[::1]:9092/kv").brokers == "[::1]:9092"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kafka://",
        "kafka://host/kv",
        "kafka://host:9092",
        "kafka://host:9092/",
        "kafka://host:9092/a/b",
        "kafka://user:secret@host:9092/kv",
        "host:9092/kv",
        "http://host:9092/kv",
        "kafka://host:9092/two words",
        "kafka://host:0/kv",
        "kafka://host:65536/kv",
        "kafka://a:1,host:65536/kv",
        "kafka://[::1]:65536/kv",
        "kafka://host:١٢/kv",
    ],
)
def test_what_names_no_topics_is_refused(text):
    with pytest.raises(ConfigError, match=r"kafka://HOST:PORT/PREFIX|is no port; write 1 to 65535"):
        KafkaAddress.parse(text)
