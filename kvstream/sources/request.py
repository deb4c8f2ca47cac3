"""Request: a row of a trace, the same for all formats."""

import msgspec


class Request(msgspec.Struct, frozen=True):
    """A row of a trace.

    Attributes:
        hashes: Hashes of its blocks, in order: integers of 64 bits or hexadecimal digits.
        at: When it came, in the unit of the trace; None if the row does not say.
        delay: Time since the request of its session before, likewise.
        session: What turns of a conversation have in common; None if nothing is known.
        parent: The session that it goes on from, if that is another.
        prompt_tokens: Tokens of its prompt; None if the row does not say.
        output_tokens: Tokens that were made for it, likewise.
        block_tokens: Tokens of each of its blocks; None if it is as many as in all rows of the format.
        has_output: Whether its blocks go on with those that its output fills, which others ask for later.
    """

    hashes: list[int | str]
    at: float | None = None
    delay: float | None = None
    session: int | str | None = None
    parent: int | str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    block_tokens: int | None = None
    has_output: bool = False
