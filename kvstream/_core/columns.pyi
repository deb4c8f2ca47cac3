AT_ONCE: int
COUNTED: tuple[str, ...]
