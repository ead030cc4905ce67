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
from torch.nn import functional
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
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = _newton_schulz(matrices.mT if tall else matrices)
    return x.mT if tall else x


def _newton_schulz(x: Tensor) -> Tensor:
    """The same of matrices that are not tall; rows of zeros stay zeros."""
    a, b, c = COEFFICIENTS
    x = x / x.flatten(1).norm(dim=1).clamp(min=TINY)[:, None, None]
    for _ in range(N_ITERATIONS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


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
            if not weights:
                continue
            if group["weight_decay"]:
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            if group["matrices"]:
                self.step_of_matrices(weights, group)
            else:
                self._adam(weights, group)
        return loss

    def step_of_matrices(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Move weights whose last two axes are matrices, and which have gradients."""
        raise NotImplementedError

    def _adam(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        states, grads = [self.state[weight] for weight in weights], _gradients(weights)
        for weight, state in zip(weights, states, strict=True):
            if not state:
                state.update(step=0, mean=torch.zeros_like(weight), square=torch.zeros_like(weight))
            state["step"] += 1
        a, b = group["betas"]
        means, squares = ([state[name] for state in states] for name in ("mean", "square"))
        torch._foreach_lerp_(means, grads, 1 - a)
        torch._foreach_mul_(squares, b)
        torch._foreach_addcmul_(squares, grads, grads, 1 - b)
        below = torch._foreach_sqrt(torch._foreach_div(squares, [1 - b ** state["step"] for state in states]))
        torch._foreach_add_(below, group["eps"])
        rates = [-group["lr"] / (1 - a ** state["step"]) for state in states]
        torch._foreach_addcdiv_(weights, means, below, rates)


def _gradients(weights: list[Tensor]) -> list[Tensor]:
    return [weight.grad for weight in weights if weight.grad is not None]


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
        """See the class; matrices of about as many rows are orthogonalized together."""
        beta, grads = group["momentum"], _gradients(weights)
        momenta = [self.state[w].setdefault("momentum", torch.zeros_like(w)) for w in weights]
        torch._foreach_lerp_(momenta, grads, 1 - beta)
        alike: dict[Any, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for weight, move in zip(weights, torch._foreach_lerp(grads, momenta, beta), strict=True):
            wide, move = _wide(weight), _wide(move.contiguous())
            n_rows = max(8, 1 << (wide.shape[1] - 1).bit_length())
            alike[n_rows, wide.shape[2], wide.dtype, wide.device].append((wide, move))
        for (n_rows, n_columns, *_), both in alike.items():
            padded = [functional.pad(move, (0, 0, 0, n_rows - move.shape[1])) for _, move in both]
            moves = torch.split(_newton_schulz(torch.cat(padded)), [len(move) for move in padded])
            for (wide, _), move in zip(both, moves, strict=True):
                wide.add_(move[:, : wide.shape[1]], alpha=-group["lr"] * 0.2 * n_columns**0.5)


def _wide(array: Tensor) -> Tensor:
    """Its matrices (n, r, c), or transposed if they are tall; a view."""
    stacked = array.view(-1, *array.shape[-2:])
    return stacked.mT if stacked.shape[1] > stacked.shape[2] else stacked


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
        """See the class."""
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
        in_basis = u.mT @ g @ v
        state["square"].mul_(beta).addcmul_(in_basis, in_basis, value=1 - beta)
        correction = 1 - beta ** state["step"]
        move = (u.mT @ state["mean"] @ v / correction) / ((state["square"] / correction).sqrt() + group["eps"])
        weight.sub_((u @ move @ v.mT).reshape(weight.shape), alpha=group["lr"])
        state["left"].lerp_(g @ g.mT, 1 - beta)
        state["right"].lerp_(g.mT @ g, 1 - beta)
        if state["step"] % group["every"] == 0:
            state["left_basis"], order = _updated_eigenbasis(state["left"], u)
            state["square"] = state["square"].gather(1, order[:, :, None].expand_as(g))
            state["right_basis"], order = _updated_eigenbasis(state["right"], v)
            state["square"] = state["square"].gather(2, order[:, None, :].expand_as(g))


def _eigenbasis(matrices: Tensor) -> Tensor:
    """Eigenvectors of symmetric matrices (n, r, r), those of the largest eigenvalues first."""
    return torch.linalg.eigh(matrices).eigenvectors.flip(-1)


def _updated_eigenbasis(matrices: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """A basis after one step of orthogonal iteration, and the order of the old vectors in it."""
    size = (basis * (matrices @ basis)).sum(dim=1)
    order = size.argsort(dim=1, descending=True, stable=True)
    basis = basis.gather(2, order[:, None, :].expand_as(basis))
    return torch.linalg.qr(matrices @ basis).Q, order
