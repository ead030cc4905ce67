"""mlpot: machine-learned interatomic potentials."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mlpot.version import __version__

if TYPE_CHECKING:
    from mlpot.calculator import MLPotCalculator
    from mlpot.forces import predict
    from mlpot.graph import AtomGraph, Properties
    from mlpot.model_file import load_potential as load
    from mlpot.model_file import save_potential as save
    from mlpot.neighbors import build_graph
    from mlpot.potential import Potential

_HOME = {
    "AtomGraph": ("mlpot.graph", "AtomGraph"),
    "MLPotCalculator": ("mlpot.calculator", "MLPotCalculator"),
    "Potential": ("mlpot.potential", "Potential"),
    "Properties": ("mlpot.graph", "Properties"),
    "build_graph": ("mlpot.neighbors", "build_graph"),
    "load": ("mlpot.model_file", "load_potential"),
    "predict": ("mlpot.forces", "predict"),
    "save": ("mlpot.model_file", "save_potential"),
}

__all__ = [
    "AtomGraph",
    "MLPotCalculator",
    "Potential",
    "Properties",
    "__version__",
    "build_graph",
    "load",
    "predict",
    "save",
]


def __getattr__(name: str) -> Any:
    """Public names are fetched when they are first used, so that `import mlpot` stays light."""
    if name not in _HOME:
        raise AttributeError(f"module 'mlpot' has no attribute {name!r}")
    module, attribute = _HOME[name]
    return getattr(importlib.import_module(module), attribute)
