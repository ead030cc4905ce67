"""Does the analysis of a run find what was put into it?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.geometry.rdf import get_rdf
from md_runs import md_recipe, prepare

from mlpot.data.h5md import Reader
from mlpot.data.h5md.trajectory import TrajectoryWriter
from mlpot.dynamics.analyze import (
    AnalysisError,
    Motion,
    _motion,
    analyze_md,
    diffusion,
    mean_squared_displacements,
    radial_distribution,
    velocity_spectrum,
)
from mlpot.dynamics.run import run_md
from mlpot.dynamics.sampling import free_directions


def motion(positions: np.ndarray, velocities: np.ndarray | None = None, step_ps: float = 0.01) -> Motion:
    n = positions.shape[1]
    still = np.zeros_like(positions) if velocities is None else velocities
    return Motion(np.full(n, 29), np.ones(n), step_ps, positions, still, [])


def test_a_radial_distribution_is_that_of_ase() -> None:
    rng = np.random.default_rng(0)
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True) * (3, 3, 3)
    atoms.positions += rng.normal(scale=0.2, size=atoms.positions.shape)
    ours = radial_distribution([atoms], 8.0, width=0.05)
    theirs, r = get_rdf(atoms, 8.0, 160, elements=(11, 17))
    np.testing.assert_allclose(ours["Na-Cl"][0][:160], r)
    np.testing.assert_allclose(ours["Na-Cl"][1][:160], theirs, rtol=1e-6, atol=1e-12)


def test_a_gas_has_no_structure_and_a_molecule_has_bonds() -> None:
    rng = np.random.default_rng(0)
    gas = [Atoms("He100", rng.uniform(0, 20, (100, 3)), cell=[20] * 3, pbc=True) for _ in range(20)]
    r, g = radial_distribution(gas, 8.0, width=0.25)["He-He"]
    assert abs(g[r > 3] - 1).max() < 0.1
    r, density = radial_distribution([molecule("CH4")], 3.0)["H-C"]
    assert r[density.argmax()] == pytest.approx(1.09, abs=0.03)
    assert density.sum() * 0.05 == pytest.approx(1)


def test_displacements_are_those_of_the_definition() -> None:
    walk = np.random.default_rng(0).normal(size=(60, 3, 3)).cumsum(axis=0)
    lags, found = mean_squared_displacements(motion(walk))
    free = walk - walk.mean(axis=1, keepdims=True)
    for k in (1, 7, 29):
        assert found["Cu"][k] == pytest.approx(np.square(free[k:] - free[:-k]).sum(axis=2).mean())
    assert lags[1] == 0.01


def test_a_random_walk_diffuses_as_einstein_says() -> None:
    step = 0.1  # Å, along each axis in 0.01 ps: 6 D t = 3 step² t / 0.01
    walk = np.random.default_rng(1).normal(scale=step, size=(2000, 200, 3)).cumsum(axis=0)
    walker = motion(walk)
    lags, found = mean_squared_displacements(walker)
    d = diffusion(walker, "Cu", lags, found["Cu"])
    assert d.error is not None
    assert d.A2_per_ps == pytest.approx(step**2 / 0.02, rel=0.1)
    assert abs(d.A2_per_ps - step**2 / 0.02) < 4 * d.error + 0.02
    assert d.exponent == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("pbc", [(True, True, False), (False, False, True)])
def test_what_diffuses_along_a_slab_or_a_wire_is_not_divided_by_three_directions(pbc: tuple[bool, ...]) -> None:
    step, rng = 0.1, np.random.default_rng(2)
    walk = rng.normal(scale=step, size=(1500, 100, 3)).cumsum(axis=0)
    walk[..., ~np.array(pbc)] = rng.normal(scale=2.0, size=(1500, 100, 3 - sum(pbc)))  # between the surfaces
    skewed = Atoms(cell=[[9, 0, 0], [4, 8, 0], [0, 0, 20]], pbc=pbc)
    walker = replace(motion(walk), along=free_directions(skewed))
    lags, found = mean_squared_displacements(walker)
    assert diffusion(walker, "Cu", lags, found["Cu"]).A2_per_ps == pytest.approx(step**2 / 0.02, rel=0.15)


def test_an_atom_beside_fixed_ones_moves_as_it_does_and_they_do_not() -> None:
    walk = np.zeros((60, 3, 3))
    walk[:, 2] = np.random.default_rng(0).normal(size=(60, 3)).cumsum(axis=0)
    _, found = mean_squared_displacements(replace(motion(walk), held=True))
    assert found["Cu"][7] == pytest.approx(np.square(walk[7:, 2] - walk[:-7, 2]).sum(axis=1).mean() / 3)


def test_the_last_good_frame_of_a_stopped_run_does_not_change_the_time_between_frames(tmp_path: Path) -> None:
    def write(name: str, times: list[float]) -> Motion:
        atoms = Atoms("Ar2", [[0, 0, 0], [0, 0, 4]])
        atoms.set_velocities(np.ones((2, 3)))
        with TrajectoryWriter(tmp_path / name, card={}) as writer:
            for k, time in enumerate(times):
                writer.add(atoms, step=k, time=time)
        with Reader(tmp_path / name) as reader:
            return _motion(reader, 0.0)

    even = [10.0 * k for k in range(10)]
    found = write("stopped.h5", [*even, 91.0])
    assert (found.step_ps, len(found.positions)) == (pytest.approx(0.01), 10)
    with pytest.raises(AnalysisError, match=r"at 0\.04 ps the next one is 0\.001 ps later"):
        write("uneven.h5", [*even[:5], 41.0, *even[5:]])


def test_a_vibration_stands_at_its_wavenumber() -> None:
    t = np.arange(4000) * 0.5  # fs
    wave = np.sin(2 * np.pi * t * 1600 / 33356.41)[:, None, None] * np.ones((1, 2, 3))
    wavenumber, power = velocity_spectrum(motion(np.zeros((4000, 2, 3)), wave, 0.0005))["Cu"]
    assert wavenumber[power.argmax()] == pytest.approx(1600, abs=1.5 * wavenumber[1])
    assert power.sum() * wavenumber[1] == pytest.approx(1)


def test_a_run_is_analysed(tmp_path: Path) -> None:
    prepare(tmp_path)
    stages = [{"ensemble": "bussi", "steps": 20}, {"ensemble": "nve", "steps": 60, "timestep_fs": 1}]
    recipe = md_recipe(tmp_path, steps=None, stages=stages, write_every=1, log_every=1, timestep_fs=2)
    run_md(recipe)
    found = analyze_md(recipe.output)
    assert (found.n_frames, found.from_ps, found.expected_std_K) == (61, 0.04, None)
    assert found.frame_ps == pytest.approx(0.001)
    assert found.drift is None  # of 0.06 ps
    assert found.diffusion.keys() == {"Cu"}
    table = json.loads((recipe.output / "analysis.json").read_text())
    assert table["curves"].keys() == {"rdf", "msd", "spectrum", "temperature", "energy", "conserved"}
    assert (recipe.output / "analysis.png").stat().st_size > 30_000
    with pytest.raises(AnalysisError, match="8 are needed"):
        analyze_md(recipe.output, skip_ps=0.055)
    with pytest.raises(FileNotFoundError):
        analyze_md(tmp_path / "nothing")
