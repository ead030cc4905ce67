"""Heat in the flight and the rotation of a whole structure, and periods of thermostats."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from md_runs import assert_same_run, frames_of, md_recipe, prepared
from structures import ethanol

from mlpot.dynamics.ensembles import build_ensemble
from mlpot.dynamics.log import BLOCK, Kept, Log
from mlpot.dynamics.recipe import MDRecipe
from mlpot.dynamics.run import run_md
from mlpot.dynamics.run_replicas import run_replicas
from mlpot.dynamics.start import StartError, draw_velocities, widest_gap
from mlpot.recipes import RecipeError, load_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with prepared(tmp_path_factory.mktemp("md")) as made:
        yield made


def settings(ensemble: str, **others: float) -> MDRecipe:
    return MDRecipe(model=Path("none"), structure=Path("x"), ensemble=ensemble, **others)


def built(atoms: Atoms, ensemble: str, **others: float) -> dict[str, str]:
    atoms.calc = LennardJones()
    return build_ensemble(atoms, settings(ensemble, **others), np.random.default_rng(0)).warnings


def test_a_molecule_is_at_rest_as_a_whole_after_the_noise(folder: Path) -> None:
    stages = [{"ensemble": "langevin", "steps": 9}, {"ensemble": "bussi", "steps": 9}]
    recipe = md_recipe(
        folder, model=folder / "native.safetensors", structure=folder / "ethanol.xyz", stages=stages, steps=None
    )
    summary = run_md(recipe)
    assert summary.n_degrees == 21
    frames, masses = frames_of(recipe.output), ethanol().get_masses()[:, None]
    momenta = masses * frames["velocities"]
    arms = frames["positions"] - (masses * frames["positions"]).sum(1, keepdims=True) / masses.sum()
    size = np.abs(momenta).sum((1, 2))
    turning = np.abs(np.cross(arms, momenta).sum(1)).max(1) / size
    flying = np.abs(momenta.sum(1)).max(1) / size
    assert flying[2] > 1e-3 and turning[2] > 1e-3  # noqa: PT018  (of one step)
    assert flying[4:].max() < 1e-12 and turning[4:].max() < 1e-9  # noqa: PT018  (likewise)
    batch = recipe.model_copy(update={"replicas": 2, "output": folder / "batch"})
    run_replicas(batch)
    assert_same_run(batch.output / "replica_0", recipe.output)


@pytest.mark.parametrize(
    ("ensemble", "told"), [("bussi", True), ("nose-hoover", True), ("langevin", False), ("nve", False)]
)
def test_flight_that_a_thermostat_takes_for_heat_is_told(ensemble: str, told: bool) -> None:
    atoms = ethanol()
    draw_velocities(atoms, 300.0, np.random.default_rng(0))
    assert not built(atoms, ensemble)
    atoms.set_velocities(atoms.get_velocities() + [0.02, 0.0, 0.0])
    found = built(atoms, ensemble)
    assert bool(found) is told
    if told:
        energy = 0.5 * atoms.get_masses().sum() * 0.02**2
        inner = (22 * 300 - 2 * energy / 8.617333e-5) / 21
        assert f"at {max(inner, 0):.3g} K instead of 300" in found["motion"]


def test_a_single_degree_of_freedom_in_a_chain_is_told() -> None:
    pair = Atoms("N2", [[0, 0, 0], [0, 0, 1.1]])
    draw_velocities(pair, 300.0, np.random.default_rng(0))
    assert "sampled slowly" in built(pair, "nose-hoover")["one degree"]
    assert not built(pair, "bussi")


@pytest.mark.parametrize(
    ("ensemble", "name", "period", "refused"),
    [
        ("nose-hoover", "thermostat_fs", 4.9, True),
        ("nose-hoover", "thermostat_fs", 5.0, False),
        ("nose-hoover", "barostat_fs", 1.0, False),
        ("npt", "thermostat_fs", 4.9, True),
        ("npt-isotropic", "barostat_fs", 19.0, True),
        ("npt", "barostat_fs", 20.0, False),
        ("langevin", "thermostat_fs", 0.01, False),
        ("bussi", "thermostat_fs", 0.01, False),
    ],
)
def test_a_period_that_no_step_can_follow_is_refused(
    ensemble: str, name: str, period: float, refused: bool
) -> None:
    atoms = Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]], cell=[12, 12, 12], pbc=True)
    draw_velocities(atoms, 300.0, np.random.default_rng(0))
    if not refused:
        built(atoms, ensemble, timestep_fs=1.0, **{name: period})
        return
    with pytest.raises(StartError, match=rf"{name} = {period:g} is a period of '{ensemble}'"):
        built(atoms, ensemble, timestep_fs=1.0, **{name: period})


def test_a_period_whose_square_is_no_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "md.yaml"
    path.write_text("{model: a, structure: b, ensemble: npt, barostat_fs: 1.0e+300}")
    with pytest.raises(RecipeError, match="it must be at most 1e"):
        load_recipe(MDRecipe, path, [])


def test_a_long_log_is_not_taken_into_memory_to_go_on(tmp_path: Path) -> None:
    path, n_bytes = tmp_path / "log.csv", 8 * BLOCK + 5
    path.write_bytes(bytes(n_bytes + 7))
    tracemalloc.start()
    with Log(path, keep=Kept(n_bytes, None)) as log:
        assert log.kept.n_bytes == path.stat().st_size == n_bytes
    assert tracemalloc.get_traced_memory()[1] < 3 * BLOCK
    tracemalloc.stop()


@pytest.mark.parametrize("layers", [np.eye(3), np.array([[0, 1, 0], [1, 0, 0], [0.3, 0.2, 1]])])
@pytest.mark.parametrize(("vacuum", "told"), [(0.0, False), (10.0, True)])
def test_a_barostat_on_a_slab_with_vacuum_is_told(vacuum: float, told: bool, layers: np.ndarray) -> None:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.cell[2, 2] += vacuum
    atoms.set_cell(layers @ atoms.cell.array)
    atoms.positions += [0.0, 0.0, -3.0]  # across the boundary
    draw_velocities(atoms, 300.0, np.random.default_rng(0))
    gap, axis = widest_gap(atoms)
    assert gap == pytest.approx(3.61 / 2 + vacuum)
    assert ("vacuum" in built(atoms, "npt")) is told
    if told:
        assert axis == 2
    assert not built(atoms, "bussi")
