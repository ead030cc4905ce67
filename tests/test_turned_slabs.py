"""A stress of a slab or wire counts in its own directions alone, and alike however it is turned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from potentials import small_potential
from sets import labeled, write
from structures import shaken

from mlpot.certificate.derivatives import stress as stress_check
from mlpot.certificate.tested import CalculatorUnderTest, of_potential
from mlpot.data.check.check import check
from mlpot.data.check.info import info
from mlpot.data.check.stream import chunks_of
from mlpot.data.check.tally import all_steps, steps_of
from mlpot.data.frame import frame_of
from mlpot.data.sources.read import Source
from mlpot.error_table import QUANTITIES, residuals
from mlpot.evaluate import evaluate
from mlpot.forces import predict
from mlpot.graph import AtomGraph, collate
from mlpot.neighbors import build_graph
from mlpot.rotations import random_rotations, rotated, rotated_labels
from mlpot.training.losses import Labels, Loss

TURNS = random_rotations(3, np.random.default_rng(0), reflections=True)
N_KNOWN = {"slab": 4, "wire": 1}


def slab(seed: int = 0, strain: float = 0.02) -> Atoms:
    rng = np.random.default_rng(seed)
    atoms = fcc111("Cu", (2, 2, 3), a=3.65, vacuum=5.0)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=strain, size=(3, 3))), scale_atoms=True)
    return with_labels(shaken(atoms, seed=seed))


def wire(seed: int = 0) -> Atoms:
    atoms = bulk("Cu", cubic=True, a=3.65) * (1, 1, 2)
    atoms.set_cell(atoms.cell.array + np.diag([9.0, 11.0, 0.0]))
    atoms.pbc = (False, False, True)
    return with_labels(shaken(atoms, seed=seed))


MAKE = {"slab": slab, "wire": wire}


def with_labels(atoms: Atoms, factor: float = 1.0) -> Atoms:
    copy = atoms.copy()
    copy.calc = EMT()
    stress = factor * copy.get_stress()
    atoms = atoms.copy()
    atoms.calc = SinglePointCalculator(
        atoms, energy=copy.get_potential_energy(), forces=copy.get_forces(), stress=stress
    )
    return atoms


def turned(atoms: Atoms, turn: np.ndarray) -> Atoms:
    out = Atoms(atoms.numbers, atoms.positions @ turn.T, cell=atoms.cell.array @ turn.T, pbc=atoms.pbc)
    full = atoms.get_stress(voigt=False)
    stress = (turn @ full @ turn.T)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    forces = atoms.get_forces() @ turn.T
    out.calc = SinglePointCalculator(out, energy=atoms.get_potential_energy(), forces=forces, stress=stress)
    return out


def graph_and_labels(*structures: Atoms) -> tuple[AtomGraph, Labels]:
    frames = [frame_of(atoms) for atoms in structures]
    graphs = [build_graph(f.numbers, f.positions, f.cell, f.pbc, 4.0) for f in frames]
    return collate(graphs), Labels(
        energy=torch.tensor([f.energy for f in frames], dtype=torch.float64),
        forces=torch.from_numpy(np.concatenate([f.forces for f in frames])),
        stress=torch.from_numpy(np.stack([f.stress for f in frames])),
        weight=torch.empty(0, dtype=torch.float64),
    )


@pytest.mark.parametrize("shape", MAKE)
@pytest.mark.parametrize("function", ["squared", "absolute", "huber"])
def test_the_loss_of_a_turned_slab_is_that_of_the_slab(shape: str, function: str) -> None:
    potential, loss = small_potential("schnet", trained=True), Loss((0.0, 0.0, 1.0), function)
    losses = []
    for atoms in (MAKE[shape](), *(turned(MAKE[shape](), turn) for turn in TURNS)):
        graph, labels = graph_and_labels(atoms)
        out = predict(potential, graph)
        error, known = residuals(out, labels, graph)[QUANTITIES.index("stress")]
        assert known.sum() == N_KNOWN[shape]
        assert not error[~known].any()
        losses.append(loss(out, labels, graph).item())
    assert losses[0] > 0
    np.testing.assert_allclose(losses, losses[0], rtol=2e-4)


def test_along_the_axes_the_residuals_are_those_of_the_components() -> None:
    graph, labels = graph_and_labels(slab(strain=0.0), labeled(shaken(bulk("Cu", cubic=True))))
    out = predict(small_potential("schnet", trained=True), graph)
    error, known = residuals(out, labels, graph)[QUANTITIES.index("stress")]
    assert torch.equal(error[1], out.stress[1] - labels.stress[1])
    assert torch.equal(error[0, :2, :2], (out.stress[0] - labels.stress[0])[:2, :2])
    assert known.sum(dim=(1, 2)).tolist() == [4, 9]


def test_a_training_on_turned_copies_keeps_the_stress_of_slabs() -> None:
    graph, labels = graph_and_labels(slab(1), wire(2))
    turns = torch.from_numpy(TURNS[:2])
    there = rotated_labels(labels, graph, turns)
    out = predict(small_potential("schnet", trained=True), rotated(graph, turns))
    known = residuals(out, there, rotated(graph, turns))[QUANTITIES.index("stress")][1]
    assert known.sum(dim=(1, 2)).tolist() == [4, 1]


@pytest.mark.parametrize("shape", MAKE)
def test_figures_of_a_set_do_not_depend_on_how_it_is_turned(shape: str, tmp_path: Path) -> None:
    potential, found = small_potential("schnet", trained=True), []
    for k, turn in enumerate((np.eye(3), *TURNS)):
        path = write(tmp_path / f"{k}.h5", [turned(MAKE[shape](seed), turn) for seed in range(4)])
        error, spread = evaluate(potential, path, output=tmp_path / str(k)).overall["stress"], info(path).stress
        assert (tmp_path / str(k) / "parity.png").exists()
        found.append([error.n, error.mae, error.rmse, error.worst, spread.n, spread.mean, spread.min, spread.max])
    assert found[0][0] == 4 * N_KNOWN[shape]
    np.testing.assert_allclose(np.abs(found), np.abs(found[:1]).repeat(4, axis=0), rtol=2e-4)


def test_the_work_of_the_stress_along_a_strain_of_a_turned_slab_is_its_change_of_energy(tmp_path: Path) -> None:
    first, frames = slab(), []
    strain = TURNS[1] @ np.diag([0.004, -0.002, 0.0]) @ TURNS[1].T
    for k in range(4):
        atoms = turned(first, TURNS[1])
        onto = np.linalg.pinv(atoms.cell.array[atoms.pbc]) @ atoms.cell.array[atoms.pbc]
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + k * onto @ strain @ onto), scale_atoms=True)
        frames.append(with_labels(atoms))
    source = Source(write(tmp_path / "set.h5", frames))
    steps = all_steps([steps_of(chunk) for chunk in chunks_of(source.records())])
    assert len(steps.change) == 3
    np.testing.assert_allclose(steps.work + steps.strain_work, steps.change, atol=1e-4)
    assert np.abs(steps.strain_work).min() > 1e-3


def test_a_wrong_unit_of_the_stress_of_slabs_is_found(tmp_path: Path) -> None:
    slabs = [turned(slab(seed, strain=0.03), TURNS[seed % 3]) for seed in range(20)]
    assert not [f for f in check(write(tmp_path / "right.h5", slabs)).findings if f.check == "stress"]
    wrong = [with_labels(atoms, -1602.18) for atoms in slabs]
    told = [f.message for f in check(write(tmp_path / "wrong.h5", wrong)).findings if f.check == "stress"]
    assert any("kbar" in message and "sign of a pressure" in message for message in told), told


class Wrong(EMT):
    """The stress of what is open in some direction is that of half the volume."""

    def calculate(self, *arguments: object, **more: object) -> None:
        super().calculate(*arguments, **more)
        if not self.atoms.pbc.all() and "stress" in self.results:
            self.results["stress"] = 2 * self.results["stress"]


def test_the_certificate_judges_the_stress_of_slabs() -> None:
    crystal = {"crystal": labeled(shaken(bulk("Cu", a=3.7) * (1, 1, 2)))}
    potential = small_potential("schnet", trained=True)
    assert stress_check(of_potential(potential.double()), crystal).passed
    out = stress_check(CalculatorUnderTest("wrong", Wrong, (29,)), crystal)
    assert not out.passed
    assert "rotated" in out.where
    given = replace(of_potential(potential.double()), name="given")
    assert "of a user" in stress_check(given, {"of a user": turned(slab(), TURNS[0])}).where
