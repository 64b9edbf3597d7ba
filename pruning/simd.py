"""Three machine instructions that numba has no name for: compare a cache line, find a bit, prefetch.

Each is a few lines of LLVM's intermediate language, which compiles to any processor LLVM knows.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

SLOTS = 21  # 16-bit words of a line that are compared


def _line_pointer(context: Any, builder: Any, array_type: Any, array: Any, line: Any) -> Any:
    """The address of row `line` of a C-contiguous (L, …) array whose rows are 64 bytes."""
    struct = context.make_array(array_type)(context, builder, value=array)
    base = builder.bitcast(struct.data, ir.IntType(8).as_pointer())
    return builder.gep(base, [builder.shl(line, ir.Constant(ir.IntType(64), 6))])


@intrinsic
def match_line(typing_context, fingerprints, line, wanted):  # type: ignore[no-untyped-def]
    """Which of the first 21 words of a 64-byte row equal `wanted`, as bits of an int32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        words = ir.VectorType(ir.IntType(16), 32)
        pointer = _line_pointer(context, builder, signature.args[0], args[0], args[1])
        row = builder.load(builder.bitcast(pointer, words.as_pointer()), align=2)
        one = builder.insert_element(ir.Constant(words, ir.Undefined), args[2], ir.IntType(32)(0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), 32), [0] * 32)
        every = builder.shuffle_vector(one, ir.Constant(words, ir.Undefined), lanes)
        bits = builder.bitcast(builder.icmp_unsigned("==", row, every), ir.IntType(32))
        return builder.and_(bits, ir.IntType(32)((1 << SLOTS) - 1))

    return types.int32(fingerprints, types.uint64, types.uint16), codegen


@intrinsic
def lowest_bit(typing_context, bits):  # type: ignore[no-untyped-def]
    """The number of the lowest set bit of a non-zero int32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.zext(builder.cttz(args[0], ir.IntType(1)(1)), ir.IntType(64))

    return types.int64(types.int32), codegen


@intrinsic
def prefetch(typing_context, lines, line):  # type: ignore[no-untyped-def]
    """Ask the memory for a 64-byte row; returns at once."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        pointer = _line_pointer(context, builder, signature.args[0], args[0], args[1])
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [pointer, number(0), number(3), number(1)])  # read, keep in all caches, data
        return context.get_dummy_value()

    return types.void(lines, types.uint64), codegen
