"""Numbers too small to be normal are zero within native calls: Intel's cores take hundreds of cycles for each.

The mode belongs to a thread (MXCSR of x86, FPCR of ARM). It is set before a loop and set back after it, so that
other code on the thread computes as before, and loops do whatever that code has set.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from mlpot.kernels.compiler import compiled

X86 = platform.machine().lower() in ("x86_64", "amd64")
ARM = platform.machine().lower() in ("aarch64", "arm64")
FLUSH = 0x8040 if X86 else 1 << 24 if ARM else 0  # results and operands


@intrinsic  # type: ignore[misc]  # Numba has no types
def _mode(typing):
    """The control word of this thread's arithmetic; 0 on other kinds of CPU."""

    def generate(context, builder, signature, _):
        if X86:
            place = cgutils.alloca_once(builder, ir.IntType(32))
            _call(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), builder.bitcast(place, _pointer()))
            return builder.zext(builder.load(place), ir.IntType(64))
        if ARM:
            return _call(builder, "llvm.aarch64.get.fpcr", ir.IntType(64))
        return ir.IntType(64)(0)

    return types.int64(), generate


@intrinsic  # type: ignore[misc]  # Numba has no types
def _set_mode(typing, mode):
    def generate(context, builder, signature, arguments):
        (mode,) = arguments
        if X86:
            place = cgutils.alloca_once(builder, ir.IntType(32))
            builder.store(builder.trunc(mode, ir.IntType(32)), place)
            _call(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), builder.bitcast(place, _pointer()))
        elif ARM:
            _call(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), mode)
        return context.get_dummy_value()

    return types.void(types.int64), generate


def _pointer() -> Any:
    return ir.IntType(8).as_pointer()


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


@compiled
def mode():
    """The control word of this thread's arithmetic; 0 on kinds of CPU that are not known."""
    return _mode()


@compiled
def set_mode(mode):
    """Another control word for this thread."""
    _set_mode(mode)


def flushed(loop: Callable[..., Any], *arguments: Any) -> Any:
    """loop(*arguments) with subnormal numbers taken for zero, on this thread and until it returns."""
    before = mode()
    try:
        set_mode(before | FLUSH)
        return loop(*arguments)
    finally:
        set_mode(before)
