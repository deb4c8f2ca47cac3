"""Frames between processes: endpoints, the server and the client, TLS and tokens."""
