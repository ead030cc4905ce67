"""The one door to compiled loops: imported when one is first needed, so that `import mlpot` does without Numba.

`loops.radial_derivatives.activate` is `mlpot.kernels.radial_derivatives.activate`.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlpot.kernels import edges as edges
    from mlpot.kernels import radial_derivatives as radial_derivatives
    from mlpot.kernels import structure as structure
    from mlpot.kernels import subnormals as subnormals


def __getattr__(name: str) -> ModuleType:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mlpot.kernels import edges, radial_derivatives, structure, subnormals

    found = (edges, radial_derivatives, structure, subnormals)
    globals().update({module.__name__.rpartition(".")[2]: module for module in found})
    if name not in globals():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    loaded: ModuleType = globals()[name]
    return loaded
