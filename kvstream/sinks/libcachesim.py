"""Lookups as a CSV file that libCacheSim reads (https://github.com/1a1a11a/libCacheSim).

``cachesim FILE csv lru 1024 -t "time-col=1,obj-id-col=2,obj-size-col=3,delimiter=,,has-header=1,
obj-id-is-num=1" --ignore-obj-size 1`` has what an LRU cache of 1,024 blocks would do.
"""

HEADER = b"time,obj_id,obj_size\n"


def csv_lines(elapsed_ns: int, contents: list[int]) -> bytes:
    """Return a line a lookup: seconds since the first, content as an unsigned integer, size 1."""
    seconds = elapsed_ns // 1_000_000_000
    return "".join(f"{seconds},{content},1\n" for content in contents).encode()
