"""Numba's compiler without the work that it does several times.

Numba optimizes a function and makes machine code of it, with all that it calls, then again as a part of each of
its callers, and of theirs. Here only functions that Python calls are optimized, once, with all that they call.
"""

from __future__ import annotations

import gc
import os
from itertools import count
from typing import Any

from llvmlite import binding
from numba.core.bytecode import FunctionIdentity
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder, Flags
from numba.core.compiler_machinery import AnalysisPass, PassManager, register_pass
from numba.core.typed_passes import NativeLowering


def _begin_numbers() -> None:
    """Let this process number the functions that it compiles from somewhere else than all others do.

    The name of a compiled function ends in its number, and Numba counts from 1 in every process. The machine code
    of two processes, which a third loads from the cache, had one name for different functions: closures over other
    stages, of one signature. Whatever was loaded first was then called by both.
    """
    FunctionIdentity._unique_ids = count(int.from_bytes(os.urandom(6), "big"))


_begin_numbers()
os.register_at_fork(after_in_child=_begin_numbers)


def vector_bytes() -> int:
    """Bytes of a vector of this CPU, 16, 32 or 64; MLPOT_VECTOR_BYTES takes another width.

    Raises:
        ValueError: it says something else.
    """
    if given := os.environ.get("MLPOT_VECTOR_BYTES"):
        if given not in ("16", "32", "64"):
            raise ValueError(f"MLPOT_VECTOR_BYTES is {given!r}. Set it to 16, 32 or 64, or not at all.")
        return int(given)
    features = binding.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx2") else 16


BYTES = vector_bytes()
WIDE = f'"prefer-vector-width"="{8 * BYTES}"'  # bits: LLVM makes vectors of half the width on some of Intel's CPUs


class _Library(JITCodeLibrary):
    """Numba's, with loops in vectors as wide as the CPU has them."""

    def add_ir_module(self, ir_module: Any) -> None:
        """As Numba's; llvmlite does not know the attribute."""
        for function in ir_module.functions:
            if not function.is_declaration:
                set.add(function.attributes, WIDE)
        super().add_ir_module(ir_module)


class _Part(_Library):
    """Code of a function that others call, optimized and made into machine code only where it is linked."""

    def finalize(self) -> None:
        """Nothing may be added from now on."""
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """There is none."""
        return 0

    @property
    def codegen(self) -> Any:
        """What is told of the environment, Python objects that no part reads."""
        return self

    def set_env(self, name: str, env: Any) -> None:
        """Nothing to do."""


class _Whole(_Library):
    """Code of a function that Python calls, with that of all that it calls."""

    def finalize(self) -> None:
        """Link callers before what they call, as only what is called is linked; optimize; make machine code."""
        order: dict[Any, None] = {}
        _add_called(self, order)
        self._linking_libraries = list(order)[-2::-1]
        super().finalize()


def _add_called(library: Any, order: dict[Any, None]) -> None:
    for called in library._linking_libraries if isinstance(library, _Part | _Whole) else []:
        if called not in order:
            _add_called(called, order)
    order[library] = None


@register_pass(mutates_CFG=False, analysis_only=True)
class _AsPart(AnalysisPass):
    _name, _library = "mlpot_part", _Part

    def __init__(self) -> None:
        AnalysisPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        state.library = self._library(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return False


@register_pass(mutates_CFG=False, analysis_only=True)
class _AsWhole(_AsPart):
    _name, _library = "mlpot_whole", _Whole


class PartCompiler(CompilerBase):
    """Of functions that other compiled functions call."""

    _first: type[AnalysisPass] = _AsPart

    def define_pipelines(self) -> list[PassManager]:
        """Numba's, where the library is made before code is added to it."""
        numba_s, passes = DefaultPassBuilder.define_nopython_pipeline(self.state), PassManager("mlpot")
        for one, what in numba_s.passes:
            if one is NativeLowering:
                passes.add_pass(self._first, "library")
            passes.add_pass(one, what)
        passes.finalize()
        return [passes]


class WholeCompiler(PartCompiler):
    """Of functions that Python calls."""

    _first = _AsWhole

    def compile_extra(self, func: Any) -> Any:
        """Without the collector of cycles, which took a sixth of the time to find that Numba keeps all."""
        collects = gc.isenabled()
        gc.disable()
        try:
            return super().compile_extra(func)
        finally:
            if collects:
                gc.enable()


class FastFlags(Flags):
    """Numba's, which it compares at every operator that it meets; it collects them by name each time."""

    def values(self) -> dict[str, Any]:
        """All of them, collected anew only if one was set."""
        if self._values != getattr(self, "_seen", None):
            self._seen, self._all = dict(self._values), super().values()
        return self._all
