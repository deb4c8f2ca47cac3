"""The dashboard and the API of a stream, as an ASGI application (``kvstream[web]``)."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kvstream.stream import KVStream

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = ["create_app"]


def create_app(
    stream: KVStream,
    *,
    token: str | None = None,
    allowed_hosts: Iterable[str] = (),
    authenticated: bool = False,
    max_clients: int = 256,
) -> "Starlette":
    """Return the dashboard, the API, ``/metrics`` and live events, to mount or to run in an ASGI server.

    Make it before the stream opens, so that no alert is missed. As it cannot know where its server
    listens, it answers without a token only what is asked of this machine by a name of its own, such as
    ``localhost``; else any page in a browser here could read it by DNS rebinding.

    Args:
        stream: What it shows.
        token: Bearer token that each request needs; None without one.
        allowed_hosts: Names in the ``Host`` header that are answered besides those of loopback, such as
            ``kv.example.org``; with a token and no names, all are.
        authenticated: The surrounding application authenticates requests: neither a token nor a host name is
            checked here.
        max_clients: Followers of live events at once; one more displaces the oldest.

    Raises:
        MissingExtraError: If ``kvstream[web]`` is not installed.
        ConfigError: If the token is empty, a name is no host name, or ``authenticated`` is given with either.

    Examples:
        ``app.mount("/kvstream", create_app(stream, token="secret"))``
    """
    from kvstream.web.app import application  # here, as it needs an extra

    return application(
        stream,
        token=token,
        allowed_hosts=allowed_hosts,
        authenticated=authenticated,
        max_clients=max_clients,
    )
