"""The one door to compiled loops: imported when one is first needed, so that `import mlpot` does without Numba.

`loops.native.stages` is `mlpot.kernels.native.stages`.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlpot.kernels import adjoint as adjoint
    from mlpot.kernels import edges as edges
    from mlpot.kernels import jets as jets
    from mlpot.kernels import messages as messages
    from mlpot.kernels import native as native
    from mlpot.kernels import native_egnn as native_egnn
    from mlpot.kernels import pairs as pairs
    from mlpot.kernels import subnormals as subnormals


def __getattr__(name: str) -> ModuleType:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mlpot.kernels import adjoint, edges, jets, messages, native, native_egnn, pairs, subnormals

    found = (adjoint, edges, jets, messages, native, native_egnn, pairs, subnormals)
    globals().update({module.__name__.rpartition(".")[2]: module for module in found})
    if name not in globals():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    loaded: ModuleType = globals()[name]
    return loaded
