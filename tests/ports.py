"""Ports for servers that cannot choose one themselves."""

import socket


def free_port():
    """A TCP port of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
