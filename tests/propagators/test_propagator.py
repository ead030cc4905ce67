"""What a propagator keeps by construction: symmetry, momentum, angular momentum, the flight of the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mlpot.model_file import ModelFileError
from mlpot.propagators.errors import errors_of
from mlpot.propagators.frame_pairs import FramePairs
from mlpot.propagators.network import VelocityNetwork
from mlpot.propagators.propagator import Propagator
from mlpot.propagators.propagator_file import load_propagator, save_propagator

KINDS: list[dict[str, Any]] = [
    {"velocities": "given", "pairs": "free"},
    {"velocities": "updated", "pairs": "free"},
    {"velocities": "updated", "pairs": "free", "velocity_features": True, "n_radial": 6, "shared": True},
    {"velocities": "updated", "pairs": "antisymmetric", "velocity_features": True, "n_radial": 6},
]
by_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: "-".join(map(str, k.values())))


def propagator(**kind: Any) -> Propagator:
    """Random weights, all of a size that counts."""
    torch.manual_seed(0)
    made = Propagator({"n_features": 8, "n_layers": 3, "speed": 0.5, **kind}, elements=(1, 6, 8), interval=2.0)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return made.double().requires_grad_(False)


def molecules(n: int = 2, n_atoms: int = 6) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(1)
    kinds = torch.randint(3, (n, n_atoms), generator=random)
    charges = torch.randn(n, n_atoms, generator=random, dtype=torch.float64)
    masses = torch.tensor([1.008, 12.011, 15.999], dtype=torch.float64)[kinds]
    x, v = torch.randn(2, n, n_atoms, 3, generator=random, dtype=torch.float64)
    return kinds, charges, masses, x, v


def test_errors_far_from_the_origin_are_those_at_it_in_float32_too() -> None:
    """At 1e6 Å float32 has steps of 0.06 Å."""
    made, (kinds, charges, masses, x, v) = propagator().float(), molecules()
    numbers = np.array([1, 6, 8])[kinds.numpy()]
    near = FramePairs(numbers, *(t.numpy() for t in (charges, masses, x, v, x + 0.01 * v, v)), interval=2.0)
    at_origin = errors_of(made, near)
    for shift in (1e3, -1e6):
        moved = replace(near, positions=near.positions + shift, later_positions=near.later_positions + shift)
        assert errors_of(made, moved)["positions_mse"] == pytest.approx(at_origin["positions_mse"], rel=1e-4)


@by_kind
def test_what_moves_together_moves_the_same(kind: dict[str, Any]) -> None:
    """Rotations, reflections, translations and permutations, to 1e-10."""
    made, (kinds, charges, masses, x, v) = propagator(**kind), molecules()
    expected = made(kinds, charges, masses, x, v)
    assert (expected[0] - x - 2.0 * v).abs().max() > 0.01, "it does more than free flight"
    random = np.random.default_rng(2)
    turned = np.linalg.qr(random.normal(size=(3, 3)))[0]
    order = torch.as_tensor(random.permutation(x.shape[1]))
    for matrix in (turned, -turned):
        q, shift = torch.as_tensor(matrix), torch.tensor([3.0, -20.0, 7.0], dtype=torch.float64)
        moved = (a[:, order] for a in (kinds, charges, masses, x @ q.T + shift, v @ q.T))
        found = made(*moved)
        assert (found[0] - (expected[0] @ q.T + shift)[:, order]).abs().max() < 1e-10
        assert (found[1] - (expected[1] @ q.T)[:, order]).abs().max() < 1e-10


def test_antisymmetric_pairs_keep_what_a_molecule_keeps() -> None:
    """Momentum, angular momentum and the flight of the center of mass, to 1e-12, whatever the weights."""
    made, (kinds, charges, masses, x, v) = propagator(**KINDS[-1]), molecules()
    m = masses.unsqueeze(-1)
    y, w = made(kinds, charges, masses, x, v)
    momentum, angular = (m * v).sum(1), (m * torch.linalg.cross(x, v)).sum(1)
    center = (m * x).sum(1) / m.sum(1)
    assert (w - v).abs().max() > 0.01
    assert ((m * w).sum(1) - momentum).abs().max() < 1e-12 * momentum.abs().max().clamp(min=1)
    assert ((m * torch.linalg.cross(y, w)).sum(1) - angular).abs().max() < 1e-12 * angular.abs().max().clamp(min=1)
    assert ((m * y).sum(1) / m.sum(1) - center - 2.0 * momentum / m.sum(1)).abs().max() < 1e-12


def test_antisymmetric_pairs_do_not_know_who_watches() -> None:
    """In a frame that moves, all is as in one at rest (Galileo)."""
    made, (kinds, charges, masses, x, v) = propagator(**KINDS[-1]), molecules()
    u = torch.tensor([0.3, -2.0, 0.5], dtype=torch.float64)
    rest, moving = made(kinds, charges, masses, x, v), made(kinds, charges, masses, x, v + u)
    assert (moving[0] - rest[0] - 2.0 * u).abs().max() < 1e-10
    assert (moving[1] - rest[1] - u).abs().max() < 1e-10


def test_a_layer_is_equation_7() -> None:
    """The sums of the paper, written out particle by particle."""
    torch.manual_seed(3)
    for velocities in ("given", "updated"):
        network = VelocityNetwork(n_features=4, n_layers=1, velocities=velocities).double().requires_grad_(False)  # type: ignore[arg-type]
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=0.5)
        kinds, q, masses, x, v = (a[:1, :4] for a in molecules())
        found = network(torch.zeros_like(kinds), q, masses, x, v)
        layer = network.layers[0]
        h = network.of_class.weight[0] + network.of_speed(v[0].norm(dim=-1, keepdim=True))
        for i in range(4):
            kick = torch.zeros(3, dtype=torch.float64)
            for j in (j for j in range(4) if j != i):
                d = x[0, i] - x[0, j]
                a = torch.stack((q[0, i] * q[0, j], d @ d, d @ d))
                hidden = layer.of_center(h[i]) + layer.of_neighbor(h[j]) + layer.of_edge(a)
                message = torch.nn.functional.silu(layer.message(torch.nn.functional.silu(hidden)))
                kick += d * layer.kick(message) / 3
            scaled = (1 + layer.of_velocity(h[i])) * v[0, i]
            expected = x[0, i] + scaled + kick
            assert (found[0][0, i] - expected).abs().max() < 1e-12
            w = scaled + kick if velocities == "updated" else v[0, i]
            assert (found[1][0, i] - w).abs().max() < 1e-12


def test_a_particle_at_rest_has_a_gradient() -> None:
    made = propagator(**KINDS[1]).requires_grad_(True)
    kinds, charges, masses, x, v = molecules()
    made(kinds, charges, masses, x, torch.zeros_like(v))[0].sum().backward()
    assert all(w.grad is None or w.grad.isfinite().all() for w in made.parameters())
    assert made.network.of_speed.weight.grad is not None


def test_antisymmetric_pairs_need_velocities_that_change() -> None:
    with pytest.raises(ValueError, match="Let velocities be updated"):
        VelocityNetwork(velocities="given", pairs="antisymmetric")


def test_elements_that_it_has_not_learned_are_named() -> None:
    made = propagator(**KINDS[0])
    assert made.classes(torch.tensor([[8, 1, 6]])).tolist() == [[2, 0, 1]]
    with pytest.raises(ValueError, match="has not learned N, Cl, it knows H, C, O"):
        made.classes(torch.tensor([[1, 7, 17]]))


def test_a_file_gives_back_the_propagator(tmp_path: Path) -> None:
    made, given = propagator(**KINDS[-1]), molecules()
    save_propagator(made, tmp_path / "p.safetensors", {"recipe": {"a": 1}})
    loaded = load_propagator(tmp_path / "p.safetensors")
    assert loaded.header["card"] == {"recipe": {"a": 1}}
    for a, b in zip(loaded(*given), made(*given), strict=True):
        assert torch.equal(a, b)


def test_files_that_are_no_propagators_are_refused(tmp_path: Path) -> None:
    from potentials import new_potential

    from mlpot.model_file import load_potential, save_potential

    path = tmp_path / "p.safetensors"
    save_potential(new_potential("schnet", n_features=8), path)
    with pytest.raises(ModelFileError, match="is a potential, and no propagator"):
        load_propagator(path)
    made = propagator(**KINDS[0])
    made.network.of_speed.weight[0, 0] = torch.nan
    save_propagator(made, path)
    with pytest.raises(ModelFileError, match="not finite"):
        load_propagator(path)
    for key, wrong in (
        ("n_layers", 4),
        ("n_layers", 10**9),
        ("n_features", 10**9),
        ("speed", "fast"),
        ("pairs", "all"),
    ):
        made = propagator(**KINDS[0])
        made.arguments[key] = wrong
        save_propagator(made, path)
        with pytest.raises(ModelFileError, match="does not describe a propagator"):
            load_propagator(path)
    with pytest.raises(ModelFileError, match="is a propagator, and no potential"):
        load_potential(path)
