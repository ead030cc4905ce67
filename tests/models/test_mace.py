"""Is MACE the function of mace-torch, and of e3nn?"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from definitions import KNOTS, by_definition, check_energies_and_forces, check_gradients
from e3nn_mace import Definition, Size, description, in_double, o3, state
from places import TESTS
from slow_parts import every_second
from structures import graph_of, worst
from test_symmetry import random_orthogonal
from torch import Tensor

from mlpot.forces import predict
from mlpot.importers.mace_weights import arguments, backbone_weights
from mlpot.models.mace import MACE, paths, products
from mlpot.potential import Potential
from mlpot.stages.coupling import couplings
from mlpot.stages.products import Products
from mlpot.stages.stage import Environments

GOLDEN = json.loads((TESTS / "golden" / "mace_torch.json").read_text())
SIZES = {
    "scalars": Size((1, 6, 8)),
    "one element": Size((29,), n=5, message_degree=1),
    "one layer": Size((1, 6, 8), n_layers=1, residual_first=True),
    "three layers of vectors": Size((1, 6, 8), n_layers=3, message_degree=1, max_degree=2, n=3),
    "degree 2, two factors": Size((1, 6, 8), n=2, message_degree=2, correlation=2, radial=(5, 4), exponent=6),
    "no parity": Size((1, 6, 8), n=3, max_degree=2, message_degree=1, parity=False),
    "no parity, degree 3": Size((1, 6, 8), n=2, message_degree=2, correlation=2, n_layers=3, parity=False),
    "sums alone": Size((1, 6, 8), max_degree=1, correlation=1, n_hidden=1, residual_first=True),
}


@cache
def definition(size: Size) -> Definition:
    return Definition(size)


@cache
def both(size: Size) -> tuple[Definition, Potential]:
    """The definition, and a potential with its weights."""
    model = definition(size)
    weights = state(model)
    sizes = arguments(description(size), weights) | {"n_knots": KNOTS}
    potential = Potential("mace", sizes, reference_energies=dict.fromkeys(size.elements, 0.0)).double()
    own = backbone_weights(description(size), weights)
    potential.backbone.load_state_dict({**potential.backbone.state_dict(), **own})
    return model, potential.freeze()


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: str(case["size"]))
def test_e3nn_and_mlpot_give_the_numbers_of_mace_torch(case: dict[str, Any]) -> None:
    named = {k: tuple(v) if isinstance(v, list) else v for k, v in case["size"].items()}
    model, potential = both(Size(**named))
    for told, answer in zip(GOLDEN["structures"], case["answers"], strict=True):
        graph = graph_of(Atoms(**told))
        positions = graph.positions.clone().requires_grad_()
        energy = by_definition(model, graph, positions).sum()
        (gradient,) = torch.autograd.grad(energy, positions)
        assert worst(energy.item(), answer["energy"]) < 1e-12
        assert worst(-gradient, np.array(answer["forces"])) < 1e-12
        out = predict(potential, graph)
        alone = potential.isolated[potential.element_index[graph.numbers]].sum()
        assert worst(out.energy + alone, answer["energy"]) < 1e-10
        assert worst(out.forces, np.array(answer["forces"])) < 1e-10
        if "stress" in answer:
            assert worst(out.stress[0], np.array(answer["stress"])) < 1e-10


@pytest.mark.parametrize("name", SIZES)
def test_energies_and_forces_are_those_of_e3nn(name: str) -> None:
    check_energies_and_forces(*both(SIZES[name]))


@pytest.mark.parametrize("name", every_second(SIZES))
def test_gradients_of_a_loss_on_forces_are_those_of_e3nn(name: str) -> None:
    size = SIZES[name]
    model, potential = both(size)
    weights = state(model)
    own = [t for t in weights.values() if t.requires_grad]
    check_gradients(model, potential, backbone_weights(description(size), weights), own)


def rotations(degree: int, q: Tensor) -> Tensor:
    """How tensors of the degrees 0 … degree, natural parity, change under an orthogonal matrix."""
    with in_double():
        return o3.Irreps.spherical_harmonics(degree).D_from_matrix(q)  # type: ignore[no-any-return]


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_every_product_turns_as_a_tensor(degree: int) -> None:
    n, terms = 16, products(3, degree, 3)
    last = max(t.path for t in terms) + 1
    x = torch.randn(2, n, last, dtype=torch.float64)
    at = Environments(torch.zeros(2, dtype=torch.int64), None, None)  # type: ignore[arg-type]
    weight = torch.eye(last, dtype=torch.float64)
    x = x[..., :1].expand(-1, -1, last).contiguous()
    for seed in range(3):
        q = torch.from_numpy(random_orthogonal(np.random.default_rng(seed)))
        turned = torch.einsum("ab,nbc->nac", rotations(3, q), x)
        stage = Products(terms, weight)
        expected = torch.einsum("ab,nbc->nac", rotations(degree, q), stage.value(at, x))
        assert worst(stage.value(at, turned), expected) < 1e-9
        assert (stage.value(at, x).abs().amax((0, 1)) > 1e-9).all()


@pytest.mark.parametrize(("message", "harmonics"), [(0, 3), (1, 3), (2, 3), (2, 2)])
def test_every_path_turns_as_a_tensor(message: int, harmonics: int) -> None:
    q = torch.from_numpy(random_orthogonal(np.random.default_rng(5)))
    for path in paths(message, harmonics):
        w = torch.zeros(2 * path.source + 1, 2 * path.harmonic + 1, 2 * path.target + 1, dtype=torch.float64)
        for c in couplings(*path):
            w[c.m1, c.m2, c.m] = c.value
        one, two, three = (rotations(k, q)[k**2 :, k**2 :] for k in path)
        before, after = torch.einsum("abc,ai,bj->ijc", w, one, two), torch.einsum("ijk,ck->ijc", w, three)
        assert worst(before, after) < 1e-12
        expected = o3.wigner_3j(*path, dtype=torch.float64) * (2 * path.target + 1) ** 0.5
        assert worst(w, expected) < 1e-12


@pytest.mark.parametrize(
    ("name", "value"), [("max_degree", 4), ("message_degree", 3), ("correlation", 4), ("max_degree", 1)]
)
def test_arguments_that_make_no_network_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=r"max_degree|message_degree|correlation"):
        MACE(elements=(1,), **{"message_degree": 2, name: value})
