"""Where events come from, one file an input."""
