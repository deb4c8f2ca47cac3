"""The dashboard and the API of a stream, as an ASGI application (``kvstream[web]``)."""
