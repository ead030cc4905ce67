"""Turn a structure as ASE reads it into a frame: which of its names are labels, and in which units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.cell import Cell
from ase.constraints import FixAtoms, FixCartesian, FixCom, FixedLine, FixedPlane, FixScaled
from ase.data import atomic_masses
from numpy.typing import NDArray

from mlpot.data.constraints import constraints_of, is_mask
from mlpot.data.errors import KeysError, LabelError
from mlpot.data.frame import VOIGT, WEIGHT
from mlpot.data.sources.consistency import check_agreement, check_apart
from mlpot.data.sources.label_weights import NOT_THERE, NOT_USED, has_no_weight, label_weights
from mlpot.data.sources.names import DERIVED, KNOWN, MEASURED_IN, NONE, PER_ATOM, UNIT, Questions, looks_like
from mlpot.data.sources.reading import Reading, boundary_of
from mlpot.data.sources.report import KEPT_IN_INFO, Report
from mlpot.data.sources.said_units import READ, said_unit
from mlpot.data.sources.shapes import charge_of_columns, check_arrays, check_label, fits, with_nan
from mlpot.data.stress_labels import NO_VOLUME, NO_VOLUME_ZERO, has_volume
from mlpot.data.unit_names import factor

HOLDS_ATOMS = (FixAtoms, FixCartesian, FixScaled, FixedPlane, FixedLine)
PER_ATOM_TAKEN = "{!r} is an energy per atom by its name; --correct energy=eV*n_atoms makes that of a frame of it"
SIX_NUMBERS = (
    "six numbers of {!r} taken as xx yy zz yz xz xy; --correct voigt=xx,yy,zz,xy,yz,xz says another order"
)
EV = ("energy", "free_energy", "forces", "stress", "virial", "positions")  # ASE's, whose units are known
FREE_ENERGY = (
    "energy taken from 'free_energy', whose derivative the forces are, not from 'energy'; --key "
    "energy=energy takes that one"
)
ONLY_FREE_ENERGY = "energy taken from 'free_energy', as there is no 'energy'"
WEIGHT_TAKEN = f"{WEIGHT} taken as the weight of the frame in the loss; --key weight={NONE} takes none"
NO_WEIGHT = f"{WEIGHT} left out, as it is no number of at least 0"
MASSES = "masses other than the standard ones kept"
OWN_NAMES = {
    "numbers", "positions", "momenta", "masses", "force_mask", "tags", "free_energy", "group", "config_type",
    "unique_id", "calculator", "calculator_parameters", WEIGHT,
}  # fmt: skip
"""What is used, or says nothing of the structure."""
OF_CP2K = {"i", "time", "E"}  # the comment of its trajectories, whatever the name of the file
CLOCKS = {name: f"input_{name}" for name in ("time", "step")}
"""A time of no known unit, and a step of no known run, are kept under names that claim nothing."""
Pool = Mapping[str, Any]
"""Everything that a structure carries by name: per-atom arrays, info, and results of a calculator."""


class Interpreter:
    """Reads the names of the structures of one file as its user and ASE's conventions say.

    Args:
        path: names the file in messages.
        reading: what the user says of the file.
        report: takes what is left out.
        questions: takes what is left open.
    """

    def __init__(self, path: str, reading: Reading, report: Report, questions: Questions):
        self.path, self.reading, self.report, self.questions = path, reading, report, questions
        self.found: set[str] = set()  # quantities whose given name was there in a frame
        self.names: set[str] = set()  # all names that were seen
        self._claimed = {name.removeprefix("-") for name in reading.keys.values()}
        self._used = {*self._claimed, *OWN_NAMES}
        self._of_atoms: set[str] = set()  # names of columns of the present structure, which are of no frame

    def structure(self, k: int, atoms: Atoms) -> Atoms:
        """Frame k in house units: without labels if nobody asked for them, then with all else that it carries."""
        pool = self._pool(atoms)
        self._of_atoms = {name for name, array in atoms.arrays.items() if pool[name] is array}
        self.names |= pool.keys()
        self.found |= {key for key, name in self.reading.keys.items() if name.removeprefix("-") in pool}
        clean = self._bare(k, atoms, pool)
        if pool.keys() >= OF_CP2K:
            self.questions.likely_units["energy"] = "hartree"
        if not pool.keys() & {"energy", "forces"}:
            check_apart(f"{self.path}, frame {k}", clean.positions)
        if KEPT_IN_INFO in atoms.info:
            self.report.potential = str(atoms.info[KEPT_IN_INFO])
            self._used.add(KEPT_IN_INFO)
        family = self._value("group", pool, ("group", "config_type"))
        if family is not None:
            clean.info["group"] = str(family)
        self._weigh(k, clean, pool)
        for quantity in ("charge", "spin"):
            value = self._state(k, quantity, pool)
            if self.reading.labels and quantity not in self.reading.keys:
                self._ask(k, quantity, pool, _is_number)
            if value is not None:
                clean.info[quantity] = value
        if not self.reading.labels:
            clean.set_constraint(atoms.constraints)
            kept = {name: value for name, value in atoms.info.items() if name not in (WEIGHT, "force_mask")}
            clean.info = {**{CLOCKS.get(name, name): value for name, value in kept.items()}, **clean.info}
            return clean
        held = self._held(k, pool)
        mask = self._force_mask(k, atoms, pool) & (self.reading.raw_forces | ~held.any(axis=1))
        if not mask.all():
            clean.set_array("force_mask", mask)
        clean.set_constraint([c for c in atoms.constraints if isinstance(c, (*HOLDS_ATOMS, FixCom))])
        if len(clean.constraints) < len(atoms.constraints):
            names = {type(c).__name__ for c in atoms.constraints if not isinstance(c, (*HOLDS_ATOMS, FixCom))}
            self.report.note(f"constraints left out ({', '.join(sorted(names))})", k)
        if held.any():
            clean.set_constraint([*clean.constraints, *constraints_of(held)])
        if labels := self._labels(k, clean, pool):
            clean.calc = SinglePointCalculator(clean, **labels)
        self.report.unused.update(pool.keys() - self._used)
        return clean

    def _pool(self, atoms: Atoms) -> dict[str, Any]:
        """By name; a row of ASE's database keeps its own names one level deeper."""
        info = dict(atoms.info)
        for inner in ("key_value_pairs", "data"):
            if isinstance(info.get(inner), Mapping):
                info = {**info.pop(inner), **info}
        pool = {**atoms.arrays, **info, **({} if atoms.calc is None else atoms.calc.results)}
        return with_nan(pool, ("energy", "free_energy", *self._claimed))

    def _value(self, quantity: str, pool: Pool, known: Iterable[str]) -> Any:
        """What is kept under the name given for a quantity, or under one that is known."""
        name = self.reading.keys.get(quantity)
        if name is not None:
            return pool.get(name)
        return next((pool[name] for name in known if name in pool), None)

    def _bare(self, k: int, atoms: Atoms, pool: Pool) -> Atoms:
        """Positions, cell, boundary, momenta and masses."""
        check_arrays(f"{self.path}, frame {k}", atoms)
        length = self._scale(k, "positions", "positions", pool)
        cell, pbc = atoms.cell.array * length, atoms.pbc
        given, asked = self._value("cell", pool, ()), False
        if given is not None and self.reading.keys["cell"] != NONE:
            cell = _cell(f"{self.path}, frame {k}", given) * self._scale(
                k, "cell", self.reading.keys["cell"], pool
            )
        elif "cell" not in self.reading.keys:
            asked = self._ask(k, "cell", pool, lambda value: _is_another_cell(value, atoms.cell))
        said = self._value("pbc", pool, ())
        if self.reading.pbc is not None:
            pbc = boundary_of(self.reading.pbc)
        elif said is not None:
            pbc = boundary_of(said)
        elif "pbc" not in self.reading.keys:
            self._ask(k, "pbc", pool, lambda value: _is_another_boundary(value, atoms.pbc))
            if (asked or given is not None) and not pbc.any() and self.questions.unknown_boundary is None:
                self.questions.unknown_boundary = k
        clean = Atoms(atoms.numbers, atoms.positions * length, cell=cell, pbc=pbc)
        if not self.reading.labels:
            for name in atoms.arrays.keys() - {"numbers", "positions"}:
                clean.set_array(name, atoms.arrays[name])
        if atoms.has("masses"):
            clean.set_masses(atoms.get_masses())
            if not np.allclose(atoms.get_masses(), atomic_masses[atoms.numbers], rtol=2e-3):
                self.report.note(MASSES, k)
        if atoms.has("momenta"):
            clean.set_momenta(atoms.get_momenta())
        return clean

    def _labels(self, k: int, clean: Atoms, pool: Pool) -> dict[str, Any]:
        """Energy, forces and stress in house units, as far as they are there."""
        absent = self._absent(k, pool)
        labels = {
            key: None if key in absent else self._label(k, key, pool, len(clean))
            for key in ("energy", "forces", "stress")
        }
        virial = self._virial(k, labels["stress"], pool, clean) if "virial" not in absent else None
        if (virial is not None or labels["stress"] is not None) and not has_volume(clean.pbc, clean.cell.array):
            label = virial if labels["stress"] is None else labels["stress"]
            labels["stress"] = None
            self.report.note(NO_VOLUME if np.any(label) else NO_VOLUME_ZERO, k)
        elif virial is not None:
            labels["stress"] = -_tensor(virial) / clean.get_volume()
        if "energy" not in {*self.reading.keys, *absent} and pool.get("free_energy") is not None:
            free, energy = self._scaled(k, "energy", "free_energy", pool), labels["energy"]
            if energy is None or (labels["forces"] is not None and abs(free - energy) > 1e-6):
                labels["energy"] = free
                self.report.note(ONLY_FREE_ENERGY if energy is None else FREE_ENERGY, k)
        return {key: value for key, value in labels.items() if value is not None}

    def _virial(self, k: int, stress: Any, pool: Pool, clean: Atoms) -> Any:
        """The virial where there is no stress; beside a stress, it must say the same."""
        if stress is None:
            return self._label(k, "virial", pool, len(clean))
        name = self.reading.keys.get("virial", "virial")
        if pool.get(name.removeprefix("-")) is not None and has_volume(clean.pbc, clean.cell.array):
            virial = self._label(k, "virial", pool, len(clean))
            if np.size(stress) in (6, 9) and np.size(virial) in (6, 9):
                where = f"{self.path}, frame {k}"
                check_agreement(where, _tensor(stress), _tensor(virial), clean.get_volume())
        return None

    def _weigh(self, k: int, clean: Atoms, pool: Pool) -> None:
        """Keep how much a frame counts in the loss."""
        weight = self._value("weight", pool, (WEIGHT,))
        if weight is None:
            return
        if not (_is_number(weight) and 0 <= float(np.ravel(weight)[0]) < np.inf):
            if self.reading.labels:
                raise LabelError(
                    f"{self.path}, frame {k}: the weight {self.reading.keys.get('weight', WEIGHT)} is {weight!r}, "
                    f"expected a number that is not negative. Correct it, or leave it out: --key weight={NONE}."
                )
            self.report.note(NO_WEIGHT, k)
            return
        clean.info[WEIGHT] = float(np.ravel(weight)[0])
        if "weight" not in self.reading.keys and self.reading.labels and not _equal(weight, 1.0):
            self.report.note(WEIGHT_TAKEN, k)

    def _absent(self, k: int, pool: Pool) -> set[str]:
        """Labels that are not there, as their weight in the file is 0."""
        absent = set()
        for name, (key, is_one) in label_weights(f"{self.path}, frame {k}", pool).items():
            if name in self._claimed:
                continue
            label = self.reading.keys.get(key, key).removeprefix("-")
            if has_no_weight(pool[name]):
                absent.add(key)
                self._used |= {label, name}
                if pool.get(label) is not None:
                    self.report.note(NOT_THERE.format(key, name), k)
            elif is_one:
                self._used.add(name)
            else:
                self.report.note(NOT_USED.format(name, name), k)
        return absent

    def _label(self, k: int, key: str, pool: Pool, n_atoms: int) -> Any:
        """A label in house units, None where the frame has none."""
        if key not in self.reading.keys:
            answered = {"stress": "virial", "virial": "stress"}.get(key)
            if answered not in self.reading.keys:
                self._ask(k, key, pool, lambda value: fits(key, value, n_atoms))
            name = key
        else:
            name = self.reading.keys[key]
            if key == "stress" and looks_like("virial", name):
                raise KeysError(
                    f"{name!r} is a virial by its name, and no stress: --key virial={name} --unit energy=eV makes "
                    "stress = -virial/volume of it."
                )
        self._used.add(name.removeprefix("-"))
        return None if pool.get(name.removeprefix("-")) is None else self._scaled(k, key, name, pool)

    def _scaled(self, k: int, key: str, name: str, pool: Pool) -> Any:
        sign, plain = (-1.0, name[1:]) if name.startswith("-") else (1.0, name)
        value = pool[plain]
        where, is_column = f"{self.path}, frame {k}", plain in self._of_atoms
        check_label(where, key, plain, value, len(pool["numbers"]), is_column=is_column)
        if key in ("stress", "virial") and np.size(value) == 6 and plain != "stress":
            self.report.note(SIX_NUMBERS.format(plain), k)
        if key == "energy" and PER_ATOM.search(plain):
            self.report.note(PER_ATOM_TAKEN.format(plain), k)
        scale = sign * self._scale(k, key, plain, pool)
        if key == "stress" and np.size(value) == 9:
            value = np.reshape(value, (3, 3))
        return float(np.ravel(value)[0]) * scale if key == "energy" else np.asarray(value) * scale

    def _scale(self, k: int, key: str, name: str, pool: Pool) -> float:
        scale = self.report.scales[key] = self._unit_of(k, key, name, pool)
        return scale

    def _unit_of(self, k: int, key: str, name: str, pool: Pool) -> float:
        """House units in one unit of the file; a question where it is unknown, or the file says another."""
        quantity, units = MEASURED_IN.get(key, key), self.reading.units
        for said in (key, quantity):
            if said in units:
                return factor(quantity, units[said])
        written = said_unit(key, name, pool)
        if written is not None and written.scale is not None:
            self.report.note(READ.format(key, written.unit, written.by, UNIT[key]), k)
            self._used.add(written.by)
            return written.scale
        if name not in EV or written is not None:
            self.questions.unknown_units.setdefault(key, name)
        if written is not None:
            self.questions.said_units.setdefault(key, written.unit)
        return 1.0

    def _ask(self, k: int, quantity: str, pool: Pool, fits: Callable[[Any], bool]) -> bool:
        """Whether another name than the usual could be the quantity; the question is noted."""
        usual = [name for name in KNOWN[quantity] if name in pool]
        per_atom = quantity == "forces"
        rivals = [
            name
            for name, value in pool.items()
            if name not in usual
            and name not in self._claimed
            and name != "free_energy"
            and (per_atom or quantity == "fixed" or name not in self._of_atoms)
            and looks_like(quantity, name)
            and (quantity != "stress" or not looks_like("virial", name))
            and (
                per_atom
                or quantity in ("cell", "pbc", "fixed")
                or np.ndim(value) < 2
                or np.size(value) != len(pool["numbers"])
            )
            and fits(value)
            and not any(_equal(value, pool[name]) for name in usual)
            and not (usual and PER_ATOM.search(name))
        ]
        if rivals:
            self.questions.ask(quantity, [*usual, *sorted(rivals, key=lambda n: bool(DERIVED.search(n)))], k)
        return bool(rivals)

    def _state(self, k: int, quantity: str, pool: Pool) -> float | None:
        """Total charge or spin, which the potential cannot see; a question where two names say two charges."""
        given = self.reading.keys.get(quantity)
        names: Sequence[str] = KNOWN[quantity] if given is None else (given,)
        if text := [name for name in names if isinstance(pool.get(name), str)]:
            raise LabelError(
                f"{self.path}, frame {k}: {text[0]} is {pool[text[0]]!r}, expected a number. Correct the file, or "
                f"leave it out: --key {quantity}={NONE}."
            )
        names = [name for name in names if _is_number(pool.get(name))]
        if not names:
            is_open = quantity == "charge" and given is None
            return charge_of_columns(pool, whole=True) if is_open else None
        same = [name for name in names if _equal(pool[name], pool[names[0]])]
        self._used |= set(same)
        if len(same) < len(names) and quantity == "charge":  # spins are counted in several ways
            self.questions.ask(quantity, names, k)
        return float(np.ravel(pool[names[0]])[0])

    def _held(self, k: int, pool: Pool) -> NDArray[np.bool_]:
        """(n_atoms, 3) coordinates that are held by a column of the file, such as `fixed`, if the user says so."""
        n, name = len(pool["numbers"]), self.reading.keys.get("fixed", NONE)
        held = np.zeros((n, 3), dtype=bool)
        if "fixed" not in self.reading.keys:
            self._ask(k, "fixed", pool, lambda value: is_mask(value, n))
        elif name != NONE and (value := pool.get(name.removeprefix("-"))) is not None:
            if not is_mask(value, n):
                raise LabelError(
                    f"{self.path}, frame {k}: {name.removeprefix('-')} does not say of each atom, or each "
                    "coordinate, whether it is held. Correct --key."
                )
            held |= (np.asarray(value).reshape(n, -1) == 1) != name.startswith("-")
        return held

    def _force_mask(self, k: int, atoms: Atoms, pool: Pool) -> NDArray[np.bool_]:
        """Which forces are labels: as the file says, or where no constraint holds, as codes write zeros there."""
        given = pool.get("force_mask")
        mask = np.ones(len(atoms), dtype=bool) if given is None else np.asarray(given).astype(bool)
        if self.reading.raw_forces or given is not None:
            return mask
        for constraint in atoms.constraints:
            if not isinstance(constraint, HOLDS_ATOMS):
                raise LabelError(
                    f"{self.path}, frame {k}: forces under the constraint {type(constraint).__name__} may not be "
                    "those of the potential. If they are (ASE's .traj, .json and .db keep them so): --raw-forces."
                )
            if not isinstance(constraint, FixCartesian) or np.any(constraint.mask):
                mask[constraint.get_indices()] = False
        return mask


