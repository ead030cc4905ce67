"""Are the messages of EGNN in compiled loops those of its modules, with all their derivatives?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_native import ELEMENTS, graph_of, n_threads_for_anything, structures

from mlpot.forces import hessian_vector_product, predict
from mlpot.graph import AtomGraph, Properties, collate
from mlpot.potential import Potential

pytest.importorskip("numba", reason="the native calls are compiled by Numba, an optional extra")
VARIANTS = {
    "moving": {},
    "still": {"move_coordinates": False},
    "attentive": {"attention": True},
    "odd basis": {"n_radial": 13, "radial": "bessel"},
}


def made(dtype: torch.dtype = torch.float64, **arguments: object) -> Potential:
    torch.manual_seed(0)
    sizes = {"n_features": 32, "n_layers": 3, **arguments}
    return Potential("egnn", sizes, reference_energies=ELEMENTS).to(dtype).freeze()


def batch() -> AtomGraph:
    return collate([graph_of(atoms) for atoms in structures()])


def by_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlpot.models.egnn.native_messages", lambda *_: None)


def deviation(a: Properties, b: Properties) -> float:
    """Greatest difference of forces and stress, relative to the greatest value."""
    pairs = ((a.forces, b.forces), (a.stress.nan_to_num(), b.stress.nan_to_num()))
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in pairs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_energy_forces_and_stress_are_those_of_the_modules(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    potential, graph = made(**VARIANTS[variant]), batch()
    native = predict(potential, graph)
    by_modules(monkeypatch)
    plain = predict(potential, graph)
    assert torch.allclose(native.energy, plain.energy, rtol=0, atol=1e-9)
    assert deviation(native, plain) <= 1e-11


def test_float32_is_no_worse_than_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    potential, graph = made(torch.float32), batch()
    native = predict(potential, graph)
    by_modules(monkeypatch)
    plain, exact = predict(potential, graph), predict(potential.to(torch.float64), graph)
    assert deviation(native, exact) <= 2e-6 + deviation(plain, exact)


def test_curvature_is_that_of_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    potential, graph = made(attention=True), graph_of(structures()[1])
    direction = torch.from_numpy(np.random.default_rng(0).normal(size=(graph.n_atoms, 3)))
    native = hessian_vector_product(potential, graph, direction)
    by_modules(monkeypatch)
    plain = hessian_vector_product(potential, graph, direction)
    assert (native - plain).abs().max() <= 1e-11 * plain.abs().max()


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_results_do_not_depend_on_the_number_of_threads(n_threads: int) -> None:
    potential, graph = made(torch.float32), batch()
    alone = predict(potential, graph)
    with n_threads_for_anything(n_threads):
        shared = predict(potential, graph)
    assert torch.allclose(shared.forces, alone.forces, rtol=0, atol=1e-6)


def test_weights_that_may_change_go_by_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    potential, graph = made(), graph_of(structures()[0])
    potential.train().requires_grad_(True)
    found = predict(potential, graph, training=True).forces.square().sum()
    by_modules(monkeypatch)
    assert torch.equal(found, predict(potential, graph, training=True).forces.square().sum())


def test_a_second_layer_after_the_sum_is_one_an_atom(monkeypatch: pytest.MonkeyPatch) -> None:
    potential, graph = made(second_linear="sum", move_coordinates=False), batch()
    layer, edges = potential.backbone.layers[0], graph.edges
    a, b = torch.randn(2, edges.n_atoms, 32, dtype=torch.float64)
    radial, weight = torch.randn(len(edges), 32, dtype=torch.float64), torch.rand(len(edges), dtype=torch.float64)
    summed, along = layer.messages(edges, a, b, radial, weight)
    z = a[edges.center] + b[edges.neighbor] + layer.from_distance(radial)
    each = torch.nn.functional.silu(z) @ layer.after_sum.weight.T * weight[:, None]
    assert along is None
    assert torch.allclose(summed, torch.zeros_like(a).index_add(0, edges.center, each), rtol=0, atol=1e-11)
    forces = predict(potential, graph).forces
    by_modules(monkeypatch)
    assert torch.equal(predict(potential, graph).forces, forces)
