"""Is the SE(3)-Transformer what e3nn's parts make, smooth for an only neighbor, and safe for large logits?"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from definitions import check_energies_and_forces, check_gradients
from e3nn_se3_transformer import Definition, Size, weights
from slow_parts import every_second
from structures import CUTOFF, ELEMENTS, copper, evaluate, graph_of, worst
from test_handedness import chiral, mirrored
from test_symmetry import random_orthogonal, turned
from torch import Tensor

from mlpot.forces import native_obstacle
from mlpot.graph import Edges
from mlpot.models import se3_transformer
from mlpot.models.attention import attention_weights
from mlpot.models.se3_transformer import SE3Transformer
from mlpot.potential import Potential
from mlpot.training.expectation import say_handedness
from mlpot.training.messages import LOG, Messages

SIZES = {
    "vectors": Size((1, 6, 8), max_degree=1),
    "one element": Size((29,), n=6, heads=3, n_layers=2, exponent=5),
    "one head": Size((1, 6, 8), heads=1, n_layers=2),
    "one layer": Size((1, 6, 8), n_layers=1),
    "four layers": Size((1, 6, 8), n_layers=4, n=2, radial=(5, 4)),
    "degree 3": Size((1, 6, 8), n=2, max_degree=3),
    "no parity": Size((1, 6, 8), parity=False),
    "no parity, degree 3": Size((1, 6, 8), n=2, max_degree=3, parity=False),
}


@cache
def both(size: Size) -> tuple[Definition, Potential]:
    """The definition, and a potential with its weights."""
    model = Definition(size)
    references = dict.fromkeys(size.elements, 0.0)
    potential = Potential("se3_transformer", size.arguments(), reference_energies=references).double()
    backbone = potential.backbone
    assert isinstance(backbone, SE3Transformer)
    backbone.load_state_dict(weights(model, backbone))
    return model, potential.freeze()


@pytest.mark.parametrize("name", SIZES)
def test_energies_and_forces_are_those_of_e3nn(name: str) -> None:
    check_energies_and_forces(*both(SIZES[name]))


@pytest.mark.parametrize("name", every_second(SIZES))
def test_gradients_of_a_loss_on_forces_are_those_of_e3nn(name: str) -> None:
    model, potential = both(SIZES[name])
    backbone = potential.backbone
    assert isinstance(backbone, SE3Transformer)
    check_gradients(model, potential, weights(model, backbone), list(model.parameters()))


def made(**changes: object) -> Potential:
    """Of the energies of a network alone."""
    torch.manual_seed(3)
    arguments = {"cutoff": CUTOFF, "n_features": 8, "n_heads": 2, "n_interactions": 3, **changes}
    references = dict.fromkeys(ELEMENTS, 0.0)
    return Potential("se3_transformer", arguments, reference_energies=references).double().freeze()


@pytest.mark.parametrize("max_degree", [1, 2, 3])
def test_every_degree_turns(max_degree: int) -> None:
    potential, atoms = made(max_degree=max_degree), copper()
    out = evaluate(potential, atoms)
    assert out.forces.abs().max() > 1e-4  # or there is nothing to turn
    for seed in range(3):
        q = random_orthogonal(np.random.default_rng(seed))
        after = evaluate(potential, turned(atoms, q))
        assert worst(after.energy, out.energy) < 1e-11
        assert worst(after.forces, out.forces @ torch.from_numpy(q).T) < 1e-11


def one_neighbor(d: float) -> Atoms:
    """Two atoms, each the other's only neighbor."""
    return Atoms("CuO", positions=[(0, 0, 0), (d, 0, 0)])


def end_of_a_chain(d: float) -> Atoms:
    """The first atom has one neighbor, which has another."""
    return Atoms("CuOSi", positions=[(0, 0, 0), (d, 0, 0), (d + 1.2, 1.1, 0.3)])


def several(d: float) -> Atoms:
    """The first atom has three neighbors beside one at distance d, which has them too."""
    others = [(1.3, 1.4, 0.3), (1.5, -1.2, 0.8), (1.9, 0.2, -1.5)]
    return Atoms("CuOSiCH", positions=[(0, 0, 0), (d, 0, 0), *others])


def jumps(potential: Potential, scan, h: float) -> tuple[float, float, float]:  # type: ignore[no-untyped-def]
    """Between both sides of the cutoff, of energy, slope and curvature, by differences of energies over h."""
    e = evaluate(potential, *(scan(CUTOFF + k * h) for k in (-3, -2, -1, 1, 2, 3))).energy.numpy()
    below, above = e[2::-1], e[3:]
    slope = [(y[0] - y[1]) / h for y in (below, above)]
    curvature = [(y[0] - 2 * y[1] + y[2]) / h**2 for y in (below, above)]
    return abs(above[0] - below[0]), abs(slope[0] + slope[1]), abs(curvature[0] - curvature[1])


