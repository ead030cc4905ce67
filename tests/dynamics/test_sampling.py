"""Does an analysis show nothing that its sampling cannot tell: folded spectra, what turns, few values?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from md_runs import md_recipe, prepare
from structures import ethanol

from mlpot.dynamics.analyze import PICTURES, Diffusion, analyze_md
from mlpot.dynamics.log import Drift, drift, told_drift, untold_drift, with_error
from mlpot.dynamics.run import run_md
from mlpot.dynamics.sampling import (
    WAVENUMBER,
    diffusion_obstacle,
    distribution_obstacle,
    fastest_motion,
    is_one_molecule,
    reach_of_pairs,
    spectrum_obstacle,
)

STRETCH = 3600.0  # 1/cm


def vibrating(phase: float) -> Atoms:
    """O-H on a spring, turned anyhow, as it is at a phase of its vibration."""
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]])
    masses = atoms.get_masses()
    omega = 2 * np.pi * STRETCH / WAVENUMBER / units.fs
    stretch, rate = 0.05 * np.cos(phase), -0.05 * omega * np.sin(phase)
    part = np.array([-masses[1], masses[0]]) / masses.sum()
    atoms.positions[:, 2] += part * stretch
    velocities = np.zeros((2, 3))
    velocities[:, 2] = part * rate
    forces = np.zeros((2, 3))
    forces[:, 2] = -masses * part * stretch * omega**2
    atoms.set_velocities(velocities)
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=forces)
    return atoms


def test_the_fastest_vibration_is_told_from_forces_however_rare_the_frames() -> None:
    frames = [vibrating(phase) for phase in np.random.default_rng(0).uniform(0, 2 * np.pi, 400)]
    wavenumber, what = fastest_motion(frames)
    assert wavenumber == pytest.approx(STRETCH, rel=0.1)
    assert "H" in what
    assert np.isnan(fastest_motion([Atoms("OH", [[0, 0, 0], [0, 0, 1]])])[0])


def test_a_folded_spectrum_is_refused_with_the_interval_it_needs() -> None:
    told = spectrum_obstacle((3600.0, "O-H"), 10.0, 0.5, 1000)
    assert told is not None
    assert "show nothing above 1668" in told
    assert "write_every: 7" in told
    assert spectrum_obstacle((3600.0, "O-H"), 3.5, 0.5, 1000) is None
    assert spectrum_obstacle((500.0, "Si-Si"), 20.0, 1.0, 1000) is None
    assert "no forces" in str(spectrum_obstacle((np.nan, ""), 1.0, 1.0, 1000))
    assert "so short" in str(spectrum_obstacle((3600.0, "O-H"), 1.0, 0.5, 50))
    assert "timestep_fs: 3.7 and write_every: 1" in str(spectrum_obstacle((3600.0, "O-H"), 8.0, 8.0, 1000))


@pytest.mark.parametrize(
    ("atoms", "one"),
    [
        (ethanol(), True),
        (molecule("CH3CH2OH", vacuum=4, pbc=True), True),
        (molecule("H2O", vacuum=4, pbc=True) * (2, 1, 1), False),
        (bulk("Cu", cubic=True), False),
        (bulk("Si", cubic=True), False),
        (fcc111("Cu", (2, 2, 2), vacuum=5), False),
    ],
    ids=["alone", "in a box", "two in a box", "copper", "silicon", "slab"],
)
def test_a_molecule_is_told_from_a_network(atoms: Atoms, one: bool) -> None:
    assert is_one_molecule(atoms) == one
    assert (diffusion_obstacle(atoms) is not None) == (one or not atoms.pbc.any())


def test_a_molecule_across_the_boundary_is_one_molecule() -> None:
    atoms = molecule("CH3CH2OH", vacuum=4, pbc=True)
    atoms.positions += 5.0
    atoms.wrap()
    assert is_one_molecule(atoms)


def test_alike_values_are_no_distribution() -> None:
    rng = np.random.default_rng(0)
    assert distribution_obstacle(rng.normal(size=2000), "temperature") is None
    slow = np.repeat(rng.normal(size=20), 100)
    assert "independent values of the temperature" in str(distribution_obstacle(slow, "temperature"))
    assert "too few" in str(distribution_obstacle(rng.normal(size=8), "temperature"))
    assert "nan" not in str(distribution_obstacle(np.full(100, 3.0), "energy"))


@pytest.mark.parametrize("energy", [0.0, -1020.8157])
def test_an_energy_that_never_changes_does_not_drift(energy: float) -> None:
    assert drift(np.linspace(0, 20, 100), np.full(100, energy), 1) == Drift(0.0, 0.0, 0.0)  # of a free atom


def test_a_cell_bounds_its_pairs() -> None:
    assert reach_of_pairs(bulk("Cu", cubic=True) * (3, 1, 2)) == pytest.approx(3.61 / 2, rel=1e-3)
    assert reach_of_pairs(bulk("Cu")) == pytest.approx(3.61 / np.sqrt(3) / 2, rel=1e-3)
    assert reach_of_pairs(ethanol()) == np.inf


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Diffusion(0.3, 0.02, 1.05), "0.300 ± 0.020 Å²/ps"),
        (Diffusion(0.3, 0.2, 1.05), "not told by so short a run"),
        (Diffusion(0.3, None, 1.0), "not told by so short a run"),
        (Diffusion(0.01, 0.001, 0.1), "none seen"),
        (Diffusion(float("nan"), None, float("nan")), "none seen"),
    ],
)
def test_a_coefficient_is_stated_only_where_it_is_told(value: Diffusion, told: str) -> None:
    assert told in value.told


@pytest.mark.parametrize(
    ("value", "error", "told"),
    [
        (307.42, 1.83, "307.4 ± 1.8"),
        (318.1, 15.6, "318 ± 16"),
        (0.2681, 0.37, "0.27 ± 0.37"),
        (1309.338, 0.0996, "1309.34 ± 0.10"),
        (12345.0, 230.0, "12340 ± 230"),
        (-2.0, 0.0, "-2 ± 0"),
        (300.0, None, "300"),
        (float("nan"), float("nan"), "nan ± nan"),
    ],
)
def test_a_value_has_the_digits_that_its_error_leaves_it(value: float, error: float | None, told: str) -> None:
    assert with_error(value, error) == told


def test_a_molecule_is_analyzed_without_what_it_cannot_tell(tmp_path: Path) -> None:
    prepare(tmp_path)
    recipe = md_recipe(
        tmp_path, structure=tmp_path / "ethanol.xyz", steps=400, write_every=20, log_every=5, timestep_fs=0.25,
        max_start_force=1e6, guards={"temperature": None, "energy": None},
    )  # fmt: skip
    run_md(recipe)
    found = analyze_md(recipe.output)
    assert found.curves.keys() == PICTURES.keys()
    assert not found.curves["spectrum"]
    assert "needed" in found.notes["spectrum"]
    assert not found.curves["msd"]
    assert not found.diffusion
    assert not found.curves["temperature"]
    assert (recipe.output / "analysis.png").stat().st_size > 10_000


def test_what_an_energy_does_within_a_vibration_is_no_drift() -> None:
    """Verlet's error goes up and down with the atoms: within 10 fs that was thousands of meV/atom/ns."""
    time = np.arange(4001) * 5e-4  # ps
    energy = 1e-3 * np.sin(2 * np.pi * time / 0.03)  # eV
    assert told_drift(time[:21], energy[:21], 9) is None
    assert "not told by 0.01 ps" in str(untold_drift(time[:21], energy[:21]))
    found = told_drift(time, energy, 9)
    assert found is not None
    assert abs(found.slope) < 1
    assert untold_drift(time, np.full(4001, np.nan)) is None  # nothing is conserved
    assert "10 lines of the log" in str(untold_drift(time[::401], energy[::401]))
