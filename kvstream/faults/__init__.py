"""Contain what goes wrong: bounded logs, handlers that raise, pauses before another try, forks."""
