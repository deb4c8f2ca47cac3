"""Premature evictions: content that was evicted and came back not long after."""

REMEMBERED_SECONDS = 3600.0
"""Seconds after which evicted content is forgotten; what comes back later was not evicted too early."""
