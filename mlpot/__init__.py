"""mlpot: machine-learned interatomic potentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlpot.version import __version__

if TYPE_CHECKING:
    from mlpot.calculator import MLPotCalculator
    from mlpot.data.sources.read import read
    from mlpot.forces import predict
    from mlpot.graph import AtomGraph, Properties
    from mlpot.model_file import load_potential as load
    from mlpot.model_file import save_potential as save
    from mlpot.neighbors import build_graph
    from mlpot.potential import Potential
    from mlpot.training.train import train

__all__ = [
    "AtomGraph",
    "MLPotCalculator",
    "Potential",
    "Properties",
    "__version__",
    "build_graph",
    "load",
    "predict",
    "read",
    "save",
    "train",
]


def __dir__() -> list[str]:
    """The public names, those too that nobody has used yet."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Public names are fetched when they are first used, so that `import mlpot` stays light."""
    match name:
        case "AtomGraph" | "Properties":
            from mlpot import graph

            return {"AtomGraph": graph.AtomGraph, "Properties": graph.Properties}[name]
        case "MLPotCalculator":
            from mlpot import calculator

            return calculator.MLPotCalculator
        case "Potential":
            from mlpot import potential

            return potential.Potential
        case "build_graph":
            from mlpot import neighbors

            return neighbors.build_graph
        case "load" | "save":
            from mlpot import model_file

            return {"load": model_file.load_potential, "save": model_file.save_potential}[name]
        case "predict":
            from mlpot import forces

            return forces.predict
        case "read":
            from mlpot.data.sources import read

            return read.read
        case "train":
            from mlpot.training import train

            return train.train
    raise AttributeError(f"module 'mlpot' has no attribute {name!r}")