def _tensor(values: Any) -> NDArray[np.float64]:
    """(3, 3) of nine components, or of six in ASE's order."""
    return np.asarray(values)[VOIGT] if np.size(values) == 6 else np.reshape(values, (3, 3))


def _is_number(value: Any) -> bool:
    return value is not None and np.size(value) == 1 and np.asarray(value).dtype.kind in "iuf"


def _equal(value: Any, usual: Any) -> bool:
    a, b = np.ravel(np.asarray(value)), np.ravel(np.asarray(usual))
    return a.shape == b.shape and a.dtype.kind in "iufb" and b.dtype.kind in "iufb" and np.allclose(a, b, 1e-9, 0)


def _cell(where: str, value: Any) -> NDArray[np.float64]:
    """Three vectors of a cell given as such, as lengths, or as lengths and angles."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" or array.size not in (1, 3, 6, 9):
        raise LabelError(f"{where}: {value!r} is no cell. Give three lengths, or nine numbers, or correct --key.")
    return np.asarray(
        Cell.new(array.reshape(3, 3) if array.size == 9 else array.ravel() * np.ones(max(3, array.size)))
    )


def _is_another_cell(value: Any, cell: Cell) -> bool:
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" or array.size not in (3, 6, 9) or not array.any():
        return False
    return not np.allclose(_cell("", value), cell.array, atol=1e-4)


def _is_another_boundary(value: Any, pbc: NDArray[np.bool_]) -> bool:
    try:
        return not np.array_equal(boundary_of(value), pbc)
    except ValueError:
        return False
