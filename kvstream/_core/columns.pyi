AT_ONCE: int
