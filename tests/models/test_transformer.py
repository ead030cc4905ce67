"""The network without built-in symmetry: attention is smooth at the cutoff, and rotations are not built in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from potentials import new_potential, small_potential
from structures import CUTOFF, ELEMENTS, REFERENCES, ethanol, evaluate

from mlpot import MLPotCalculator
from mlpot.equivariance import RotationWarning, rotated_copies
from mlpot.forces import native_obstacle
from mlpot.models.transformer import Attention
from mlpot.neighbors import build_graph
from mlpot.potential import Potential

PBC = np.zeros(3, dtype=bool)


def dimer(distance: float) -> Atoms:
    return Atoms("CO", [(0, 0, 0), (0.6 * distance, 0, 0.8 * distance)])


def test_the_message_of_an_only_neighbor_vanishes_as_smoothly_as_the_envelope() -> None:
    """N27: a softmax over one neighbor is 1 up to the cutoff, where the energy would jump."""
    potential = small_potential("transformer", trained=True).freeze()
    potential.energy_shift.zero_()
    h = 1e-2 * CUTOFF
    apart = REFERENCES[6] + REFERENCES[8]
    near, nearer = (evaluate(potential, dimer(CUTOFF - step)).energy.item() - apart for step in (h, 2 * h))
    assert 7 < nearer / near < 70  # the envelope falls with the third power of the distance to the cutoff
    assert abs(near) < 1e-3
    assert evaluate(potential, dimer(CUTOFF)).energy.item() == apart


@pytest.mark.parametrize("n_features", [1, 2, 3])
def test_features_that_a_norm_leaves_without_forces_are_refused(n_features: int) -> None:
    """The norm of one number is constant; that of two is ±1, by which of them is the larger one."""
    if n_features < 3:
        with pytest.raises(ValueError, match=f"n_features is {n_features}.* 3 or more"):
            new_potential("transformer", n_features=n_features, n_heads=1)
        return
    potential = new_potential("transformer", n_features=n_features, n_heads=1)
    assert evaluate(potential, ethanol()).forces.abs().max() > 1e-2


def test_weights_of_attention_are_the_formula() -> None:
    torch.manual_seed(1)
    n, layer = 8, Attention(n_features=8, n_heads=2, n_edge=5, activation="silu").double()
    atoms = ethanol()
    edges = build_graph(atoms.numbers, atoms.positions, np.zeros((3, 3)), atoms.pbc, CUTOFF).edges
    x = 3 * torch.randn(edges.n_atoms, n, dtype=torch.float64)
    features = 30 * torch.randn(len(edges), 5, dtype=torch.float64)  # scores of which exp alone would overflow
    u = torch.rand(len(edges), dtype=torch.float64)
    y = layer.norm(x)
    expected = x.clone()
    for i in range(edges.n_atoms):
        here = torch.arange(len(edges))[edges.center == i]
        k, v = (layer.of_neighbor(y[edges.neighbor[here]]) + layer.edge(features[here])).chunk(2, dim=1)
        for head in (slice(0, 4), slice(4, 8)):
            scores = k[:, head] @ layer.query(y[i])[head] / 2
            a = torch.softmax(torch.cat([scores + u[here].log(), scores.new_zeros(1)]), dim=0)[:-1]
            expected[i] += layer.out.weight[:, head] @ ((a * u[here]) @ v[:, head])
    expected += layer.out.bias
    expected = expected + layer.update(layer.norm_of_sum(expected))
    torch.testing.assert_close(layer(x, edges, features, u), expected, rtol=1e-10, atol=1e-10)


def test_large_scores_leave_finite_energies_and_forces() -> None:
    potential = new_potential("transformer")
    with torch.no_grad():
        for layer in potential.backbone.layers:  # type: ignore[attr-defined]
            layer.query.weight *= 1e4
    out = evaluate(potential.freeze(), ethanol())
    assert out.energy.isfinite().all()
    assert out.forces.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_envelope_that_is_rounded_below_zero_leaves_finite_weights(dtype: torch.dtype) -> None:
    layer = Attention(n_features=8, n_heads=2, n_edge=5, activation="silu").to(dtype)
    edges = build_graph(np.array([6, 8]), np.array([[0.0, 0, 0], [1, 0, 0]]), np.zeros((3, 3)), PBC, CUTOFF).edges
    features = 1e3 * torch.ones(2, 5, dtype=dtype)
    for u in (-1e-7, 0.0, 1e-40):
        x = torch.ones(2, 8, dtype=dtype) + torch.arange(8)
        assert layer(x, edges, features, torch.full((2,), u, dtype=dtype)).isfinite().all()


def test_it_says_aloud_what_it_lacks() -> None:
    potential = small_potential("transformer", trained=True).freeze()
    assert native_obstacle(potential) == "Transformer is not made of stages"
    assert potential.mirror_images == "are told apart"
    assert rotated_copies(potential) == "rotated copies were not compared"
    with pytest.warns(RotationWarning, match="no built-in symmetry: rotated copies were not compared"):
        MLPotCalculator(potential)
    assert rotated_copies(new_potential("schnet")) == "have one energy"


def test_a_rotated_molecule_has_another_energy() -> None:
    potential, atoms = small_potential("transformer", trained=True).freeze(), ethanol()
    turned = atoms.copy()
    turned.rotate(90, "z")
    one, other = (evaluate(potential, a).energy.item() for a in (atoms, turned))
    assert abs(one - other) > 1e-3


def test_features_that_do_not_divide_among_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="no multiple of n_heads"):
        Potential("transformer", {"n_features": 30, "n_heads": 4}, reference_energies=dict.fromkeys(ELEMENTS, 0.0))
