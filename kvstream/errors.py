"""The errors kvstream raises; everything else that goes wrong in a stream is counted, not raised."""


class KVStreamError(Exception):
    """Base of all errors raised by kvstream."""


class ConfigError(KVStreamError, ValueError):
    """Raised when a setting or a rule has a value that cannot be used.

    Attributes:
        lines: What is wrong, one line for each mistake; for a file, with its name and line number.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class MalformedInputError(KVStreamError, ValueError):
    """Raised for input that cannot be decoded, by calls that decode a single piece and with ``strict``."""


class UnknownFormatError(MalformedInputError):
    """Raised when an input is in no format that kvstream reads."""


class UnreadableInputError(MalformedInputError):
    """Raised at the end of an input if nothing, or nearly nothing, of it could be read."""


class StateError(KVStreamError):
    """Raised when saved state cannot be read, or its directory cannot be used."""


class ClosedStreamError(KVStreamError):
    """Raised when a stream is used before it was opened or after it was closed."""


class MissingExtraError(KVStreamError, ImportError):
    """Raised when a feature needs a package that is not installed.

    Attributes:
        extra: The extra to install, as in ``pip install kvstream[extra]``.
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional package: pip install 'kvstream[{extra}]'")
        self.extra = extra


class UndeliveredError(KVStreamError):
    """Raised by a handler that could not deliver its item, and may succeed later.

    The stream keeps the item, for alerts in its newest state, and calls the handler again after a pause
    that grows with each failure.

    Attributes:
        retry_after: Seconds that the receiver asked for, if it did; an hour at most.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = None if retry_after is None else min(max(0.0, float(retry_after)), 3600.0)
