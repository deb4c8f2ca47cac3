"""The errors kvstream raises; everything else that goes wrong in a stream is counted, not raised."""


class KVStreamError(Exception):
    """Base of all errors raised by kvstream."""


class ConfigError(KVStreamError, ValueError):
    """Raised when a setting or a rule has a value that cannot be used."""


class MalformedInputError(KVStreamError, ValueError):
    """Raised for input that cannot be decoded, by single decodes and by runs with ``strict``."""


class UnknownFormatError(MalformedInputError):
    """Raised when the first bytes of an input belong to no format that kvstream reads."""


class UnreadableInputError(MalformedInputError):
    """Raised at the end of an input of which nothing, or nearly nothing, could be read."""


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
