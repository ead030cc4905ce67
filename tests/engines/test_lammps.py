"""mlpot in LAMMPS: the same energies, forces and virials as the calculator's, on one rank and on more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from lammps_runs import DIGITS, PER_BAR, lammps_run, masses, needs_lammps, write_data
from potentials import new_potential
from structures import quartz, shaken, worst

from mlpot.calculator import MLPotCalculator
from mlpot.model_file import save_potential

ELEMENTS = ["O", "Si"]
PRESSURES = "pxx pyy pzz pxy pxz pyz"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SchNet of two passes, with nuclei."""
    needs_lammps()
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_potential(new_potential("schnet", n_knots=32, repulsion=True), path)
    return path


def silica() -> Atoms:
    """72 atoms in a cell with three tilts."""
    atoms = quartz() * (2, 2, 2)
    return shaken(atoms, seed=5)


def script(elements: list[str], run: str, boundary: str = "p p p") -> str:
    return f"""
units metal
atom_style atomic
atom_modify map yes
boundary {boundary}
read_data data
{masses(elements)}
pair_style zero 4.0
pair_coeff * *
fix potential all mlpot {" ".join(elements)}
compute e all pe/atom
compute s all stress/atom NULL
compute sum all reduce sum c_e c_s[*]
thermo_style custom step pe {PRESSURES} vol c_sum[*]
{DIGITS}
dump d all custom 1 dump id fx fy fz c_e
dump_modify d format float %.17g
{run}
"""


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_energy_forces_and_virial_are_those_of_the_calculator(tmp_path: Path, model: Path, n_ranks: int) -> None:
    """L3, L7, L8: triclinic, also by atom."""
    atoms = write_data(tmp_path, silica(), ELEMENTS)
    run = lammps_run(tmp_path, script(ELEMENTS, "run 0"), model, n_ranks)
    atoms.calc = MLPotCalculator(model)
    dump, thermo = run.dump(), run.thermo()
    assert worst(dump[:, 1:4], atoms.get_forces()) < 1e-10
    assert worst(dump[:, 4], atoms.get_potential_energies()) < 1e-9
    assert worst(thermo["PotEng"], atoms.get_potential_energy()) < 1e-9
    stress = atoms.get_stress(voigt=True)[[0, 1, 2, 5, 4, 3]]
    pressures = np.array([thermo[name][0] for name in ("Pxx", "Pyy", "Pzz", "Pxy", "Pxz", "Pyz")])
    assert worst(pressures / PER_BAR, -stress) < 1e-9
    by_atom = np.array([thermo[f"c_sum[{k}]"][0] for k in range(1, 8)])
    assert by_atom[0] == pytest.approx(thermo["PotEng"][0], abs=1e-9)
    assert worst(-by_atom[1:] / thermo["Volume"][0], pressures) < 1e-9 * PER_BAR


@pytest.mark.slow
def test_two_ranks_move_as_one(tmp_path: Path, model: Path) -> None:
    """NVE of silicon, 1000 steps: within rounding, which grows as trajectories part."""
    silicon = shaken(bulk("Si", cubic=True) * (2, 2, 2), by=0.05)
    runs = []
    for n_ranks in (1, 2):
        folder = tmp_path / str(n_ranks)
        folder.mkdir()
        write_data(folder, silicon, ["Si"])
        steps = "velocity all create 300 4711 loop all\nfix nve all nve\nthermo 100\nrun 1000"
        text = script(["Si"], steps).replace("dump d all custom 1 ", "dump d all custom 1000 ")
        runs.append(lammps_run(folder, text, model, n_ranks))
    energies = [run.thermo()["PotEng"] for run in runs]
    assert worst(energies[0][:3], energies[1][:3]) < 1e-8
    assert worst(runs[0].dump()[:, 1:4], runs[1].dump()[:, 1:4]) < 1e-5
