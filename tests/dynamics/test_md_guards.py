"""Does a run stop at the step that went wrong, with the state before, the bad frame and the reason?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import covalent_radii
from ase.io import read
from md_runs import frames_of, md_recipe, prepared
from potentials import new_potential
from structures import copper, quartz

from mlpot.calculator import MLPotCalculator
from mlpot.dynamics.checkpoints import Checkpoints
from mlpot.dynamics.ensembles import Ensemble
from mlpot.dynamics.guards import NO_DOMAIN, Distances, Monitor, least_distances
from mlpot.dynamics.log import read_log
from mlpot.dynamics.recipe import Guards
from mlpot.dynamics.run import run_md
from mlpot.model_file import save_potential
from mlpot.signals import BlowUpError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Models and structures for the runs."""
    with prepared(tmp_path_factory.mktemp("guards")) as folder:
        yield folder


OFF = Guards(**{name: None for name in Guards.model_fields if name != "disk"})
Spoil = Callable[[int, Atoms, dict[str, Any]], None]


def spoiling(spoil: Spoil, patch: pytest.MonkeyPatch) -> None:
    """Spoil the results of each calculation, of which the number is given."""
    calculate = MLPotCalculator.calculate
    calls = 0

    def spoilt(self: MLPotCalculator, *arguments: Any) -> None:
        nonlocal calls
        calculate(self, *arguments)
        calls += 1
        spoil(calls, self.atoms, self.results)

    patch.setattr(MLPotCalculator, "calculate", spoilt)


def not_finite(call: int, atoms: Atoms, results: dict[str, Any]) -> None:
    if call > 8:
        results["energy"] = np.nan


def half_finite(call: int, atoms: Atoms, results: dict[str, Any]) -> None:
    if call > 8:
        results["forces"][3, 1] = np.inf


def strong(call: int, atoms: Atoms, results: dict[str, Any]) -> None:
    if call > 8:
        results["forces"][2, 0] = 101.0


def pulling(call: int, atoms: Atoms, results: dict[str, Any]) -> None:
    """The first two atoms together, with a force that is not strong."""
    vector = atoms.get_distance(0, 1, mic=True, vector=True)
    results["forces"][0] = 60 * vector / np.linalg.norm(vector)
    results["forces"][1] = -results["forces"][0]


def pushing(call: int, atoms: Atoms, results: dict[str, Any]) -> None:
    results["forces"] += 30.0 * (np.arange(len(atoms)) % 2 * 2 - 1)[:, None]


def creating(call: int, atoms: Atoms, results: dict[str, Any]) -> None:
    results["energy"] += 0.01 * call


def blowing(call: int, atoms: Atoms, results: dict[str, Any]) -> None:
    results["stress"] = np.array([-3.0, -3.0, -3.0, 0, 0, 0])


