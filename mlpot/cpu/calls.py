"""Native calls of networks made of stages: atoms in, energies, forces and virials out, in use and in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlpot.cpu.door import compiled_code
from mlpot.graph import AtomGraph
from mlpot.kernels import loops
from mlpot.kernels.ops import loops_obstacle
from mlpot.models.native import Elements, of_elements, offsets
from mlpot.stages.exchange import Halo
from mlpot.stages.network import StagedNetwork
from mlpot.stages.run import Program

Array = NDArray[Any]
Found = tuple[Tensor, Tensor, Tensor]


def native_obstacle(backbone: object, weight: Tensor) -> str | None:
    """Why there is no native call for a backbone with such weights; None if there is one."""
    if not isinstance(backbone, StagedNetwork):
        return f"{type(backbone).__name__} is not made of stages"
    if weight.device.type != "cpu":
        return f"its weights are on {weight.device.type}"
    if weight.dtype not in (torch.float32, torch.float64):
        return f"its weights are {weight.dtype}, not float32 or float64"
    return loops_obstacle()


def native_call(backbone: object, elements: Elements, isolated: Tensor) -> StagedCall | None:
    """The call for a backbone that no longer changes, None if there is an obstacle.

    Args:
        backbone: perhaps a `StagedNetwork`.
        elements: those of the potential.
        isolated: (n_elements,) what the backbone gives for an isolated atom.
    """
    if native_obstacle(backbone, elements.scale) is not None:
        return None
    assert isinstance(backbone, StagedNetwork)
    return StagedCall(backbone, elements, isolated)


class StagedCall:
    """Energies, forces and virials of a network whose weights no longer change."""

    def __init__(self, backbone: StagedNetwork, elements: Elements, isolated: Tensor):
        with torch.no_grad():
            program = backbone.program()
            self.executor = compiled_code().Executor(program, elements.scale.dtype)
            self.plan = self.executor.layout.plan(program.weights)
        self.n_elements, self.places, self.numbers = len(elements.numbers), elements.places(), elements.numbers
        self.outer = outer_of(elements, isolated)
        kind = torch.empty(0, dtype=elements.scale.dtype, device="cpu").numpy().dtype
        assert {self.plan.weights.dtype, self.plan.numbers.dtype, self.plan.polynomials.dtype} == {kind}
        self._last: tuple[AtomGraph, Tensor, Array] | None = None
        self._array = backbone.features
        self._n_features = program.shapes[self._array].n_channels

    def __call__(self, graph: AtomGraph) -> Found | None:
        """Energies (n_graphs,) eV, forces (n_atoms, 3) eV/Å and virials (n_graphs, 3, 3) eV, float64.

        Args:
            graph: its edges may go beyond the cutoff.

        Returns:
            None if an element is unknown.
        """
        structure = self._structure(graph)
        if structure is None:
            return None
        found = self.executor.energies(self.plan, structure, self.outer, graph.batch.numpy(), graph.n_graphs)
        energy, forces, virial = map(torch.from_numpy, found)
        return energy, forces, virial

    def with_features(self, graph: AtomGraph) -> tuple[Found, Tensor] | None:
        """What a call gives, and of the same evaluation what `features_of` gives; None as above."""
        structure = self._structure(graph)
        if structure is None:
            return None
        batch, n_graphs = graph.batch.numpy(), graph.n_graphs
        parts = self.executor.parts(structure, batch, n_graphs)
        evaluation = self.executor.evaluate(self.plan, structure, self.outer, parts=parts)
        features = self._features(evaluation)
        energy, forces, virial = map(torch.from_numpy, self.executor.totals(evaluation, batch, n_graphs))
        return (energy, forces, virial), features

    def by_atom(self, graph: AtomGraph) -> tuple[Tensor, Tensor] | None:
        """Energies (n_atoms,) and virials (n_atoms, 3, 3) eV of atoms, references included; None as above.

        The virial of each edge is shared equally by its two atoms.
        """
        structure = self._structure(graph)
        if structure is None:
            return None
        parts = self.executor.parts(structure, graph.batch.numpy(), graph.n_graphs)
        return self._by_atom(self.executor.evaluate(self.plan, structure, self.outer, parts=parts, by_atom=True))

    def _by_atom(self, evaluation: Any) -> tuple[Tensor, Tensor]:
        self.executor.release(evaluation)
        return torch.from_numpy(evaluation.answer.energy), torch.from_numpy(evaluation.answer.virial)

    def features_of(self, graph: AtomGraph) -> Tensor | None:
        """What the readout receives, (n_atoms, n_features), as `models.backbone.atom_features`; None as above."""
        structure = self._structure(graph)
        if structure is None:
            return None
        still = torch.zeros(graph.n_atoms, dtype=self.executor.layout.dtype, device="cpu")
        evaluation = self.executor.evaluate(self.plan, structure, seeds=still, forward_only=True)
        return self._features(evaluation)

    def _features(self, evaluation: Any) -> Tensor:
        array: Tensor = self.executor.array(evaluation, self._array, self._n_features)
        self.executor.release(evaluation)
        return array[:, 0]

    def _structure(self, graph: AtomGraph) -> Any:
        """Its arrays; None if an element is unknown."""
        kind = np.empty(graph.n_atoms, np.int64)
        if not loops.structure.elements(graph.numbers.numpy(), self.places, kind):
            return None
        element = kind % self.n_elements if self.n_elements < len(self.outer.nuclei) else kind
        return structure_of(graph, element, self._offset(graph), kind)

    def _offset(self, graph: AtomGraph) -> Array:
        """cell_shift · cell of each edge; kept while list and cell are the same."""
        if self._last is not None:
            last, cell, offset = self._last
            if last.cell_shift is graph.cell_shift and torch.equal(cell, graph.cell):
                return offset
        offset = offsets(graph)
        self._last = graph, graph.cell.clone(), offset
        return offset


class ExchangedCall(StagedCall):
    """The same of the atoms of one process, which exchanges features with others: see `stages.exchange`."""

    def of_own(self, graph: AtomGraph, n_own: int, halo: Halo) -> Found:
        """The energy (1,) eV of the first atoms, forces (n_atoms, 3) eV/Å and virial (1, 3, 3) eV that they give.

        Args:
            graph: own atoms, and ghosts with `models.native.GHOST` added to their numbers.
            n_own: how many are own.
            halo: knows whose the ghosts are. Every process calls this at the same time.

        Raises:
            ValueError: an element is unknown.
        """
        executor, structure = self.executor, self._known(graph)
        if n_own == graph.n_atoms:  # nothing to exchange, and no stops: the same bits
            found = executor.energies(self.plan, structure, self.outer, graph.batch.numpy(), 1)
            return torch.from_numpy(found[0]), torch.from_numpy(found[1]), torch.from_numpy(found[2])
        exchanges = compiled_code().Exchanges(n_own, halo)
        evaluation = executor.evaluate(self.plan, structure, self.outer, exchanges=exchanges)
        executor.release(evaluation)
        answer, energy, virial = evaluation.answer, np.empty(1), np.empty((1, 3, 3))
        batch = np.zeros(graph.n_atoms, np.int64)
        compiled_code().driver.totals(batch, answer.energy, answer.virial, energy, virial)
        return torch.from_numpy(energy), torch.from_numpy(answer.forces), torch.from_numpy(virial)

    def by_atom_of_own(self, graph: AtomGraph, n_own: int, halo: Halo) -> tuple[Tensor, Tensor]:
        """As `by_atom`: energies of the first atoms, and virials of all that their edges give; as `of_own`."""
        exchanges = compiled_code().Exchanges(n_own, halo)
        structure = self._known(graph)
        return self._by_atom(
            self.executor.evaluate(self.plan, structure, self.outer, exchanges=exchanges, by_atom=True)
        )

    def features(self, graph: AtomGraph, n_own: int, halo: Halo) -> Tensor:
        """What the readout receives of the first atoms, (n_own, n_features): `models.backbone.atom_features`."""
        executor, exchanges = self.executor, compiled_code().Exchanges(n_own, halo)
        still = torch.zeros(graph.n_atoms, dtype=executor.layout.dtype, device="cpu")
        evaluation = executor.evaluate(self.plan, self._known(graph), seeds=still, exchanges=exchanges)
        return self._features(evaluation)[:n_own]

    def _known(self, graph: AtomGraph) -> Any:
        structure = self._structure(graph)
        if structure is None:
            raise ValueError(f"Atoms have numbers that are not among {self.numbers}, or ghosts of them.")
        return structure


class StagedTraining:
    """Energies, forces and virials of a network, differentiable once by its parameters, see `stages.run`."""

    def __init__(self) -> None:
        self._executors: dict[torch.dtype, Any] = {}

    def __call__(self, backbone: object, elements: Elements, graph: AtomGraph) -> Found | None:
        """As `StagedCall`; None if there is an obstacle, or an element is unknown."""
        if native_obstacle(backbone, elements.scale) is not None:
            return None
        assert isinstance(backbone, StagedNetwork)
        numbers = torch.cat(
            [graph.numbers, torch.tensor(elements.numbers, device="cpu")]
        )  # and an isolated atom of each
        element = torch.empty_like(numbers)
        if not loops.structure.elements(numbers.numpy(), elements.places(), element.numpy()):
            return None
        program, dtype = backbone.program(), elements.scale.dtype
        if dtype not in self._executors:
            self._executors[dtype] = compiled_code().Executor(program, dtype)
        nothing = torch.zeros_like(elements.scale)  # isolated atoms are subtracted below
        outer = outer_of(elements, nothing)
        structure = structure_of(graph, element.numpy(), offsets(graph))
        executor = self._executors[dtype]
        parts = executor.parts(structure, graph.batch.numpy(), graph.n_graphs)  # as in use
        b, forces, virial, added, coordination = _Outputs.apply(  # type: ignore[no-untyped-call]
            executor, program, structure, outer, parts, *program.weights
        )
        n, kind = graph.n_atoms, element[: graph.n_atoms]
        learned = elements.scale.double().index_select(0, kind) * (b[:n] - b[n:].index_select(0, kind))
        energy = torch.where(coordination[:n] != 0, learned + added[:n], 0.0)
        energy = energy + elements.reference.index_select(0, kind)
        return _sums(energy, graph), forces[:n], _sums(virial[:n], graph)


class _Outputs(torch.autograd.Function):
    """b, forces and virials by atom as a function of the weights of a list of stages."""

    @staticmethod
    def forward(
        ctx: Any, executor: Any, program: Program, structure: Any, outer: Any, parts: Any, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        plan = executor.plan(weights)
        evaluation = executor.evaluate(plan, structure, outer, training=True, parts=parts)
        ctx.kept = executor, program, evaluation
        if not any(ctx.needs_input_grad):
            executor.release(evaluation)
            executor.forget(plan)
        answer = evaluation.answer
        arrays = evaluation.workspace.b, answer.forces, answer.virial, answer.added, answer.coordination
        b, forces, virial, added, coordination = (torch.from_numpy(array).clone() for array in arrays)
        ctx.mark_non_differentiable(added, coordination)
        return b, forces, virial, added, coordination

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, b: Tensor, forces: Tensor, virial: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.kept is None:
            raise RuntimeError("The gradient of this loss was taken before. Compute energies and forces again.")
        executor, program, evaluation = ctx.kept
        ctx.kept = None
        gradients = executor.loss_gradient(evaluation, program, b, forces, virial)
        executor.release(evaluation)
        executor.forget(evaluation.plan)
        return None, None, None, None, None, *gradients


def outer_of(elements: Elements, isolated: Tensor) -> Any:
    """What the loops read of the elements of a potential."""
    arrays = of_elements(elements, isolated)
    return compiled_code().Outer(
        **{name: t.double().contiguous().numpy() for name, t in arrays.items()}, cutoff=elements.cutoff
    )


def structure_of(graph: AtomGraph, element: Array, offset: Array, kind: Array | None = None) -> Any:
    """The arrays of a graph; isolated atoms may stand at the end of `element`."""
    edges, more = graph.edges, len(element) - graph.n_atoms
    row_ptr, positions = edges.row_ptr, graph.positions
    if more:
        row_ptr = torch.cat([row_ptr, row_ptr[-1:].expand(more)])
        positions = torch.cat([positions, positions.new_zeros(more, 3)])
    return compiled_code().Structure(
        positions=positions.contiguous().numpy(),
        element=element,
        kind=kind,
        row_ptr=row_ptr.numpy(),
        neighbor=edges.neighbor.numpy(),
        reverse=edges.reverse.numpy(),
        offset=offset,
    )


def _sums(values: Tensor, graph: AtomGraph) -> Tensor:
    """Of each graph's atoms, in float64: (n_atoms, …) -> (n_graphs, …)."""
    return values.new_zeros(graph.n_graphs, *values.shape[1:]).index_add(0, graph.batch, values)
