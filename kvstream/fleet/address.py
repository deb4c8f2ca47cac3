"""KafkaAddress: the brokers and topics of a fleet by one name, ``kafka://host:9092/prefix``."""

import re
from typing import Self

import msgspec

from kvstream.errors import ConfigError
from kvstream.text.addresses import without_password, wrong_port

_SCHEME = "kafka://"
_BROKERS = re.compile(r"[^\s/,:@]+:[0-9]{1,5}(,[^\s/,:@]+:[0-9]{1,5})*|\[[0-9a-fA-F:]+\]:[0-9]{1,5}")
_PORT = re.compile(r":([0-9]+)(?:,|$)")
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,200}")


class KafkaAddress(msgspec.Struct, frozen=True):
    """The brokers to ask first, and the prefix of a fleet's topics and groups.

    Attributes:
        brokers: ``HOST:PORT``, several with commas between them.
        prefix: What the names of its topics and groups begin with.

    Example:
        >>> KafkaAddress.parse("kafka://kafka-0:9092,kafka-1:9092/kvstream").frames
        'kvstream.frames'
    """

    brokers: str
    prefix: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the address that a text names.

        Raises:
            ConfigError: If it names none.
        """
        brokers, _, prefix = text.removeprefix(_SCHEME).partition("/")
        if text.startswith(_SCHEME) and _BROKERS.fullmatch(brokers) and _PREFIX.fullmatch(prefix):
            for port in _PORT.findall(brokers):
                if wrong := wrong_port(port):
                    raise ConfigError(f"{text!r}: {wrong}")
            return cls(brokers, prefix)
        shown = without_password(text)
        raise ConfigError(f"{shown!r} names no topics; write kafka://HOST:PORT/PREFIX")

    def __str__(self) -> str:
        return f"{_SCHEME}{self.brokers}/{self.prefix}"

    @property
    def frames(self) -> str:
        """Topic of the frames of all sources; the key is the source."""
        return f"{self.prefix}.frames"

    @property
    def alerts(self) -> str:
        """Topic of alerts; the key is the fingerprint."""
        return f"{self.prefix}.alerts"

    @property
    def summaries(self) -> str:
        """Topic of the newest summary of each cache; the key is the source and the tier."""
        return f"{self.prefix}.summaries"

    @staticmethod
    def summary_key(source: str, tier: str) -> bytes:
        """Return the key of a cache's summary in that topic."""
        return f"{source}\0{tier}".encode("utf-8", "surrogatepass")

    @property
    def workers(self) -> str:
        """Consumer group of the workers."""
        return f"{self.prefix}.workers"

    @property
    def notifiers(self) -> str:
        """Consumer group of those that notify of alerts."""
        return f"{self.prefix}.notifiers"
