"""What a loss counts: labels that are known, alike in a cell and its supercell, by thresholds with units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from sets import crystals, small_recipe, write

from mlpot.data.check.check import check
from mlpot.data.check.info import info
from mlpot.data.frame import frame_of
from mlpot.evaluate import evaluate
from mlpot.graph import Properties
from mlpot.recipes import RecipeError, parse_recipe
from mlpot.training.fit import make_loss, train
from mlpot.training.in_memory import flatten
from mlpot.training.losses import FUNCTIONS, Loss
from mlpot.training.recipe import LossSection, Recipe
from mlpot.training.splits import NothingToLearnError

WEIGHTS = (2.0, 3.0, 5.0)


def opened(atoms: Atoms, pbc: tuple[bool, bool, bool], stress: float) -> Atoms:
    """The structure along the axes with another boundary, and a stress on it all the same."""
    labels = atoms.calc.results
    copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell.lengths(), pbc=pbc)
    copy.calc = SinglePointCalculator(copy, **labels | {"stress": np.full(6, stress)})
    return copy


def repeated(atoms: Atoms, n: int) -> Atoms:
    """A supercell with the labels that follow."""
    copy = atoms.repeat((n, 1, 1))
    labels = atoms.calc.results
    energy, forces = n * labels["energy"], np.tile(labels["forces"], (n, 1))
    copy.calc = SinglePointCalculator(copy, energy=energy, forces=forces, stress=labels["stress"])
    return copy


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_cell_and_its_supercell_have_equal_losses(function: str) -> None:
    """N18: whatever the function; the guess errs by the same per atom, force and stress component in both."""
    losses = []
    cell = crystals(1)[0]
    for n in (1, 3):
        graph, labels = flatten([frame_of(repeated(cell, n))], cutoff=4.0).batch(torch.tensor([0]))
        wrong = torch.arange(len(cell) * 3, dtype=torch.float64).view(-1, 3).repeat(n, 1) * 0.01
        guess = Properties(labels.energy + 0.07 * graph.n_atoms, labels.forces + wrong, labels.stress + 0.02)
        losses.append(Loss(WEIGHTS, function)(guess, labels, graph).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)


def test_huber_with_a_huge_threshold_is_squared_and_thresholds_are_of_each_quantity() -> None:
    """N18: with frames that lack labels among the others."""
    frames = [*crystals(2), *crystals(2, "forces")]
    graph, labels = flatten([frame_of(a) for a in frames], cutoff=4.0).batch(torch.arange(4))
    energy, forces, stress = (x.nan_to_num() for x in (labels.energy, labels.forces, labels.stress))
    guess = Properties(energy + 0.4, forces + 0.5, stress + 0.6)
    squared = Loss(WEIGHTS)(guess, labels, graph)
    assert Loss(WEIGHTS, "huber", (1e6, 1e6, 1e6))(guess, labels, graph).item() == pytest.approx(squared.item())
    for quantity, residual in ((1, 0.5), (2, 0.6)):
        weights = tuple(float(k == quantity) for k in range(3))
        thresholds = tuple(0.1 if k == quantity else 1e6 for k in range(3))
        found = Loss(weights, "huber", thresholds)(guess, labels, graph).item()  # type: ignore[arg-type]
        assert found == pytest.approx(0.1 * (2 * residual - 0.1))


@pytest.mark.parametrize("value", [0.0, 0.02])
def test_a_stress_without_a_volume_is_left_out_and_said(value: float, tmp_path: Path) -> None:
    """N19: it counts in no denominator, training runs on the rest, and check and info name the frames."""
    frames = [opened(a, (False, False, False), value) for a in crystals(6)] + crystals(16)[6:]
    data = write(tmp_path / "set.h5", frames)
    found = [f for f in check(data).findings if f.check == "stress left out"]
    assert [f.severity for f in found] == ["warning" if value else "note"]
    assert found[0].frames == tuple(range(6))[: len(found[0].frames)] != ()
    assert any("6 frames have a stress" in warning for warning in info(data).warnings)
    result = train(small_recipe(data, tmp_path / "run", "data.validation=8"))
    table = result.metrics["validation"]
    assert np.isfinite(table["stress_mae_meV_per_A3"])
    assert evaluate(result.potential, frames).overall["stress"].n == 9 * 10
    assert "6 stresses left out" in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.parametrize(("pbc", "n"), [((True, False, False), 1), ((True, True, False), 4)])
def test_of_slabs_and_wires_the_stress_along_what_is_periodic_is_learned(
    pbc: tuple[bool, bool, bool], n: int, tmp_path: Path
) -> None:
    """N19, N20: what has no meaning counts nowhere, whatever stands there; log, metrics and evaluation agree."""
    frames = [opened(a, pbc, 0.02) for a in crystals(16)]
    for atoms in frames:
        atoms.calc.results["stress"][2] = 1e6
    graph, labels = flatten([frame_of(frames[0])], cutoff=4.0).batch(torch.tensor([0]))
    guess = Properties(labels.energy, labels.forces, torch.full((1, 3, 3), 0.05, dtype=torch.float64))
    assert Loss((0, 0, 1))(guess, labels, graph).item() == pytest.approx(0.03**2)
    data = write(tmp_path / "set.h5", frames)
    assert not [f for f in check(data).findings if f.check == "stress left out"]
    result = train(small_recipe(data, tmp_path / "run", "data.validation=8"))
    assert "8 stresses (8 along periodic directions alone)" in (tmp_path / "run" / "train.log").read_text()
    assert result.metrics["validation"]["stress_left_out"] == 0
    assert evaluate(result.potential, frames).overall["stress"].n == n * 16


def test_a_stress_of_a_slab_that_is_zero_was_not_computed(tmp_path: Path) -> None:
    data = write(tmp_path / "set.h5", [opened(a, (True, True, False), 0.0) for a in crystals(12)])
    found = [f for f in check(data).findings if f.check == "stress left out"]
    assert [f.severity for f in found] == ["note"]
    with pytest.raises(NothingToLearnError, match="stresses 0"):
        train(small_recipe(data, tmp_path / "run", "loss.energy=0", "loss.forces=0"))


def test_former_keys_of_the_loss_are_read_under_their_new_names() -> None:
    with pytest.warns(FutureWarning, match=r"loss\.(kind|delta)"):
        section = parse_recipe(Recipe, "data: {train: a.h5}", ["loss.kind=huber", "loss.delta=0.2"]).loss
    assert section == LossSection(
        function="huber", energy_threshold=0.2, forces_threshold=0.2, stress_threshold=0.2
    )
    assert make_loss(section).thresholds == (0.2, 0.2, 0.2)
    with pytest.raises(RecipeError, match="function"):
        parse_recipe(Recipe, "data: {train: a.h5}", ["loss.functoin=huber"])
