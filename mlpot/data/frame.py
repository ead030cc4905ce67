"""One labeled structure: as an `ase.Atoms` for people, as numpy arrays for files and trainers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray

from mlpot.data.constraints import constraints_of, held_coordinates, holds_center
from mlpot.data.errors import LabelError
from mlpot.data.stress_labels import learnable

Floats = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]
"""The arrays of one frame under the names that `layout.COLUMNS` keeps; an absent label is an absent key."""

VOIGT = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])  # place of each tensor element in xx, yy, zz, yz, xz, xy
OF_ATOMS = {"mass": "masses", "charge": "initial_charges"}  # column -> array of ASE: u, e
WEIGHT = "config_weight"  # in `info`, as GAP and MACE call it: how much a frame counts in the loss
LARGEST = 1e12  # in house units; what is larger stands for no value, as 1e37 of NetCDF, or has another unit
SPREADS = ("energy_std", "forces_std")  # beside predictions of a committee, as the calculator calls them
ISOLATED = 8.0  # Å, from an atom to its nearest periodic image: beyond, it is isolated
ISOLATED_FAMILIES = {"isolated", *(f"{word}atom{s}" for word in ("isolated", "single", "free") for s in ("", "s"))}
"""Of GAP, MACE and others, without signs, in lower case."""
OF_STATE = {"total_charge": "charge", "total_spin": "spin"}  # column -> name in info
ASE_VELOCITY = float(units.fs)  # Å/fs; one unit of ASE's velocities, sqrt(eV/u)


@dataclass(frozen=True, slots=True)
class Frame:
    """One structure with its labels; NaN where a label is missing."""

    numbers: NDArray[np.int64]  # (n_atoms,)
    positions: Floats  # (n_atoms, 3) Å
    cell: Floats  # (3, 3) Å, rows are cell vectors
    pbc: NDArray[np.bool_]  # (3,)
    energy: float  # eV
    forces: Floats  # (n_atoms, 3) eV/Å; NaN too where the force mask is False
    stress: Floats  # (3, 3) eV/Å³; of slabs and wires zero across the periodic directions
    group: str | None  # the family of structures it belongs to
    charge: float = np.nan  # of the whole structure, e
    spin: float = np.nan  # of the whole structure, as its source counts it
    weight: float = 1.0  # how much it counts in the loss, beside the others

    @property
    def is_isolated(self) -> bool:
        """Whether it is one isolated atom, whose energy is a reference energy."""
        return is_isolated(len(self.numbers), self.pbc, self.cell, self.group)

    @property
    def is_ion(self) -> bool:
        """Whether it is one isolated atom with a charge, as far as charges are known."""
        return self.is_isolated and bool(np.isfinite(self.charge) and self.charge)

    @property
    def reference_energy(self) -> float:
        """Energy of an isolated atom, eV; NaN of everything else, ions too."""
        return self.energy if self.is_isolated and not self.is_ion else np.nan

    @property
    def has_stress(self) -> bool:
        """Whether there is a stress that a potential can learn, see `stress_labels`."""
        return bool(np.isfinite(self.stress).any())


def is_isolated(n_atoms: int, pbc: NDArray[np.bool_], cell: Floats, group: str | None) -> bool:
    """Whether a frame is one isolated atom, in the open or in a periodic box, so that its energy is a reference.

    An atom in a box is isolated if its nearest image is farther than `ISOLATED` Å, or if its family says so.

    Args:
        n_atoms: of the frame.
        pbc: (3,) periodic directions.
        cell: (3, 3) Å.
        group: the family of the frame.
    """
    if n_atoms != 1:
        return False
    own = (group or "").rpartition(": ")[2]  # a set of several sources has the name of the source before it
    if not pbc.any() or re.sub(r"[^a-z]", "", own.lower()) in ISOLATED_FAMILIES:
        return True
    if np.linalg.norm(cell[pbc], axis=1).min() <= ISOLATED or np.linalg.matrix_rank(cell[pbc]) < pbc.sum():
        return False
    shortest = minkowski_reduce(cell, pbc)[0][pbc]  # the shortest lattice vector is among the reduced ones
    return bool(np.linalg.norm(shortest, axis=1).min() > ISOLATED)


def frame_of(atoms: Atoms) -> Frame:
    """The record of a structure, with the labels of its calculator.

    Raises:
        LabelError: a value is not finite, or has the wrong shape or type.
    """
    return frame_of_columns(columns_of(atoms, 0), atoms.pbc, family(atoms))


def frame_of_columns(columns: Mapping[str, NDArray[Any]], pbc: NDArray[np.bool_], group: str | None) -> Frame:
    """The record made of the columns of one frame."""
    numbers = columns["species"].astype(np.int64)
    forces = columns.get("forces")
    if forces is None:
        forces = np.full((len(numbers), 3), np.nan)
    elif "force_mask" in columns and not columns["force_mask"].all():
        forces = np.where(columns["force_mask"][:, None], forces, np.nan)
    stress = columns.get("stress")
    return Frame(
        numbers=numbers,
        positions=columns["position"],
        cell=columns["edges"],
        pbc=pbc,
        energy=float(columns.get("energy", np.nan)),
        forces=forces,
        stress=np.full((3, 3), np.nan) if stress is None else learnable(stress[VOIGT], pbc, columns["edges"]),
        group=group,
        charge=float(columns.get("total_charge", np.nan)),
        spin=float(columns.get("total_spin", np.nan)),
        weight=float(columns.get("weight", 1.0)),
    )


def columns_of(atoms: Atoms, index: int) -> Columns:
    """The checked columns of one structure; `index` names the frame in errors.

    Raises:
        LabelError: a value is not finite or absurdly large, or has the wrong shape or type.
    """
    n = len(atoms)
    if n == 0:
        raise LabelError(f"Frame {index} has no atoms. Remove the empty frame.")
    if atoms.numbers.min() < 1 or atoms.numbers.max() > 118:
        odd = sorted({number for number in atoms.numbers.tolist() if not 1 <= number <= 118})
        raise LabelError(
            f"Frame {index} has atomic numbers outside 1-118: {odd} (0 is written X). Name the elements of these "
            "atoms in the file, or remove what are no atoms."
        )
    columns: Columns = {
        "species": atoms.numbers.astype(np.uint8),
        "position": _checked("positions", atoms.positions, (n, 3), index),
        "edges": _checked("cell", atoms.cell.array, (3, 3), index),
    }
    if atoms.has("momenta"):
        velocities = _checked("velocities", atoms.get_velocities(), (n, 3), index)
        columns["velocity"] = velocities * ASE_VELOCITY
    for key, name in OF_ATOMS.items():
        if atoms.has(name):
            columns[key] = _checked(name, atoms.arrays[name], (n,), index)
    if (held := held_coordinates(atoms)).any():
        columns["fixed"] = held
    if holds_center(atoms):
        columns["fixed_center"] = np.array(True)
    if atoms.has("force_mask"):
        columns["force_mask"] = _mask(atoms.arrays["force_mask"], n, index)
    of_results = {"energy": (), "forces": (n, 3), "stress": (6,), "energy_std": (), "forces_std": (n, 3)}
    for name, shape in of_results.items():
        value = _label(atoms, name)
        if value is not None:
            columns[name] = _checked(name, value, shape, index)
    for name in ("step", "time"):
        if name in atoms.info:
            columns[name] = _checked(name, atoms.info[name], (), index)
    for key, name in OF_STATE.items():
        if name in atoms.info:
            columns[key] = _checked(name, atoms.info[name], (), index)
    if WEIGHT in atoms.info:
        columns["weight"] = _checked(WEIGHT, atoms.info[WEIGHT], (), index)
        if columns["weight"] < 0:
            raise LabelError(
                f"Frame {index}: {WEIGHT} is {atoms.info[WEIGHT]}. Give a number that is not negative."
            )
    return columns


def atoms_of(columns: Mapping[str, NDArray[Any]], pbc: NDArray[np.bool_], group: str | None) -> Atoms:
    """The structure made of the columns of one frame, with a calculator that holds the labels."""
    atoms = Atoms(columns["species"], positions=columns["position"], cell=columns["edges"], pbc=pbc)
    for key, name in OF_ATOMS.items():  # masses before velocities, of which momenta are made
        if key in columns:
            atoms.set_array(name, columns[key])
    if "velocity" in columns:
        atoms.set_velocities(columns["velocity"] / ASE_VELOCITY)
    if "force_mask" in columns:
        atoms.set_array("force_mask", columns["force_mask"])
    if "fixed" in columns or "fixed_center" in columns:
        held = columns.get("fixed", np.zeros((len(atoms), 3), dtype=bool))
        atoms.set_constraint(constraints_of(held, bool(columns.get("fixed_center", False))))
    if "time" in columns:
        atoms.info["time"], atoms.info["step"] = float(columns["time"]), int(columns["step"])
    for key, name in OF_STATE.items():
        if key in columns:
            atoms.info[name] = float(columns[key])
    if group is not None:
        atoms.info["group"] = group
    if "weight" in columns:
        atoms.info[WEIGHT] = float(columns["weight"])
    labels: dict[str, Any] = {k: columns[k] for k in ("energy", "forces", "stress", *SPREADS) if k in columns}
    labels |= {name: float(labels[name]) for name in ("energy", "energy_std") if name in labels}
    if labels:
        atoms.calc = results_of(atoms, labels)
    return atoms


def results_of(atoms: Atoms, results: Mapping[str, Any]) -> SinglePointCalculator:
    """A calculator that holds results of a structure, those of a committee too, which ASE would refuse."""
    calculator = SinglePointCalculator(atoms, **{k: value for k, value in results.items() if k not in SPREADS})
    calculator.results |= {name: results[name] for name in SPREADS if name in results}
    return calculator


def family(atoms: Atoms) -> str | None:
    """The name of the family of structures that a frame belongs to."""
    name = atoms.info.get("group")
    return None if name is None else str(name)


def _label(atoms: Atoms, name: str) -> Any:
    results = {} if atoms.calc is None else atoms.calc.results
    value = results.get(name)
    if name == "stress" and value is not None and np.shape(value) == (3, 3):
        value = np.asarray(value)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return value


def _checked(name: str, value: Any, shape: tuple[int, ...], index: int) -> Floats:
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" or array.dtype == np.float16:
        raise LabelError(
            f"Frame {index}: {name} has type {array.dtype}, expected float64 or float32. "
            "Convert it before writing; half precision cannot hold a label."
        )
    if array.shape != shape:
        raise LabelError(f"Frame {index}: {name} has shape {array.shape}, expected {shape}. Correct the frame.")
    if not np.isfinite(array).all():
        raise LabelError(
            f"Frame {index}: {name} is not finite. Remove the frame, or remove the label if it is missing."
        )
    if not believable(array).all():
        raise LabelError(
            f"Frame {index}: {name} is {array.flat[np.abs(array).argmax()]:g}, above {LARGEST:g}: it stands for "
            "no value, or is in another unit. Remove the frame or the label, or give the unit."
        )
    return array.astype(np.float64)


def believable(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which values are numbers, and of a size that a quantity in house units can have."""
    return np.asarray(np.abs(values) <= LARGEST)


def _mask(value: NDArray[Any], n: int, index: int) -> NDArray[np.bool_]:
    if value.dtype != bool or value.shape != (n,):
        raise LabelError(
            f"Frame {index}: force_mask has type {value.dtype} and shape {value.shape}, expected bool ({n},). "
            "Give one truth value per atom."
        )
    return value
