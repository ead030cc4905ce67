"""Muon and SOAP: optimizers that see a matrix of weights as a matrix.

Both treat the last two axes of an array as a matrix, and each matrix of a stack on its own: those of other degrees
or elements have nothing to do with one another. They keep the precision of the weights. PyTorch has a Muon, but
of single matrices and in bfloat16.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

COEFFICIENTS = 3.4445, -4.7750, 2.0315
N_ITERATIONS = 5
TINY = 1e-7

Closure = Callable[[], Any] | None


def orthogonalized(matrices: Tensor) -> Tensor:
    """About U Vᵀ of each matrix U S Vᵀ, (n, r, c), by five Newton-Schulz iterations; zero where the matrix is.

        X ← a X + (b X Xᵀ + c (X Xᵀ)²) X

    K. Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024).
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.flatten(1).norm(dim=1).clamp(min=TINY)[:, None, None]
    for _ in range(N_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class _OfMatrices(Optimizer):
    """An optimizer with a step for groups whose `matrices` is true, and AdamW's step for the others."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, weight_decay: float, **defaults: Any):
        adam = {"betas": (0.9, 0.999), "eps": 1e-8, "matrices": False}
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, **adam, **defaults})

    @torch.no_grad()
    def step(self, closure: Closure = None) -> Any:  # type: ignore[override]
        """As `Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            for weight in weights:
                weight.mul_(1 - group["lr"] * group["weight_decay"])
            if not group["matrices"]:
                for weight in weights:
                    self._adam(weight, group)
                continue
            alike: dict[Any, list[Tensor]] = defaultdict(list)
            for weight in weights:
                alike[tuple(weight.shape[-2:]), weight.dtype, weight.device].append(weight)
            for same in alike.values():
                self.step_of_matrices(same, group)
        return loss

    def step_of_matrices(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Move weights whose matrices are of one shape."""
        raise NotImplementedError

    def _adam(self, weight: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state.update(step=0, mean=torch.zeros_like(weight), square=torch.zeros_like(weight))
        state["step"] += 1
        a, b = group["betas"]
        assert weight.grad is not None
        state["mean"].lerp_(weight.grad, 1 - a)
        state["square"].mul_(b).addcmul_(weight.grad, weight.grad, value=1 - b)
        mean, square = state["mean"] / (1 - a ** state["step"]), state["square"] / (1 - b ** state["step"])
        weight.sub_(group["lr"] * mean / (square.sqrt() + group["eps"]))


def _stacked(arrays: Iterable[Tensor]) -> Tensor:
    """All matrices of some arrays, (n, r, c)."""
    return torch.cat([array.reshape(-1, *array.shape[-2:]) for array in arrays])


def _add(weights: list[Tensor], moves: Tensor, scale: float) -> None:
    """Move weights by the matrices of `_stacked`."""
    sizes = [weight.numel() // (weight.shape[-2] * weight.shape[-1]) for weight in weights]
    for weight, move in zip(weights, torch.split(moves, sizes), strict=True):
        weight.add_(move.reshape(weight.shape), alpha=scale)


class Muon(_OfMatrices):
    """Momentum whose matrices are orthogonalized; AdamW for what is no matrix.

    A move is 0.2 √max(r, c) times the orthogonal matrix, as large as one of AdamW (J. Liu et al., Muon is scalable
    for LLM training, arXiv 2502.16982), so that learning rates are alike.

    Args:
        groups: of weights, with `matrices: True` where Muon moves them.
        lr: learning rate.
        weight_decay: decoupled, as AdamW's.
        momentum: of Nesterov's kind.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ):
        super().__init__(groups, lr, weight_decay, momentum=momentum)

    def step_of_matrices(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Move weights whose matrices are of one shape."""
        beta, moves = group["momentum"], []
        for weight in weights:
            assert weight.grad is not None
            momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
            momentum.lerp_(weight.grad, 1 - beta)
            moves.append(weight.grad.lerp(momentum, beta))
        size = 0.2 * max(weights[0].shape[-2:]) ** 0.5
        _add(weights, orthogonalized(_stacked(moves)), -group["lr"] * size)


class SOAP(_OfMatrices):
    """Adam in the eigenbasis of Shampoo's preconditioner; AdamW for what is no matrix.

    N. Vyas et al., SOAP: improving and stabilizing Shampoo using Adam, arXiv 2409.11321, algorithm 3. The first
    gradient only makes the basis.

    Args:
        groups: of weights, with `matrices: True` where SOAP moves them.
        lr: learning rate.
        weight_decay: decoupled, as AdamW's.
        beta: of all running means of matrices.
        every: steps after which the basis is renewed.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
        beta: float = 0.95,
        every: int = 10,
    ):
        super().__init__(groups, lr, weight_decay, beta=beta, every=every)

    def step_of_matrices(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Move weights whose matrices are of one shape."""
        for weight in weights:
            assert weight.grad is not None
            self._step(weight, weight.grad.reshape(-1, *weight.shape[-2:]), group)

    def _step(self, weight: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state, beta = self.state[weight], group["beta"]
        if not state:
            left, right = (1 - beta) * g @ g.mT, (1 - beta) * g.mT @ g
            state.update(step=0, mean=torch.zeros_like(g), square=torch.zeros_like(g), left=left, right=right)
            state.update(left_basis=_eigenbasis(left), right_basis=_eigenbasis(right))
            return
        state["step"] += 1
        u, v = state["left_basis"], state["right_basis"]
        state["mean"].lerp_(g, 1 - beta)
        turned = u.mT @ g @ v
        state["square"].mul_(beta).addcmul_(turned, turned, value=1 - beta)
        correction = 1 - beta ** state["step"]
        move = (u.mT @ state["mean"] @ v / correction) / ((state["square"] / correction).sqrt() + group["eps"])
        weight.sub_((u @ move @ v.mT).reshape(weight.shape), alpha=group["lr"])
        state["left"].lerp_(g @ g.mT, 1 - beta)
        state["right"].lerp_(g.mT @ g, 1 - beta)
        if state["step"] % group["every"] == 0:
            state["left_basis"], order = _turned(state["left"], u)
            state["square"] = state["square"].gather(1, order[:, :, None].expand_as(g))
            state["right_basis"], order = _turned(state["right"], v)
            state["square"] = state["square"].gather(2, order[:, None, :].expand_as(g))


def _eigenbasis(matrices: Tensor) -> Tensor:
    """Eigenvectors of symmetric matrices (n, r, r), those of the largest eigenvalues first."""
    return torch.linalg.eigh(matrices).eigenvectors.flip(-1)


def _turned(matrices: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """A basis after one step of orthogonal iteration, and the order of the old vectors in it."""
    size = (basis * (matrices @ basis)).sum(dim=1)
    order = size.argsort(dim=1, descending=True, stable=True)
    basis = basis.gather(2, order[:, None, :].expand_as(basis))
    return torch.linalg.qr(matrices @ basis).Q, order
