"""Settings of Kafka clients, and what their errors mean in words."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from kvstream.errors import ConfigError, KVStreamError, MissingExtraError
from kvstream.faults.log import FaultLog
from kvstream.fleet.address import KafkaAddress

try:
    from confluent_kafka import KafkaError, KafkaException
except ImportError:
    raise MissingExtraError("a fleet", "kafka") from None

_STATISTICS_MS = 10_000
_logger = logging.getLogger("kvstream.kafka")


class _ClientLog:
    """Passes on what librdkafka logs as details: what matters of it comes as an error too, and is noted."""

    def log(self, _: int, message: str, *args: object) -> None:
        _logger.info(message, *args)


class _BrokerSeen(msgspec.Struct):
    state: str


class _Seen(msgspec.Struct):
    """What is read of librdkafka's statistics."""

    brokers: dict[str, _BrokerSeen] = {}


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
    last = ""  # why a broker could not be reached

    def note(error: KafkaError) -> None:
        nonlocal last
        match error.code():
            case KafkaError._TRANSPORT | KafkaError._RESOLVE:  # of one broker; others may answer
                last = str(error.str())
                faults.note("kafka", "transport", f"{address.brokers}: {last}", logging.INFO)
            case KafkaError._ALL_BROKERS_DOWN:
                faults.note_standing("kafka", "unreachable", f"{unreachable(address, last)}; {WAITING}")
            case KafkaError._AUTHENTICATION:
                faults.note_standing("kafka", "authentication", f"{address.brokers}: {described(error)}")
            case _:
                faults.note("kafka", "client", f"{address.brokers}: {described(error)}")

    def look(statistics: str) -> None:
        if any(each.state == "UP" for each in msgspec.json.decode(statistics, type=_Seen).brokers.values()):
            note_answer(address, faults)

    return {
        "client.id": "kvstream",
        "socket.keepalive.enable": True,
        "statistics.interval.ms": _STATISTICS_MS,
        **settings,
        "bootstrap.servers": address.brokers,
        "error_cb": note,
        "stats_cb": look,
        "logger": _ClientLog(),
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


WAITING = "trying again until one answers"


def unreachable(address: KafkaAddress, why: str) -> str:
    """Say that no broker answers and what to do.

    Args:
        address: The brokers.
        why: What the client said of one of them; may be empty.
    """
    cause = why.partition("failed: ")[2] or why.partition("/bootstrap: ")[2] or why
    cause = cause.partition(" (after ")[0]
    reason = f" ({cause})" if cause else ""
    return f"{address.brokers}: no broker answers{reason}: start it, or correct the address"


def note_answer(address: KafkaAddress, faults: FaultLog) -> None:
    """Note that a broker answers."""
    faults.note_over("kafka", "authentication", f"{address.brokers}: a broker lets in now")
    faults.note_over("kafka", "unreachable", f"{address.brokers}: a broker answers")


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


def kafka_error(address: KafkaAddress, error: KafkaException, why: str = "") -> KVStreamError:
    """Return the error that a user is shown.

    Args:
        address: The brokers.
        error: What the client raised.
        why: What it said before of one of the brokers, if it did.
    """
    cause = error.args[0]
    if cause.code() == KafkaError._TRANSPORT:
        return KVStreamError(unreachable(address, why))
    return KVStreamError(f"{address.brokers}: {described(cause)}")