@pytest.mark.parametrize("scan", [one_neighbor, end_of_a_chain, several])
def test_energies_have_two_continuous_derivatives_at_the_cutoff(scan) -> None:  # type: ignore[no-untyped-def]
    inside, outside = (len(graph_of(scan(CUTOFF + side)).edges) for side in (-1e-4, 1e-4))
    assert inside == outside + 2, "one pair must cross the cutoff"
    potential = made()
    coarse, fine = (jumps(potential, scan, h) for h in (4e-3, 4e-4))
    for k in range(3):  # each goes to zero with h: the curvature itself as h
        assert fine[k] < 0.2 * coarse[k]
    assert coarse[2] > 1e-6  # or nothing ends there


def test_a_softmax_alone_would_pull_an_only_neighbor_up_to_the_cutoff(monkeypatch: pytest.MonkeyPatch) -> None:
    def softmax(logits: Tensor, envelope: Tensor, edges: Edges) -> Tensor:
        part = torch.exp(logits)
        return part / part.new_zeros(edges.n_atoms, part.shape[1]).index_add(0, edges.center, part)[edges.center]

    monkeypatch.setattr(se3_transformer, "attention_weights", softmax)
    coarse, fine = (jumps(made(), one_neighbor, h) for h in (4e-3, 4e-4))
    assert fine[1] > 0.9 * coarse[1] > 1e-2  # values end as Bessel functions do: with a slope


def star(n: int) -> Edges:
    """One atom with n neighbors, and one without any."""
    hub, leaves = torch.zeros(n, dtype=torch.int64), torch.arange(1, n + 1)
    row_ptr = torch.tensor([0, *range(n, 2 * n + 1), 2 * n])
    return Edges(torch.cat([hub, leaves]), torch.cat([leaves, hub]), row_ptr, torch.arange(2 * n).roll(n))


def test_weights_of_attention_are_those_of_their_formula() -> None:
    edges, f64 = star(5), torch.float64
    s, u = 3 * torch.randn(10, 2, dtype=f64), torch.rand(10, dtype=f64)
    u[3] = 0.0
    part = u[:, None] * s.exp()
    total = 1 + torch.stack([part[edges.center == i].sum(0) for i in range(edges.n_atoms)])
    found = attention_weights(s, u, edges)
    assert worst(found, part / total[edges.center]) < 1e-15
    assert (found[3] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_large_logits_give_finite_weights_and_derivatives(size: float, dtype: torch.dtype) -> None:
    edges = star(6)
    s = (size * torch.tensor([1.0, -1.0, 0.5, 1.0, -0.2, 0.0], dtype=dtype)).repeat(2)[:, None].requires_grad_()
    u = torch.tensor([0.7, 1.0, 0.3, 0.0, 6e-8, -6e-8], dtype=dtype).repeat(2).requires_grad_()
    alpha = attention_weights(s, u, edges)
    wave = torch.sin(torch.arange(12, dtype=dtype))[:, None]
    (by_s,) = torch.autograd.grad((alpha * wave).sum(), s, create_graph=True)
    second = torch.autograd.grad(by_s.square().sum() + by_s.sum(), (s, u))
    for values in (alpha, by_s, *second):
        assert values.isfinite().all()
    sums = alpha.new_zeros(edges.n_atoms, 1).index_add(0, edges.center, alpha)
    assert (alpha >= 0).all()
    assert (sums <= 1 + 1e-6).all()
    assert alpha[0] == 1  # the largest takes all
    assert (alpha[3], alpha[9]) == (0, 0)  # but one beyond the cutoff takes nothing, however large


@pytest.mark.parametrize(("n_interactions", "told"), [(1, False), (2, True), (3, True)])
@pytest.mark.parametrize("parity", [True, False])
def test_mirror_images_without_parity(n_interactions: int, told: bool, parity: bool, tmp_path: Path) -> None:
    potential = made(n_interactions=n_interactions, parity=parity, max_degree=1)
    one, other = (evaluate(potential, atoms).energy.item() for atoms in (chiral(), mirrored(chiral())))
    assert abs(one - other) > 1e-7 if told and not parity else abs(one - other) < 1e-12
    messages = Messages(show=False)
    messages.write_to(tmp_path)
    if parity:
        assert potential.mirror_images == "have one energy"
    elif told:
        say_handedness(potential, messages)
        assert (tmp_path / LOG).read_text() == "Handedness: mirror images are told apart\n"
    else:
        with pytest.warns(match="a pseudoscalar needs n_interactions of 2 or more"):
            say_handedness(potential, messages)


def test_it_says_why_no_compiled_code_computes_it() -> None:
    assert native_obstacle(made()) == "SE3Transformer is not made of stages"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"max_degree": 4}, "max_degree is 4, expected one of 1, 2, 3"),
        ({"n_features": 10, "n_heads": 4}, "n_features is 10, which 4 heads cannot share"),
    ],
)
def test_arguments_that_make_no_network_are_refused(arguments: dict[str, int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        SE3Transformer(**arguments)  # type: ignore[arg-type]  # numbers
