"""The version of kvstream."""

__version__ = "0.1.0"
