"""Joins rows of a trace that hold only what was added to their session into whole prompts."""

from collections import OrderedDict

import msgspec
import numpy as np

from kvstream._core.table import mix
from kvstream.errors import MalformedInputError
from kvstream.events.frame import I64
from kvstream.sources.request import Request

MOST_SESSIONS = 65_536
MOST_BLOCKS = 8 * 1024 * 1024  # of all sessions together


class Sessions:
    """Remembers what each session has said so far, and puts it before what a row adds.

    A prompt is all prompts and outputs of its session before it, then its own row, token by token, as AIPerf
    and Dynamo's ``mooncake-delta`` send it. Blocks after the first output are cut elsewhere than in the row,
    and hold an output that nobody else has: they have ids of their own, the same ones in every later prompt.
    Where a session's tokens end with a block and no output is known, the hashes of the next row follow.

    A row goes on from the session that its ``parent`` names, or else from its own. Beyond 65,536 sessions, or
    8 Mi blocks of all together, the one used longest ago is forgotten, and its next row is a whole prompt.

    Args:
        block_tokens: Tokens of each block, in rows that do not say.

    Attributes:
        forgotten: Sessions that were forgotten.
    """

    def __init__(self, block_tokens: int) -> None:
        self.forgotten = 0
        self._block_tokens = block_tokens
        self._held: OrderedDict[int | str, tuple[I64, int]] = OrderedDict()  # full blocks, and tokens
        self._held_blocks = 0
        self._made = 0  # ids that nobody else has

    def join(self, request: Request, hashes: I64, with_output: bool) -> tuple[Request, I64]:
        """Return a request of the whole prompt, and the hashes of its blocks.

        Args:
            request: A row; one without a session is returned as it is.
            hashes: Its hashes, int64 (n,).
            with_output: Return the blocks that are full after its output, as later prompts find them.

        Raises:
            MalformedInputError: If the session has more than 8 Mi blocks.
        """
        session = request.session
        if session is None:
            return request, hashes
        size = request.block_tokens or self._block_tokens
        blocks, tokens = self._held.get(
            session if request.parent is None else request.parent, (hashes[:0], 0)
        )
        prompt = tokens + (len(hashes) * size if request.prompt_tokens is None else request.prompt_tokens)
        said = prompt + (request.output_tokens or 0)
        if said > MOST_BLOCKS * size:
            raise MalformedInputError(f"a session of {said:,} tokens, more than {MOST_BLOCKS:,} blocks")
        is_even = tokens == len(blocks) * size
        whole = np.concatenate([blocks, hashes]) if is_even else self._filled(blocks, -(-prompt // size))
        full = self._filled(whole[: prompt // size], said // size)
        self._hold(session, full, said)
        joined = msgspec.structs.replace(request, prompt_tokens=prompt, has_output=with_output)
        return joined, full if with_output else whole

    def _filled(self, blocks: I64, length: int) -> I64:
        """Return the blocks, followed by blocks that no other request has."""
        more = np.arange(self._made, self._made + length - len(blocks))
        self._made += len(more)
        return np.concatenate([blocks, mix(more).view(np.int64)])

    def _hold(self, session: int | str, blocks: I64, tokens: int) -> None:
        before = self._held.pop(session, None)
        self._held[session] = blocks, tokens
        self._held_blocks += len(blocks) - (0 if before is None else len(before[0]))
        while len(self._held) > MOST_SESSIONS or self._held_blocks > MOST_BLOCKS:
            _, (gone, _) = self._held.popitem(last=False)
            self._held_blocks -= len(gone)
            self.forgotten += 1
