"""kvstream inside engines, one file an engine."""
