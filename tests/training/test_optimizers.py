"""Muon and SOAP: equal to the published formulas, each matrix on its own, no move without a gradient (N30)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from sets import crystals, small_recipe, write
from torch import Tensor, nn
from training_runs import assert_same_training

from mlpot.models import BACKBONES
from mlpot.potential import Potential
from mlpot.recipes import RecipeError, parse_recipe
from mlpot.training.fit import range_test, train
from mlpot.training.messages import LOG
from mlpot.training.module import TrainingDivergedError
from mlpot.training.optimizers import SOAP, Muon, orthogonalized
from mlpot.training.parameter_groups import element_rows, make_optimizer, parameter_groups
from mlpot.training.recipe import OptimizerSection, Recipe

KINDS = {"muon": Muon, "soap": SOAP}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stepped(kind: type, weight: Tensor, gradients: list[Tensor], lr: float = 0.1) -> Tensor:
    """A weight after steps with these gradients."""
    weight = weight.clone().requires_grad_()
    optimizer = kind([{"params": [weight], "matrices": True}], lr)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


def first_basis(left: Tensor, right: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvectors that SOAP begins with; a first gradient that is not square leaves some of them open."""
    weight = torch.zeros_like(first).requires_grad_()
    weight.grad = first.clone()
    optimizer = SOAP([{"params": [weight], "matrices": True}], 0.1)
    optimizer.step()
    u, v = (optimizer.state[weight][f"{side}_basis"][0] for side in ("left", "right"))
    for basis, matrix in ((u, left), (v, right)):
        turned, sizes = basis.T @ matrix @ basis, torch.linalg.eigvalsh(matrix).flip(0)
        torch.testing.assert_close(turned, sizes.diag(), rtol=0, atol=1e-13)
        torch.testing.assert_close(basis.T @ basis, torch.eye(len(basis)).double(), rtol=0, atol=1e-13)
    return u, v


def newton_schulz(g: Tensor) -> Tensor:
    """As published, for one matrix: K. Jordan et al. (2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.norm() + 1e-7)
    if g.shape[0] > g.shape[1]:
        x = x.T
    for _ in range(5):
        m = x @ x.T
        x = a * x + (b * m + c * m @ m) @ x
    return x.T if g.shape[0] > g.shape[1] else x


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_muon_is_the_published_formula(shape: tuple[int, int]) -> None:
    """Nesterov's momentum and 0.2 √max(r, c), arXiv 2502.16982."""
    weight, gradients = random(*shape), [random(*shape, seed=k) for k in (1, 2, 3)]
    expected, momentum = weight.clone(), torch.zeros_like(weight)
    for g in gradients:
        momentum = 0.95 * momentum + 0.05 * g
        expected -= 0.1 * 0.2 * max(shape) ** 0.5 * newton_schulz(0.05 * g + 0.95 * momentum)
    torch.testing.assert_close(stepped(Muon, weight, gradients), expected, rtol=0, atol=1e-6)


