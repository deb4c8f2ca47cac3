"""Signer: headers by which the receiver of a webhook knows who sent it, as Standard Webhooks lays down.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import datetime
from base64 import b64decode

from kvstream.errors import ConfigError, MissingExtraError

_PREFIX = "whsec_"
_LEAST_BYTES = 24  # that the specification asks of a secret


class Signer:
    """Signs webhooks with a secret that both sides know.

    Args:
        secret: 24 random bytes or more in base64, with or without ``whsec_`` before it.

    Raises:
        ConfigError: If the secret is anything else.
        MissingExtraError: If ``kvstream[webhook]`` is not installed.
    """

    def __init__(self, secret: str) -> None:
        try:
            from standardwebhooks import Webhook
        except ImportError:
            raise MissingExtraError("signing webhooks", "webhook") from None
        self._webhook = Webhook(_key(secret))

    def headers(self, message_id: str, body: bytes, at: datetime.datetime) -> dict[str, str]:
        """Return ``webhook-timestamp`` and ``webhook-signature`` of one attempt.

        Args:
            message_id: The message's ``webhook-id``, which is signed too.
            body: The body as sent, in UTF-8.
            at: Time of the attempt, UTC.
        """
        return {
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": self._webhook.sign(message_id, at, body.decode()),
        }


def _key(secret: str) -> bytes:
    text = secret.removeprefix(_PREFIX)
    try:  # strictly: the library passes over what is not base64, and would sign with less than the secret
        key = b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        key = b""
    if len(key) < _LEAST_BYTES:
        raise ConfigError(
            f"the secret of a webhook is {_LEAST_BYTES} random bytes or more in base64, which the receiver "
            "has, too; make one with: openssl rand -base64 32"
        )
    return key
