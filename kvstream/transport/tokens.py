"""Tokens that producers and browsers must know: checked when they are set, compared in constant time."""

from kvstream.errors import ConfigError


def checked_token(token: str | None, name: str = "the token") -> str | None:
    """Return the token, checked; None if there is none.

    Args:
        token: The token.
        name: What it is called towards the user.

    Raises:
        ConfigError: If it is empty or not text that UTF-8 can encode.
    """
    if token is None:
        return None
    if not token.strip():
        raise ConfigError(f"{name} is empty; leave it unset if no token is wanted")
    try:
        token.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{name} is not valid UTF-8 text") from None
    return token


def same_token(token: str | None, expected: str) -> bool:
    """Return whether a token from outside is the expected one, in a time that does not depend on it."""
    import hmac  # here, as it loads OpenSSL, and only servers compare

    return hmac.compare_digest((token or "").encode(errors="surrogatepass"), expected.encode())
