"""Settings of Kafka clients, and what their errors mean in words."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kvstream.errors import ConfigError, KVStreamError, MissingExtraError
from kvstream.faults.log import FaultLog
from kvstream.fleet.address import KafkaAddress

try:
    from confluent_kafka import KafkaError, KafkaException
except ImportError:
    raise MissingExtraError("a fleet", "kafka") from None

_logger = logging.getLogger("kvstream.kafka")


def read_settings(path: Path | None) -> dict[str, str]:
    """Return settings of librdkafka from a file of ``name=value`` lines, as Kafka's own clients have them.

    Args:
        path: The file; None is no settings. Lines that begin with ``#`` are passed over.

    Raises:
        ConfigError: If it cannot be read, or a line is no setting.
    """
    if path is None:
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    settings: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if line and not line.startswith("#"):
            name, is_setting, value = line.partition("=")
            if not is_setting:
                raise ConfigError(f"{path}: line {number} is no setting; write NAME=VALUE")
            settings[name.strip()] = value.strip()
    return settings


def client_settings(
    address: KafkaAddress, settings: Mapping[str, str], faults: FaultLog, **own: object
) -> dict[str, Any]:
    """Return the settings of one client.

    Args:
        address: The brokers.
        settings: What the user has set; goes before ours, but not before what ``own`` requires.
        faults: Where the client's errors are noted.
        own: What the client is to be, with ``_`` for each ``.``, and callbacks.
    """

    def note(error: KafkaError) -> None:
        faults.note("kafka", "client", f"{address.brokers}: {described(error)}")

    return {
        "client.id": "kvstream",
        "socket.keepalive.enable": True,
        **settings,
        "bootstrap.servers": address.brokers,
        "error_cb": note,
        "logger": _logger,
        **{name if callable(value) else name.replace("_", "."): value for name, value in own.items()},
    }


def made(kind: Callable[[dict[str, Any]], Any], settings: dict[str, Any]) -> Any:
    """Return a client.

    Raises:
        ConfigError: If a setting cannot be used.
    """
    try:
        return kind(settings)
    except KafkaException as error:
        raise ConfigError(f"Kafka client: {described(error.args[0])}") from error


def described(error: KafkaError) -> str:
    """Say what an error of a Kafka client means."""
    code = error.code()
    if code == KafkaError._ALL_BROKERS_DOWN:
        return "no broker answers"
    if code in (KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT):
        return f"no answer in time ({error.str()})"
    return str(error.str())


def note_fetch_error(error: KafkaError, topic: str, address: KafkaAddress, faults: FaultLog) -> None:
    """Note that records of a topic could not be fetched.

    Raises:
        KVStreamError: If the client cannot go on.
    """
    faults.note("kafka", "fetch", f"{topic}: {described(error)}")
    if error.fatal():
        raise KVStreamError(f"{address.brokers}: {described(error)}")


def kafka_error(address: KafkaAddress, error: KafkaException) -> KVStreamError:
    """Return the error that a user is shown."""
    cause = error.args[0]
    text = described(cause)
    if cause.code() == KafkaError._TRANSPORT:
        text = "no broker answers"
    return KVStreamError(f"{address.brokers}: {text}")
