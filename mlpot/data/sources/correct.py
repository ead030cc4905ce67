"""Correct wrong units, signs and orders of a file, and leave out unwanted frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from mlpot.data.check.check import tally
from mlpot.data.check.duplicates import repeated, shared
from mlpot.data.errors import KeysError, LabelError, UnitsError
from mlpot.data.frame import family, is_isolated, results_of
from mlpot.data.sources.read import Source
from mlpot.data.stress_labels import has_volume
from mlpot.data.unit_names import H5MD_UNITS, factor

PER_ATOM = "*n_atoms"
VOIGT = ("xx", "yy", "zz", "yz", "xz", "xy")
TARGETS = ("positions", "cell", "energy", "isolated", "forces", "stress", "voigt")


def corrected(
    source: Source, frames: Iterable[Atoms], corrections: Mapping[str, str], hold: Sequence[int] = ()
) -> Iterator[Atoms]:
    """Frames with their numbers in the right units, whatever units the file states.

    Args:
        source: where the frames are from.
        frames: read with the units that the file or its user claims. A correction takes the place of such a unit,
            but for one that turns the sign of house units, or makes energies of energies an atom: it comes on top.
        corrections: by quantity ("positions", "cell", "energy", "forces", "stress"; "isolated" for those
            of isolated atoms alone), the unit its numbers really are in; a leading minus turns the sign. Besides,
            energy="eV*n_atoms" for energies an atom, stress="virial" for −V σ in eV, voigt="xx,yy,zz,xy,yz,xz" for
            the order of components.
        hold: atoms whose forces are not to be learned, in frames that have as many.

    Raises:
        KeysError: an unknown quantity; UnitsError: an unknown unit; LabelError: an order that is none.
    """
    if unknown := set(corrections) - set(TARGETS):
        raise KeysError(f"There is no {sorted(unknown)} to correct. Choose among: {', '.join(TARGETS)}.")
    scale = {target: _factor(target, unit) for target, unit in corrections.items() if target != "voigt"}
    replaced = {target for target in scale if _is_other_unit(scale[target], corrections[target])}
    for target in sorted(replaced):
        _refuse_two_units(source, target, corrections[target], scale[target])
    order = _order(corrections["voigt"]) if "voigt" in corrections else list(range(6))
    if hold and min(hold) < 0:
        raise KeysError(f"Atom {min(hold)} cannot be held: atoms are counted from 0. Correct --hold.")
    largest, atoms = 0, None
    for atoms in frames:
        largest = max(largest, len(atoms))
        if corrections:
            read_in = {**source.report.scales, "isolated": source.report.scales.get("energy", 1.0)}
            own = {t: s / (read_in.get(t, 1.0) if t in replaced else 1.0) for t, s in scale.items()}
            frame = _corrected(atoms, corrections, own, order)
        else:
            frame = atoms
        if hold and max(hold) < len(frame):
            mask = frame.arrays.get("force_mask", np.ones(len(frame), dtype=bool)).copy()
            mask[list(hold)] = False
            frame.set_array("force_mask", mask, dtype=bool)
        yield frame
    if hold and atoms is not None and largest <= max(hold):
        raise KeysError(
            f"No frame has an atom {max(hold)}, as none has more than {largest} atoms. Correct --hold."
        )


def _corrected(
    atoms: Atoms, corrections: Mapping[str, str], scale: Mapping[str, float], order: Sequence[int]
) -> Atoms:
    results = {} if atoms.calc is None else dict(atoms.calc.results)
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array * scale.get("cell", 1.0), scale_atoms=False)
    atoms.positions *= scale.get("positions", 1.0)
    is_atom = is_isolated(len(atoms), atoms.pbc, atoms.cell.array, family(atoms))
    if "energy" in results:
        target = "isolated" if is_atom and "isolated" in scale else "energy"
        n_atoms = len(atoms) if corrections.get(target, "").endswith(PER_ATOM) else 1
        results["energy"] = results["energy"] * scale.get(target, 1.0) * n_atoms
    if "forces" in results:
        results["forces"] = results["forces"] * scale.get("forces", 1.0)
    spreads = {"energy_std": abs(scale.get("energy", 1.0)), "forces_std": abs(scale.get("forces", 1.0))}
    results |= {name: results[name] * by for name, by in spreads.items() if name in results}
    if "stress" in results:
        stress = np.asarray(results["stress"], dtype=float)
        if stress.shape == (3, 3):
            stress = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        stress = stress[list(order)] * scale.get("stress", 1.0)
        if corrections.get("stress") == "virial" and has_volume(atoms.pbc, atoms.cell.array):
            stress = -stress / atoms.get_volume()
        results["stress"] = stress
    atoms.calc = results_of(atoms, results) if results else None
    return atoms


def _is_other_unit(scale: float, unit: str) -> bool:
    """Whether a correction says the unit, and not only the sign or that energies are an atom's."""
    return abs(scale) != 1.0 or not (unit.startswith("-") or unit.endswith(PER_ATOM))


def _refuse_two_units(source: Source, target: str, unit: str, scale: float) -> None:
    """Stop where the user says two units of one quantity, one by --unit and one by --correct.

    Raises:
        UnitsError: so it is.
    """
    said = source.reading.units.get(target)
    if said is not None and factor(target, said) not in (1.0, abs(scale)):
        raise UnitsError(
            f"--unit {target}={said} and --correct {target}={unit} say two units of the {target}. Leave out the "
            f"one that is wrong; --correct {target}=-{H5MD_UNITS[target].replace(' ', '*')} turns the sign alone."
        )


def _factor(target: str, unit: str) -> float:
    """House units in one of the file's numbers, with its sign."""
    if (target, unit) == ("stress", "virial"):
        return 1.0
    quantity = "energy" if target == "isolated" else target
    sign, name = (-1.0, unit[1:]) if unit.startswith("-") else (1.0, unit)
    if name.endswith(PER_ATOM):
        if quantity != "energy":
            raise UnitsError(f"{unit!r} is for energies. Give the unit of {target}.")
        name = name.removesuffix(PER_ATOM)
    if not name:
        raise UnitsError(f"{unit!r} has no unit behind its sign. Write {target}=-eV, or another unit.")
    return sign * factor(quantity, name)


def _order(text: str) -> list[int]:
    """Where each of ASE's six components stands in the file."""
    names = [name.strip() for name in text.split(",")]
    if sorted(names) != sorted(VOIGT):
        raise LabelError(f"{text!r} is no order of six components. Write it as {','.join(VOIGT)}.")
    return [names.index(name) for name in VOIGT]


def unwanted(source: Source, drop: str | None, without: str | Path | None) -> set[int]:
    """Indices of the frames to leave out.

    Args:
        source: what is read.
        drop: numbers of frames in the file as "3,5,8", or "duplicates".
        without: a file whose structures must not be among the frames.
    """
    out: set[int] = set()
    if drop is not None and drop != "duplicates":
        if not all(part.strip().isdigit() for part in drop.split(",")):
            raise KeysError(f"{drop!r} are no frames. Write them as 3,5,8, or say duplicates.")
        out |= {int(part) for part in drop.split(",")}
    if drop == "duplicates" or without is not None:
        mine = tally(source)
        columns = mine.columns()
        if drop == "duplicates":
            out |= set(columns.index[repeated(columns)[0]].tolist())
        if without is not None:
            found = shared(tally(without).columns(), columns, mine.displacement)
            out |= set(columns.index[np.concatenate(found)].tolist())
    return out
