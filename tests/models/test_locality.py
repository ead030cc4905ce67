"""What is beyond the cutoff does not matter, and crossing it is smooth."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from potentials import VARIANTS, new_potential
from structures import CUTOFF, ELEMENTS, REFERENCES, copper, evaluate, graph_of, isolated_atom, worst

from mlpot.forces import hessian_vector_product
from mlpot.graph import edge_vectors
from mlpot.models import BACKBONES
from mlpot.potential import Potential


def with_argument(name: str) -> list[str]:
    """Variants of which one can choose something."""
    return [v for v, (b, _) in VARIANTS.items() if name in inspect.signature(BACKBONES[b]).parameters]


def dimer(distance: float) -> tuple[Atoms, np.ndarray]:
    """Two atoms, and the displacement of the second that stretches them."""
    along = np.array([2.0, -1.0, 2.0]) / 3
    return Atoms("CuO", positions=[(0, 0, 0), distance * along]), np.array([np.zeros(3), along])


def in_crystal(distance: float) -> tuple[Atoms, np.ndarray]:
    """A crystal with one pair at a distance, all else as it was but for the atom that was moved."""
    atoms = copper()
    graph = graph_of(atoms, CUTOFF)
    vectors = edge_vectors(graph)
    d = torch.linalg.vector_norm(vectors, dim=-1).where(graph.edges.center != graph.edges.neighbor, 0.0)
    e = int(d.argmax())
    along = (vectors[e] / d[e]).numpy()
    displacement = np.zeros((len(atoms), 3))
    displacement[int(graph.edges.neighbor[e])] = along
    atoms.positions += (distance - float(d[e])) * displacement
    return atoms, displacement


pytestmark = pytest.mark.pairs
SCANS = pytest.mark.parametrize("scan", [dimer, in_crystal])


def jump_of_curvature(potential: Potential, scan, step: float) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """Change of dF/dr from cutoff − step to cutoff + step, and the largest dF/dr up to there."""
    curvature = []
    for distance in (CUTOFF - step, CUTOFF + step, *np.linspace(CUTOFF - 0.6, CUTOFF, 7)):
        atoms, displacement = scan(distance)
        v = torch.from_numpy(displacement)
        curvature.append(float((v * hessian_vector_product(potential, graph_of(atoms), v)).sum()))
    return abs(curvature[1] - curvature[0]), float(np.abs(curvature).max())


@SCANS
def test_energy_and_forces_are_continuous_at_the_cutoff(potential: Potential, scan) -> None:  # type: ignore[no-untyped-def]
    # A step so small that only a jump could reach the bars: 2e-11 Å against forces of some eV/Å.
    before, after = (evaluate(potential, scan(CUTOFF + side * 1e-11)[0]) for side in (-1, 1))
    n_edges = [len(graph_of(scan(CUTOFF + side * 1e-11)[0]).edges) for side in (-1, 1)]
    assert n_edges[0] > n_edges[1], "the scan must cross the cutoff"
    assert worst(before.energy, after.energy) <= 1e-9
    assert worst(before.forces, after.forces) <= 1e-8


@SCANS
def test_the_derivative_of_the_force_is_continuous_at_the_cutoff(potential: Potential, scan) -> None:  # type: ignore[no-untyped-def]
    jumps, largest = zip(*(jump_of_curvature(potential, scan, step) for step in (1e-4, 1e-5, 1e-6)), strict=True)
    assert jumps[1] <= 1e-3 * largest[1]
    if jumps[0] > 1e-9:  # else it is lost among rounding: a basis that vanishes at the cutoff leaves no jump
        assert jumps[0] / jumps[1] > 9  # it vanishes with the step: C2
    if jumps[1] > 1e-9:
        assert jumps[1] / jumps[2] > 9


@pytest.mark.parametrize("variant", with_argument("envelope"))
@SCANS
def test_the_cosine_envelope_is_only_c1(variant: str, scan) -> None:  # type: ignore[no-untyped-def]
    potential = new_potential(variant, envelope="cosine").freeze()
    before, after = (evaluate(potential, scan(CUTOFF + side * 1e-11)[0]) for side in (-1, 1))
    assert worst(before.energy, after.energy) <= 1e-9
    assert worst(before.forces, after.forces) <= 1e-8
    jumps = [jump_of_curvature(potential, scan, step)[0] for step in (1e-5, 1e-6)]
    if variant == "transformer" and scan is dimer:  # an only neighbor's message has the square of the envelope
        assert max(jumps) < 1e-6
        return
    assert jumps[0] > 1e-6
    assert abs(jumps[0] / jumps[1] - 1) < 0.1  # it stays, however small the step


@pytest.mark.parametrize("variant", with_argument("radial"))
@pytest.mark.parametrize("radial", ["bessel", "expnormal"])
def test_every_radial_basis_is_smooth_at_the_cutoff(variant: str, radial: str) -> None:
    potential = new_potential(variant, radial=radial).freeze()
    jumps = [jump_of_curvature(potential, dimer, step)[0] for step in (1e-6, 1e-7)]
    assert jumps[0] / jumps[1] > 9  # 10 is C2; a basis that vanishes there too does better


def test_an_isolated_atom_has_its_reference_energy_and_no_force(potential: Potential) -> None:
    atoms = [isolated_atom(z) for z in ELEMENTS]
    out = evaluate(potential, *atoms)
    assert worst(out.energy, [REFERENCES[z] for z in ELEMENTS]) <= 1e-10
    assert (out.forces == 0).all()
    assert out.stress.isnan().all()


def test_an_isolated_atom_in_a_large_periodic_box_has_no_stress(potential: Potential) -> None:
    out = evaluate(potential, Atoms("C", cell=[20, 21, 22], pbc=True))
    assert worst(out.energy, REFERENCES[6]) <= 1e-10
    assert (out.forces == 0).all()
    assert (out.stress == 0).all()


def test_atoms_beyond_the_cutoff_do_not_see_each_other(potential: Potential) -> None:
    out = evaluate(potential, Atoms("CO", positions=[(0, 0, 0), (0, 0, CUTOFF)]))
    assert worst(out.energy, REFERENCES[6] + REFERENCES[8]) <= 1e-10
    assert (out.forces == 0).all()


def test_a_molecule_far_away_changes_nothing(potential: Potential) -> None:
    near, far = copper(), Atoms("CO", positions=[(0, 0, 0), (1.1, 0.2, 0)])
    near.pbc = False
    far.positions += 30.0
    together, apart = evaluate(potential, near + far), evaluate(potential, near, far)
    assert worst(together.energy, apart.energy.sum()) <= 1e-11 * 10
    assert worst(together.forces, apart.forces) <= 1e-10


def test_no_neighbor_is_dropped_however_many_there_are(variant: str) -> None:
    """Four times the density of copper: more than 250 neighbors of every atom."""
    potential = new_potential(variant, cutoff=6.0).freeze()
    atoms = bulk("Cu", "fcc", a=3.61 / 4 ** (1 / 3))
    atoms.rattle(0.02, seed=0)
    graph = graph_of(atoms, 6.0)
    assert len(graph.edges) == len(neighbor_list("i", atoms, 6.0)) > 250
    one, eight = evaluate(potential, atoms), evaluate(potential, atoms * (2, 2, 2))
    assert worst(eight.energy / 8, one.energy) <= 1e-11 * abs(float(one.energy))
    # Continuous while neighbors come and go: over a small move, the energy changes as the force says.
    pair = atoms * (2, 1, 1)
    direction = np.array([0.6, 0.0, 0.8])
    for shift in np.linspace(0, 0.2, 21):
        pair.positions[0] = shift * direction
        moved = pair.copy()
        moved.positions[0] += 1e-6 * direction
        before, after = evaluate(potential, pair, moved).energy
        slope = -float(evaluate(potential, pair).forces[0] @ torch.from_numpy(direction))
        assert abs(float(after - before) - 1e-6 * slope) <= 1e-9
