"""Labeled frames of all kinds, converted files, and when two frames are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mlpot.data.h5md import Reader
from mlpot.data.sources.convert import convert
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading


def edit(path: Path, change: Callable[[h5py.File], object]) -> None:
    """Change an HDF5 file in place."""
    with h5py.File(path, "r+") as file:
        change(file)


def labeled(atoms: Atoms, seed: int, **info) -> Atoms:
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    atoms.positions += rng.normal(scale=0.1, size=(len(atoms), 3))
    labels = {"energy": float(rng.normal()), "forces": rng.normal(size=(len(atoms), 3))}
    if atoms.pbc.all():
        labels["stress"] = rng.normal(size=6)
    atoms.calc = SinglePointCalculator(atoms, **labels)
    atoms.info.update(info)
    return atoms


def mixed() -> list[Atoms]:
    """Molecules, crystals, a slab, isolated atoms; some labels missing, some forces masked."""
    slab = Atoms("Si2", [[0, 0, 0], [1.9, 1.9, 1.3]], cell=[3.8, 3.8, 0], pbc=[True, True, False])
    kinds = [molecule("CH3CH2OH"), molecule("H2O"), bulk("Si", cubic=True), Atoms("H"), slab]
    frames = [labeled(kinds[k % 5], k, group=["a", "b"][k % 2]) for k in range(25)]
    frames[0].set_array("force_mask", np.arange(9) != 8)
    del frames[1].info["group"], frames[6].calc.results["forces"]
    frames[7].calc = None
    frames[5].set_velocities(np.full((9, 3), 0.1))
    frames[5].info.update(step=10, time=5.0)
    return frames


def assert_same(a: Atoms, b: Atoms) -> None:
    for x, y in ((a.numbers, b.numbers), (a.positions, b.positions), (a.cell.array, b.cell.array), (a.pbc, b.pbc)):
        np.testing.assert_array_equal(x, y)
    ours, theirs = ({} if x.calc is None else x.calc.results for x in (a, b))
    assert ours.keys() == theirs.keys()
    for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key])
    assert a.has("force_mask") == b.has("force_mask") or b.arrays["force_mask"].all()
    if a.has("force_mask"):
        np.testing.assert_array_equal(a.arrays["force_mask"], b.arrays["force_mask"])
    np.testing.assert_allclose(a.get_velocities(), b.get_velocities(), rtol=1e-15)


def converted(source: Path, **options) -> list[Atoms]:
    destination = source.with_name("converted.h5")
    count = convert(source, destination, overwrite=True, **options)
    with Reader(destination) as reader:
        assert len(reader) == count
        assert reader.card["source"] == source.name
        return list(reader.frames())


def assert_labels(frames: list[Atoms], positions, energies, forces) -> None:
    assert len(frames) == len(energies)
    for k, atoms in enumerate(frames):
        np.testing.assert_array_equal(atoms.positions, positions[k])
        assert atoms.get_potential_energy() == energies[k]
        np.testing.assert_array_equal(atoms.get_forces(), forces[k])


CELL = 'Lattice="4 0 0 0 5 0 0 0 2" pbc="T T T"'  # 40 Å³


def xyz(path: Path, *comments: str, columns: str = "", values: str = "") -> Path:
    """Frames of two atoms with these comments."""
    rows = f"Si 0 0 0 {values}\nSi 2 2 1 {values}\n"
    properties = f"Properties=species:S:1:pos:R:3{columns}"
    path.write_text("".join(f"2\n{properties} {comment}\n{rows}" for comment in comments))
    return path


def read_output(path: Path, lines: list[str], **said) -> tuple[list[Atoms], list[str]]:
    """The frames of the output of a program with these lines, and what is told of it."""
    path.write_text("\n".join(lines) + "\n")
    source = Source(path, Reading(**said))
    return list(source.frames()), source.report.lines()


def account(source: Source) -> str:
    """What a pass over a source tells."""
    list(source.numbered())
    return "\n".join(source.report.lines())