def test_orthogonalized_matrices_are_nearly_orthogonal() -> None:
    sizes = torch.linalg.svdvals(orthogonalized(random(6, 20, 12)))
    assert sizes.min() > 0.5
    assert sizes.max() < 1.3


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_soap_is_adam_in_the_eigenbasis(shape: tuple[int, int]) -> None:
    """Algorithm 3 of arXiv 2409.11321, written for one matrix, over two turns of the basis."""
    weight, gradients = random(*shape), [random(*shape, seed=k) for k in range(1, 24)]
    first, beta = gradients[0], 0.95
    left, right = (1 - beta) * first @ first.T, (1 - beta) * first.T @ first
    u, v = first_basis(left, right, first)
    mean, square, expected = torch.zeros(shape).double(), torch.zeros(shape).double(), weight.clone()
    for t, g in enumerate(gradients[1:], 1):
        mean = beta * mean + (1 - beta) * g
        square = beta * square + (1 - beta) * (u.T @ g @ v) ** 2
        m, s = u.T @ mean @ v / (1 - beta**t), square / (1 - beta**t)
        expected -= 0.1 * u @ (m / (s.sqrt() + 1e-8)) @ v.T
        left, right = beta * left + (1 - beta) * g @ g.T, beta * right + (1 - beta) * g.T @ g
        if t % 10 == 0:
            rows, columns = (
                torch.einsum("ik,ij,jk->k", q, p, q).argsort(descending=True) for q, p in ((u, left), (v, right))
            )
            u, v = torch.linalg.qr(left @ u[:, rows]).Q, torch.linalg.qr(right @ v[:, columns]).Q
            square = square[rows][:, columns]
    torch.testing.assert_close(stepped(SOAP, weight, gradients), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_matrices_of_a_stack_move_each_on_its_own(kind: type) -> None:
    weight, gradients = random(2, 3, 4, 5), [random(2, 3, 4, 5, seed=k) for k in range(1, 13)]
    together = stepped(kind, weight, gradients)
    for i in range(2):
        for j in range(3):
            alone = stepped(kind, weight[i, j], [g[i, j] for g in gradients])
            torch.testing.assert_close(together[i, j], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_transposed_problem_has_transposed_steps(kind: type) -> None:
    weight, gradients = random(3, 6), [random(3, 6, seed=k) for k in range(1, 13)]
    turned = stepped(kind, weight.T.contiguous(), [g.T.contiguous() for g in gradients])
    torch.testing.assert_close(turned.T, stepped(kind, weight, gradients), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_nothing_moves_without_a_gradient_and_precision_is_kept(kind: type, dtype: torch.dtype) -> None:
    weight = random(2, 4, 4).to(dtype)
    still = stepped(kind, weight, [torch.zeros_like(weight)] * 12)
    assert still.dtype == dtype
    assert torch.equal(still, weight)
    half = random(2, 4, 4).to(dtype)
    half[1] = 0  # a matrix without a gradient beside one that has one
    moved = stepped(kind, weight, [half] * 12)
    assert torch.equal(moved[1], weight[1])
    assert moved.isfinite().all()
    assert not torch.equal(moved[0], weight[0])


@pytest.mark.parametrize("name", ["adamw", "muon", "soap"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_groups_partition_all_weights(backbone: str, name: str) -> None:
    potential = Potential(backbone, {}, reference_energies={1: 0.0, 8: 0.0})
    module, rows = potential.backbone, element_rows(potential)
    first, *_, last = dict(module.named_parameters())
    section = parse_recipe(
        Recipe, f"data: {{train: set.h5}}\noptimizer: {{name: {name}, rates: {{{first}: 0.1}}}}"
    )
    groups = parameter_groups(module, section.optimizer, rows)
    count = Counter(id(p) for group in groups for p in group["params"])
    assert count == Counter(id(p) for p in module.parameters())
    names = {id(p): n for n, p in module.named_parameters()}
    for group in groups:
        for p in group["params"]:
            assert group["lr"] == (0.1 if names[id(p)] == first else section.optimizer.learning_rate)
            assert not group["matrices"] or p.dim() > 1 + (names[id(p)] in rows)
    frozen = module.get_parameter(last).requires_grad_(False)
    groups = parameter_groups(module, section.optimizer, rows)
    assert id(frozen) not in {id(p) for group in groups for p in group["params"]}


def test_elements_that_are_held_stay_whatever_moves_them() -> None:
    section = parse_recipe(Recipe, "data: {train: set.h5}\noptimizer: {name: muon, weight_decay: 0.5}").optimizer

    class Tables(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vectors, self.matrices = (nn.Parameter(random(119, *rest)) for rest in ((4,), (2, 4, 4)))

    module, rows = Tables(), {key: {z: z for z in (6, 7, 8)} for key in ("vectors", "matrices")}
    before = [p.detach().clone() for p in module.parameters()]
    optimizer = make_optimizer(module, section, fused=False, rows=rows, fixed=[6, 8])
    for p in module.parameters():
        p.grad = random(*p.shape, seed=7)
    optimizer.step()
    for p, old in zip(module.parameters(), before, strict=True):
        assert torch.equal(p[[6, 8]], old[[6, 8]])
        assert not torch.equal(p[7], old[7])


class CutError(Exception):
    """What stops a run."""


class Cut(Callback):
    def on_train_batch_end(self, trainer, *_: object) -> None:  # type: ignore[no-untyped-def]
        if trainer.global_step == 7:
            raise CutError


@pytest.mark.parametrize("override", ["name: muon", "name: soap", "amsgrad: true", "rates: {embedding: 0.001}"])
def test_a_training_learns_and_goes_on_to_the_bit(override: str, tmp_path: Path) -> None:
    """N13: the memory of every optimizer survives a kill."""
    data = write(tmp_path / "set.h5", crystals())
    recipes = [
        small_recipe(data, tmp_path / run, f"optimizer={{{override}, learning_rate: 0.005, ema_decay: 0.9}}")
        for run in ("whole", "cut")
    ]
    train(recipes[0])
    with pytest.raises(CutError):
        train(recipes[1], callbacks=[Cut()])
    train(recipes[1], resume=True)
    assert_same_training(tmp_path / "whole", tmp_path / "cut")
    assert "rate 0.005" in (tmp_path / "whole" / LOG).read_text()


def test_a_range_test_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """N31: a training after it is the training without it."""
    recipe = small_recipe(write(tmp_path / "set.h5", crystals()), tmp_path / "run", "training.epochs=1")
    state = torch.get_rng_state()
    found = range_test(recipe)
    assert torch.equal(torch.get_rng_state(), state)
    assert not (tmp_path / "run").exists()
    assert found == range_test(recipe)
    assert found.rates == sorted(found.rates)
    assert 1e-4 < found.suggested < found.at_minimum


def test_a_range_test_whose_loss_is_no_number_before_a_step_blames_no_rate(tmp_path: Path) -> None:
    recipe = small_recipe(write(tmp_path / "set.h5", crystals()), tmp_path / "run", "loss.forces=1e308")
    with pytest.raises(TrainingDivergedError, match="before the first step"):
        range_test(recipe)


def test_a_rate_of_frozen_weights_alone_is_refused() -> None:
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    (group,) = parameter_groups(layer, OptimizerSection(rates={"*": 0.5}), {})
    assert group["lr"] == 0.5
    with pytest.raises(RecipeError, match="all that 'bias' matches is frozen"):
        parameter_groups(layer, OptimizerSection(rates={"bias": 0.5}), {})
