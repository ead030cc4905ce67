"""Everything that a run changes from step to step: copied, restored and stored to the last bit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from mlpot.data.constraints import constraints_of, held_coordinates, holds_center
from mlpot.dynamics.ensembles import Ensemble

CHAIN = ("_thermostat._eta", "_thermostat._p_eta")
PISTON = (*CHAIN, "_barostat._xi", "_barostat._p_xi")
INTEGRATOR = {
    "nve": (),
    "langevin": (),
    "bussi": ("transferred_energy",),
    "nose-hoover": ("_q", "_p", *CHAIN),
    "npt-isotropic": ("_q", "_p", "_eps", "_p_eps", "_cell0", "_volume0", *PISTON),
    "npt": ("_q", "_p", "_h", "_p_g", *PISTON),
}
"""The variables of ASE's integrators beside the atoms; Langevin's accelerations follow from the positions."""


@dataclass(frozen=True)
class State:
    """Everything that is needed to return to a step."""

    positions: NDArray[np.float64]
    momenta: NDArray[np.float64]
    cell: NDArray[np.float64]
    integrator: dict[str, Any]
    rng: dict[str, Any]
    results: dict[str, Any]  # the calculator makes a new one for each calculation

    @classmethod
    def of(cls, atoms: Atoms, ensemble: Ensemble, rng: np.random.Generator) -> State:
        """The state as it is now, copied."""
        return cls(
            atoms.positions.copy(),
            atoms.get_momenta(),
            atoms.cell.array.copy(),
            cls.of_integrator(ensemble),
            dict(rng.bit_generator.state),
            {} if atoms.calc is None else atoms.calc.results,
        )

    @staticmethod
    def of_integrator(ensemble: Ensemble) -> dict[str, Any]:
        """The variables of an integrator beside the atoms, copied."""
        paths, dynamics = INTEGRATOR[ensemble.name], ensemble.dynamics
        return {path: np.copy(reduce(getattr, path.split("."), dynamics)) for path in paths}

    def put_back(self, atoms: Atoms, ensemble: Ensemble, rng: np.random.Generator) -> None:
        """Make atoms, integrator and random numbers as they were."""
        self.place(atoms)
        rng.bit_generator.state = self.rng
        for path in INTEGRATOR[ensemble.name]:
            value, (*owners, name) = self.integrator[path], path.split(".")
            owner = reduce(getattr, owners, ensemble.dynamics)
            setattr(owner, name, value.copy() if value.ndim else float(value))
        if ensemble.name == "langevin":
            ensemble.dynamics._update_accel()

    def place(self, atoms: Atoms) -> None:
        """Restore the positions; constraints do not apply."""
        atoms.set_cell(self.cell)
        atoms.positions[:] = self.positions
        atoms.set_momenta(self.momenta, apply_constraint=False)

    def frame(self, atoms: Atoms) -> Atoms:
        """The atoms in this state, with what was computed for it."""
        copy = atoms.copy()
        self.place(copy)
        copy.calc = SinglePointCalculator(copy, **self.results)
        return copy

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arguments of `stored` beside the random state."""
        own = {"positions": self.positions, "momenta": self.momenta, "cell": self.cell}
        return own | {f"integrator.{path}": value for path, value in self.integrator.items()}

    @classmethod
    def stored(cls, arrays: dict[str, NDArray[Any]], rng: dict[str, Any]) -> State:
        """A state from its arrays."""
        integrator = {k.removeprefix("integrator."): v for k, v in arrays.items() if k.startswith("integrator.")}
        return cls(arrays["positions"], arrays["momenta"], arrays["cell"], integrator, rng, {})


def identity(atoms: Atoms) -> dict[str, NDArray[Any]]:
    """The properties of the atoms that no step changes."""
    return {
        "numbers": atoms.numbers,
        "masses": atoms.get_masses(),
        "pbc": atoms.pbc,
        "held": held_coordinates(atoms),
        "center": np.array(holds_center(atoms)),
    }


def identical(arrays: dict[str, NDArray[Any]]) -> Atoms:
    """The atoms with an identity and a state."""
    atoms = Atoms(arrays["numbers"], arrays["positions"], cell=arrays["cell"], pbc=arrays["pbc"])
    atoms.set_masses(arrays["masses"])
    atoms.set_constraint(constraints_of(_held(arrays), bool(arrays.get("center", False))))
    atoms.set_momenta(arrays["momenta"], apply_constraint=False)
    return atoms


def _held(arrays: dict[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """The coordinates that are held; checkpoints of earlier versions name whole atoms."""
    if "held" in arrays:
        return arrays["held"].astype(bool)
    held = np.zeros(arrays["positions"].shape, dtype=bool)
    held[arrays["fixed"]] = True
    return held
