"""Have molecules on a line the temperature of their bath, and does nothing take heat that rounding began?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.md.velocitydistribution import Stationary, ZeroRotation
from md_runs import frames_of, md_recipe, prepared
from structures import ethanol

from mlpot.dynamics.ensembles import Ensemble, build_ensemble
from mlpot.dynamics.guards import WINDOW
from mlpot.dynamics.recipe import MDRecipe
from mlpot.dynamics.run import run_md
from mlpot.dynamics.run_replicas import run_replicas
from mlpot.dynamics.start import degrees_of_freedom, draw_velocities

T = 300.0


class Chain(Calculator):
    """Springs k/2 (d − d₀)² along a line of atoms, and b/2 |u + v|² of the directions to an atom's neighbors."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012  (ASE's own is a list)
    k, b = 30.0, 4.0  # eV/Å², eV

    def __init__(self, atoms: Atoms, order: tuple[int, ...]):
        super().__init__()
        self.order = np.array(order)
        self.lengths = np.linalg.norm(np.diff(atoms.positions[self.order], axis=0), axis=1)

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        """Fill `results`."""
        vectors = np.diff(atoms.positions[self.order], axis=0)
        d = np.linalg.norm(vectors, axis=1)
        scaled = vectors / self.lengths[:, None]
        bends = scaled[1:] - scaled[:-1]
        stretched = self.k * float(((d - self.lengths) ** 2).sum()) / 2
        slope = self.k * ((d - self.lengths) / d)[:, None] * vectors  # of the energy by each vector
        slope[1:] += self.b * bends / self.lengths[1:, None]
        slope[:-1] -= self.b * bends / self.lengths[:-1, None]
        forces = np.zeros_like(atoms.positions)
        np.add.at(forces, self.order[:-1], slope)
        np.add.at(forces, self.order[1:], -slope)
        self.results = {"energy": stretched + self.b * float((bends**2).sum()) / 2, "forces": forces}


ORDERS = {"CO2": (1, 0, 2), "HCN": (2, 0, 1), "C2H2": (2, 0, 1, 3), "N2": (0, 1)}


def in_bath(name: str, ensemble: str, seed: int, **settings: Any) -> tuple[Atoms, Ensemble]:
    """A molecule with drawn velocities, and its integrator."""
    atoms = molecule(name)
    atoms.rotate(40, (1, 2, 3))
    atoms.calc = Chain(atoms, ORDERS[name])
    rng = np.random.default_rng(seed)
    draw_velocities(atoms, T, rng)
    short = {"ensemble": ensemble, "timestep_fs": 1.0, "temperature_K": T, "thermostat_fs": 20.0}
    recipe = MDRecipe(model=Path("none"), structure=Path("none"), **short | settings)
    return atoms, build_ensemble(atoms, recipe, rng)


@pytest.mark.parametrize("name", ["CO2", "HCN", "C2H2"])
@pytest.mark.parametrize("ensemble", ["nve", "bussi", "nose-hoover"])
def test_a_molecule_on_a_line_has_the_degrees_of_freedom_that_it_has_once_it_bends(
    name: str, ensemble: str
) -> None:
    """Its angular momentum is zero about the line too, so it never turns about it."""
    atoms, of_run = in_bath(name, ensemble, 0)
    assert of_run.n_degrees == 3 * len(atoms) - 6
    for _ in range(5):
        of_run.dynamics.run(7)
        assert degrees_of_freedom(atoms, keeps_momentum=True) == of_run.n_degrees
    assert np.abs(atoms.get_angular_momentum()).max() < 1e-10


def test_a_molecule_on_a_line_has_all_of_them_with_friction_and_noise() -> None:
    _, of_run = in_bath("CO2", "langevin", 0)
    assert of_run.n_degrees == 9


def test_velocities_of_a_molecule_on_a_line_are_drawn_for_what_can_move() -> None:
    kinetic = [in_bath("CO2", "nve", seed)[0].get_kinetic_energy() for seed in range(400)]
    mean, error = np.mean(kinetic), np.std(kinetic) / len(kinetic) ** 0.5
    assert abs(mean - 1.5 * units.kB * T) < 4 * error


def test_a_pair_does_not_begin_to_turn_in_a_thermostat_that_scales_all_velocities() -> None:
    """The velocity of its one degree of freedom passes zero, and rounding makes a rotation, scaled as it is."""
    atoms, of_run = in_bath("N2", "bussi", 3, thermostat_fs=5.0)
    kinetic = []
    for _ in range(60):
        for _ in range(WINDOW):
            of_run.dynamics.step()
            kinetic.append(atoms.get_kinetic_energy())
        of_run.settle()
    assert np.abs(atoms.get_angular_momentum()).max() < 1e-9
    assert np.mean(kinetic) == pytest.approx(units.kB * T / 2, rel=0.15)


def drifting(folder: Path) -> Path:
    """A molecule that moves and turns as little as rounding has it after a while."""
    atoms = ethanol()
    atoms.info = {}
    draw_velocities(atoms, T, np.random.default_rng(0))
    Stationary(atoms)
    ZeroRotation(atoms)
    turn = np.cross([0.3, -0.5, 0.8], atoms.positions - atoms.get_center_of_mass())
    atoms.set_velocities(atoms.get_velocities() + 1e-7 * (turn + [1.0, 2.0, -1.0]))
    ase.io.write(folder / "drifting.traj", atoms)
    return folder / "drifting.traj"


def test_a_run_takes_out_what_rounding_makes_of_a_drift(tmp_path: Path) -> None:
    with prepared(tmp_path):
        guards = {"max_force": 1e4, "temperature": 1e3, "energy": 1e3}
        settings = {"structure": drifting(tmp_path), "velocities": "file", "ensemble": "bussi", "guards": guards}
        model = tmp_path / "native.safetensors"
        recipe = md_recipe(tmp_path, model=model, steps=WINDOW + 5, write_every=5, **settings)
        run_md(recipe)
        run_replicas(recipe.model_copy(update={"replicas": 2, "output": tmp_path / "batch"}))
    masses = ethanol().get_masses()[:, None]
    for output in (tmp_path / "run", tmp_path / "batch/replica_0"):
        frames = frames_of(output)
        momentum = np.abs((masses * frames["velocities"]).sum(axis=1)).max(axis=1)
        arms = frames["positions"] - frames["positions"].mean(axis=1, keepdims=True)
        turning = np.abs(np.cross(arms, masses * frames["velocities"]).sum(axis=1)).max(axis=1)
        late = frames["step"] >= WINDOW
        assert momentum[late].max() < 1e-3 * momentum[~late].min()
        assert turning[late].max() < 1e-3 * turning[~late].min()
