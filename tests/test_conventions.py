"""One test for each sentence of `mlpot/units.py`, in its order."""

from __future__ import annotations

import ast

import ase.units
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress
from potentials import small_potential
from structures import copper, ethanol, evaluate, graph_of, worst
from test_house import FILES, imports, room
from torch import Tensor

from mlpot import units
from mlpot.calculator import MLPotCalculator
from mlpot.forces import predict
from mlpot.graph import Edges, edge_vectors
from mlpot.neighbors import build_graph


class Springs:
    """E = ½ Σ_ij ½ k (d_ij − d₀)²: every derivative is known by heart."""

    dtype = torch.float64
    k, d0 = 2.0, 1.0  # eV/Å², Å

    def __call__(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        pair = 0.5 * self.k * (vectors.norm(dim=-1) - self.d0) ** 2
        return vectors.new_zeros(edges.n_atoms).index_add(0, edges.center, pair / 2)

    def reference_energies(self, numbers: Tensor) -> Tensor:
        return torch.zeros(len(numbers), dtype=torch.float64)


def test_energy_is_in_ev_and_length_in_angstrom() -> None:
    # Two atoms 1.5 Å apart on a spring of 2 eV/Å², 0.5 Å longer than it wants: ¼ eV and 1 eV/Å.
    out = evaluate(Springs(), Atoms("H2", positions=[(0, 0, 0), (0, 0, 1.5)]))
    assert out.energy.item() == pytest.approx(0.25, abs=1e-15)
    assert out.forces.abs().max().item() == pytest.approx(1.0, abs=1e-15)
    assert units.HOUSE_UNITS == {
        "positions": "angstrom",
        "cell": "angstrom",
        "energy": "eV",
        "forces": "eV/angstrom",
        "stress": "eV/angstrom^3",
    }


def test_house_units_are_those_of_ase() -> None:
    # eV, Å, u and K are 1 in ASE, and our fs are turned into ASE's time unit at the door.
    assert (ase.units.eV, ase.units.Angstrom, ase.units._amu * ase.units.kg) == pytest.approx((1, 1, 1), rel=1e-12)
    atoms = copper()
    out = evaluate(potential := small_potential().freeze(), atoms)
    atoms.calc = MLPotCalculator(potential)
    assert atoms.get_potential_energy() == pytest.approx(out.energy.item(), rel=1e-14)
    assert worst(atoms.get_forces(), out.forces) <= 1e-12


def test_cell_vectors_are_rows() -> None:
    cell = np.array([[2.0, 0.3, 0.1], [0.0, 5.0, 0.4], [0.2, 0.0, 6.0]])
    graph = build_graph([1], [(0, 0, 0)], cell, True, 2.5)
    assert worst(edge_vectors(graph), np.stack([-cell[0], cell[0]])) == 0.0


def test_an_edge_goes_from_center_to_neighbor() -> None:
    atoms = Atoms("CO", positions=[(0.1, 0.2, 0.3), (3.9, 0.3, 0.1)], cell=[4, 5, 6], pbc=True)
    graph = graph_of(atoms, 1.5)
    e = int((graph.edges.center == 0).nonzero())
    i, j, s = graph.edges.center[e], graph.edges.neighbor[e], graph.cell_shift[e]
    expected = graph.positions[j] + s @ graph.cell[0] - graph.positions[i]
    assert s.tolist() == [-1, 0, 0]
    assert worst(edge_vectors(graph)[e], expected) < 1e-15
    assert worst(expected, [-0.2, 0.1, -0.2]) < 1e-15


def test_force_is_minus_the_gradient() -> None:
    # A stretched spring pulls the second atom back.
    out = evaluate(Springs(), Atoms("H2", positions=[(0, 0, 0), (0, 0, 1.5)]))
    assert worst(out.forces, [[0, 0, 1.0], [0, 0, -1.0]]) <= 1e-15


@pytest.mark.parametrize(("length", "sign"), [(1.1, 1), (0.9, -1)])
def test_stress_is_positive_when_the_crystal_is_stretched(length: float, sign: int) -> None:
    cell = np.diag([length, 4.0, 5.0])
    stress = predict(Springs(), build_graph([1], [(0, 0, 0)], cell, True, 1.5)).stress[0]
    # One bond a cell: V σ_xx = ∂E/∂ε = k (d − d₀) d.
    expected = 2.0 * (length - 1.0) * length / np.linalg.det(cell)
    assert stress[0, 0].item() == pytest.approx(expected, abs=1e-15)
    assert stress[0, 0].sign().item() == sign
    assert stress.count_nonzero() == 1


def test_voigt_order_at_the_ase_door() -> None:
    atoms = copper()
    atoms.calc = MLPotCalculator(small_potential().freeze())
    full = evaluate(atoms.calc.potential, atoms).stress[0].numpy()
    order = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    assert worst(atoms.get_stress(voigt=True), [full[a, b] for a, b in order]) <= 1e-14
    assert worst(atoms.get_stress(voigt=False), full) <= 1e-14
    assert worst(full_3x3_to_voigt_6_stress(full), [full[a, b] for a, b in order]) <= 1e-14


def test_voigt_order_appears_only_at_the_ase_door() -> None:
    assert {room(path) for path in FILES if any("voigt" in name for name in imports(path))} <= {
        "calculator",
        "predictions",  # both hand results to ASE; columns of stress in H5MD have its order too
        "certificate",  # judges the order in which calculators hand them over
        "data",
    }


def test_an_answer_that_does_not_exist_is_nan() -> None:
    out = evaluate(Springs(), ethanol(), copper())
    assert out.stress[0].isnan().all()
    assert out.stress[1].isfinite().all()


def test_only_doors_convert() -> None:
    tables = {"LENGTH", "ENERGY", "PRESSURE", "FORCE", "TIME", "RYDBERG", "KCAL_MOL", "KJ_MOL", "KBAR"}
    for path in FILES:
        taken = {name.rpartition(".")[2] for name in imports(path) if name.startswith("mlpot.units.")}
        assert not taken & tables or room(path) in {"data", "dynamics"}, f"{path.name} converts {taken & tables}"


def test_factors_are_codata_2018() -> None:
    e, n_a, hartree_joule, bohr_metre = 1.602176634e-19, 6.02214076e23, 4.3597447222071e-18, 5.29177210903e-11
    assert pytest.approx(hartree_joule / e, rel=1e-12) == units.HARTREE
    assert pytest.approx(bohr_metre * 1e10, rel=1e-15) == units.BOHR
    assert pytest.approx(units.HARTREE / 2, rel=1e-15) == units.RYDBERG
    assert pytest.approx(4184 / n_a / e, rel=1e-14) == units.KCAL_MOL
    assert pytest.approx(1000 / n_a / e, rel=1e-14) == units.KJ_MOL
    assert pytest.approx(1e9 * 1e-30 / e, rel=1e-14) == units.GPA
    assert pytest.approx(1e8 * 1e-30 / e, rel=1e-14) == units.KBAR
    assert pytest.approx(1e5 * 1e-30 / e, rel=1e-14) == units.BAR
    assert units.FORCE["hartree/bohr"] == pytest.approx(51.4220674763, rel=1e-11)
    assert units.PRESSURE["hartree/bohr^3"] == pytest.approx(29421.015697 * units.GPA, rel=1e-10)


def test_every_sentence_has_a_test() -> None:
    """The law has as many statements as this file tests: a new one needs a new test, and changes this count."""
    text = ast.get_docstring(ast.parse(next(p for p in FILES if p.name == "units.py").read_text()))
    assert text is not None
    assert [line.split()[0] for line in text.splitlines()[2:] if line] == [
        "Length", "Cell", "Edge", "Force", "Voigt", "An", "Nothing", "factors",
    ]  # fmt: skip
