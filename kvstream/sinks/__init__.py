"""Where events and results go, one file an output."""
