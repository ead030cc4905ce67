"""A network of stages on a CUDA device: b of atoms, differentiable by vectors, and then once by weights.

    b                 values forward
    ∂E/∂r of edges    adjoints backward from s = ∂E/∂b
    loss              tangents forward, both adjoints backward, see `stages.run`

Sums over neighbors and products are Triton's; all other stages, which stay at atoms, are PyTorch's by their
definition. Autograd sees three nodes, whatever the length of the list: b by the vectors, b and ∂E/∂r by the
weights, and ∂E/∂r by s. So a derivative that nobody asks for is not computed, and a loss takes one pass of
tangents and one of adjoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlpot.gpu.door import has_triton, is_interpreted, kernels
from mlpot.graph import Edges
from mlpot.stages.edge_network import EdgeNetwork
from mlpot.stages.neighbor_sum import NeighborSum
from mlpot.stages.network import StagedNetwork
from mlpot.stages.products import Products
from mlpot.stages.run import ENERGY, Arrays, Program, Step, edge_gradient, forward, loss_gradient, tangents
from mlpot.stages.stage import Environments

_stages_without_kernel: WeakKeyDictionary[StagedNetwork, str | None] = WeakKeyDictionary()


def obstacle(network: object, weight: Tensor) -> str | None:
    """Why a network with such weights does not run here, in words; None if it does."""
    if (why := obstacle_of_stages(network)) is not None:
        return why
    if weight.device.type != "cuda" and not (weight.device.type == "cpu" and is_interpreted()):
        return f"its weights are on {weight.device.type}, not on a CUDA device"
    if not has_triton():
        return "Triton is not installed"
    if weight.dtype not in (torch.float32, torch.float64):
        return f"its weights are {weight.dtype}, not float32 or float64"
    return None


def obstacle_of_stages(network: object) -> str | None:
    """Why a network does not run on any CUDA device; None if it does."""
    if not isinstance(network, StagedNetwork):
        return f"{type(network).__name__} is not made of stages"
    if (own := network.native_obstacle()) is not None:
        return own
    if network not in _stages_without_kernel:
        with torch.no_grad():
            has_one = any(isinstance(step.stage, EdgeNetwork) for step in network.stages())
        _stages_without_kernel[network] = "there is no Triton kernel for its EdgeNetwork" if has_one else None
    return _stages_without_kernel[network]


class DeviceOutputs:
    """b (n_atoms,) of numbers, edges and vectors, as of `models.backbone.Backbone`.

    Args:
        network: it has no `obstacle`.
        fixed: whether its weights no longer change.
    """

    def __init__(self, network: StagedNetwork, *, fixed: bool):
        self.network = network
        self._program = self._on_device() if fixed else None

    def __call__(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """The outputs. Their gradient by the vectors may be differentiated by weights, once."""
        program = self._program or self._on_device()
        at = Environments(self.network.element_index.index_select(0, numbers), edges, vectors.detach())
        with torch.no_grad():
            evaluation = _Evaluation(program, at, forward(program, at))
            self.network.readout(evaluation.values[self.network.features][:, 0])  # for whoever hooks it
        b = evaluation.values[ENERGY][:, 0, 0]
        motion: Tensor | None = None
        if not torch.is_grad_enabled():
            return b
        if any(w.requires_grad for w in program.weights):
            zero, motion = _OfWeights.apply(evaluation, *program.weights)  # type: ignore[no-untyped-call]  # by torch
            b = b + zero
        if vectors.requires_grad:
            b = b + _OfVectors.apply(evaluation, vectors, motion)  # type: ignore[no-untyped-call]  # by torch
        return b

    def _on_device(self) -> Program:
        """The list with kernels of Triton where there are some."""
        return Program(_with_kernel(step) for step in self.network.program().steps)


def _with_kernel(step: Step) -> Step:
    stage, (sums, products) = step.stage, kernels()
    if isinstance(stage, NeighborSum):
        return step._replace(stage=sums.TritonSum(stage.table, stage.grid, stage.terms))
    if isinstance(stage, Products):
        return step._replace(stage=products.TritonProducts(stage.terms, stage.weight))
    return step


@dataclass(eq=False)
class _Evaluation:
    """What the outputs leave behind for their derivatives."""

    program: Program
    at: Environments
    values: Arrays
    adjoints: Arrays | None = None  # those of the gradient that a loss will see

    def gradient(self, s: Tensor, *, for_a_loss: bool) -> Tensor:
        """∂E/∂r (n_edges, 3) for ∂E/∂b = s (n_atoms,)."""
        gradient, _, adjoints = edge_gradient(self.program, self.at, s, self.values)
        if for_a_loss:
            if self.adjoints is not None:
                raise RuntimeError("A loss may depend on one gradient of these energies. Compute them again.")
            self.adjoints = adjoints
        return gradient

    def of_loss(self, b_bar: Tensor | None, motion: Tensor | None) -> list[Tensor]:
        """Gradients of all weights for the adjoints b̄ of b, and ṙ of ∂E/∂r."""
        at, adjoints, like = self.at, self.adjoints, self.values[ENERGY][:, 0, 0]
        if motion is None or adjoints is None:  # a loss on energies alone
            motion, adjoints = (
                torch.zeros_like(at.vectors),
                {k: torch.zeros_like(v) for k, v in self.values.items()},
            )
        b_bar = torch.zeros_like(like) if b_bar is None else b_bar
        of_steps, _ = loss_gradient(self.program, at.moving(motion), b_bar, self.values, adjoints)
        return [w for weights in of_steps for w in weights]


class _OfVectors(torch.autograd.Function):
    """A zero that depends on the vectors. Its derivative is ∂E/∂r, which depends on s and on the weights."""

    @staticmethod
    def forward(ctx: Any, evaluation: _Evaluation, vectors: Tensor, motion: Tensor | None) -> Tensor:
        ctx.evaluation = evaluation
        ctx.save_for_backward(motion)
        return vectors.new_zeros(len(evaluation.at.element))

    @staticmethod
    def backward(ctx: Any, s: Tensor) -> tuple[None, Tensor | None, None]:
        (motion,) = ctx.saved_tensors
        if ctx.evaluation.adjoints is not None:  # a loss asks for weights; positions of a training are given
            return None, None, None
        gradient = _Gradient.apply(ctx.evaluation, s, motion)  # type: ignore[no-untyped-call]  # torch does not type it
        return None, cast("Tensor", gradient), None


class _Gradient(torch.autograd.Function):
    """∂E/∂r as a function of s, and of the weights through that zero whose adjoint is ṙ."""

    @staticmethod
    def forward(ctx: Any, evaluation: _Evaluation, s: Tensor, motion: Tensor | None) -> Tensor:
        ctx.evaluation = evaluation
        return evaluation.gradient(s, for_a_loss=any(ctx.needs_input_grad))

    @staticmethod
    @once_differentiable  # type: ignore[misc]  # torch does not type it
    def backward(ctx: Any, motion: Tensor) -> tuple[None, Tensor | None, Tensor]:
        evaluation: _Evaluation = ctx.evaluation
        s_bar = None
        if ctx.needs_input_grad[1]:
            s_bar = tangents(evaluation.program, evaluation.at.moving(motion), evaluation.values)[ENERGY][:, 0, 0]
        return None, s_bar, motion


class _OfWeights(torch.autograd.Function):
    """Two zeros that depend on the weights: what b, and what ∂E/∂r has of them."""

    @staticmethod
    def forward(ctx: Any, evaluation: _Evaluation, *weights: Tensor) -> tuple[Tensor, Tensor]:
        ctx.evaluation = evaluation
        ctx.set_materialize_grads(False)
        vectors = evaluation.at.vectors
        return vectors.new_zeros(len(evaluation.at.element)), torch.zeros_like(vectors)

    @staticmethod
    @once_differentiable  # type: ignore[misc]  # torch does not type it
    def backward(ctx: Any, b_bar: Tensor | None, motion: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *ctx.evaluation.of_loss(b_bar, motion)