@pytest.mark.parametrize(
    ("spoil", "settings", "message"),
    [
        (not_finite, {"ensemble": "nve"}, "not finite"),
        (half_finite, {}, "not finite"),
        (strong, {}, "force on atom 2 is 101 eV/Å, above 100"),
        (pulling, {"guards": {"temperature": None, "energy": None}, "timestep_fs": 4}, "closer than 1.584 Å"),
        (pushing, {"guards": {"energy": None, "min_distance": None}}, "temperature is"),
        (creating, {"ensemble": "nve"}, "conserved quantity changed"),
        (creating, {"ensemble": "bussi"}, "conserved quantity changed"),
        (blowing, {"ensemble": "npt-isotropic", "barostat_fs": 30, "guards": {"energy": None}}, "volume changed"),
        (blowing, {"ensemble": "npt", "barostat_fs": 30, "guards": {"energy": None}}, "volume changed"),
    ],
)
def test_each_guard_stops_what_it_is_for(
    spoil: Spoil, settings: dict[str, Any], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = md_recipe(folder, output=folder / "bad", overwrite=True, steps=200, log_every=1, **settings)
    spoiling(spoil, monkeypatch)
    with pytest.raises(BlowUpError, match=message) as stopped:
        run_md(recipe)
    assert stopped.value.exit_code == 3
    summary = json.loads((recipe.output / "md.json").read_text())["summary"]
    assert message in summary["stopped"]
    newest = Checkpoints(recipe.output).newest
    assert newest is not None
    assert newest.facts["step"] == summary["steps"] < 200
    frames = frames_of(recipe.output)
    log = read_log(recipe.output / "log.csv")
    assert frames["step"][-1] == log["step"][-1] == summary["steps"]
    assert all(np.isfinite(values).all() for values in frames.values())
    assert np.isfinite(log["total_eV"]).all()
    np.testing.assert_array_equal(frames["positions"][-1], newest.arrays["positions"])
    bad = read(recipe.output / "bad_frame.xyz")
    assert np.abs(bad.positions - frames["positions"][-1]).max() > 0
    assert "nan" not in (recipe.output / "bad_frame.xyz").read_text().lower()
    monkeypatch.undo()
    run_md(recipe.model_copy(update={"steps": newest.facts["step"] + 2, "guards": OFF}), resume=True)
    assert np.isin(frames_of(recipe.output)["step"] % 3, 0).all()  # the last good frame is out of turn, and gone


def test_a_run_does_not_leave_what_the_potential_was_trained_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = {"nearest_distance_A": {"Cu-Cu": 2.3}, "largest_force_component_eV_per_A": 1.0}
    path = folder / "trained.safetensors"
    small = {"n_features": 8, "n_radial": 8, "n_interactions": 1}
    save_potential(new_potential("schnet", repulsion=True, **small), path, {"ranges": ranges})
    recipe = md_recipe(folder, model=path, output=folder / "outside", overwrite=True, log_every=1)
    assert run_md(recipe).warnings == (NO_DOMAIN,)
    with monkeypatch.context() as patch:
        patch.setattr("mlpot.dynamics.guards.ONLY_TRAINING", Guards(min_distance=None, min_trained_distance=1.2))
        assert "closer than 2.760 Å, the shortest in training" in " ".join(run_md(recipe).warnings)
    with monkeypatch.context() as patch:
        spoiling(lambda call, atoms, results: results["forces"].__setitem__((2, 0), 5.0), patch)
        assert "5.03 eV/Å is above 3 times" in " ".join(run_md(recipe).warnings)
    with monkeypatch.context() as patch:
        spoiling(lambda call, atoms, results: results["forces"].__setitem__((2, 0), 11.0), patch)
        with pytest.raises(BlowUpError, match="above 10"):
            run_md(recipe)
    with monkeypatch.context() as patch:
        spoiling(pulling, patch)
        free = {"temperature": None, "energy": None, "max_trained_force": None}
        pulled = md_recipe(folder, model=path, output=folder / "pulled", steps=200, guards=free)
        with pytest.raises(BlowUpError, match=r"closer than 1\.840 Å"):
            run_md(pulled)


def test_atoms_that_fly_off_are_told(folder: Path) -> None:
    atoms = molecule("CH4")
    atoms.set_momenta(np.ones((5, 3)))
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((5, 3)))
    stage = md_recipe(folder, guards={"temperature": None})
    monitor = Monitor(stage, atoms, Ensemble("langevin", None, 15, None), {})
    assert monitor.stops(atoms, 1) is None
    atoms.positions[1] += 130
    assert "Atom 1 is" in str(monitor.stops(atoms, 2))


@pytest.mark.parametrize("make", [copper, quartz, lambda: molecule("CH3CH2OH")])
def test_looking_only_when_atoms_have_moved_finds_every_close_pair(make: Callable[[], Atoms]) -> None:
    rng = np.random.default_rng(0)
    least = least_distances(Guards(min_distance=0.7), {"Cu-Cu": 2.35, "O-Si": 1.55})
    checked = found = 0
    for _ in range(12):
        atoms = make()
        lazy = Distances(atoms.numbers, least)
        for step in range(40):
            told = lazy.too_close(atoms)
            fresh = Distances(atoms.numbers, least).too_close(atoms)
            assert told == fresh, step
            checked += 1
            if told:
                found += 1
                break
            atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
            if atoms.pbc.all():
                strain = np.eye(3) + rng.normal(scale=0.003, size=(3, 3))
                atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    assert found >= 3
    assert checked > 36


def test_the_nearest_pair_is_an_image_too() -> None:
    atoms = Atoms("CuCu", [(0.1, 0, 0), (4.9, 0, 0)], cell=[5, 6, 7], pbc=True)
    distances = Distances(atoms.numbers, least_distances(Guards(), {}))
    assert distances.nearest(atoms) == pytest.approx(0.2)
    assert f"0.200 Å apart, closer than {1.2 * covalent_radii[29]:.3f}" in str(distances.too_close(atoms))
    alone = Distances(np.array([29]), least_distances(Guards(), {}))
    assert alone.nearest(Atoms("Cu")) == np.inf
    assert alone.too_close(Atoms("Cu")) is None


def test_a_guard_can_be_turned_off(folder: Path) -> None:
    assert run_md(md_recipe(folder, output=folder / "off", guards=OFF.model_dump())).steps == 30
