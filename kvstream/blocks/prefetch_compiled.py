"""Loading ahead: memory that a compiled loop is about to need, asked for while it does something else."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_TO_WRITE, _KEEP, _DATA = 1, 3, 1  # arguments of the instruction


def _prefetch(_context: Any, array: Any, place: Any) -> Any:
    """Gives the types of a call, and what makes its instructions.

    Source: ``llvm.prefetch``, https://llvm.org/docs/LangRef.html#llvm-prefetch-intrinsic
    """

    def instructions(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        column = context.make_array(kind)(context, builder, arguments[0])
        indices = cgutils.unpack_tuple(builder, arguments[1])
        address = cgutils.get_item_pointer(context, builder, kind, column, indices, wraparound=False)
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        call = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], call)
        builder.call(prefetch, [builder.bitcast(address, byte), word(_TO_WRITE), word(_KEEP), word(_DATA)])
        return context.get_dummy_value()

    return types.void(array, place), instructions


prefetch: Callable[..., None] = intrinsic(_prefetch)
"""``prefetch(array, (i, j))`` begins to load an element, which there must be, into the core's cache."""
