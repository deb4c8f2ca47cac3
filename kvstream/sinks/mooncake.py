"""Lookups as rows of a Mooncake trace, which Mooncake, Dynamo, AIPerf and others replay."""

import msgspec

_OUTPUT_TOKENS = 1  # events do not say how long outputs were, and readers want a length
_encoder = msgspec.json.Encoder()


def mooncake_row(elapsed_ns: int, contents: list[int], block_tokens: int) -> bytes:
    """Return lookups as a line of JSON, in the form that ``sources/mooncake.py`` reads.

    Args:
        elapsed_ns: Time since the first row, ns; ms in the row.
        contents: What was looked up, as unsigned 64-bit integers.
        block_tokens: Tokens in a block, of which the row's input length is made.
    """
    whole, rest = divmod(elapsed_ns, 1_000_000)
    row = {
        "timestamp": whole + rest / 1e6 if rest else whole,
        "input_length": len(contents) * block_tokens,
        "output_length": _OUTPUT_TOKENS,
        "hash_ids": contents,
    }
    return _encoder.encode(row) + b"\n"
