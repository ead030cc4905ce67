"""A network as a list of steps, and its definition: energies, forces and the gradient of a loss in plain PyTorch.

A step is a stage, the array that it reads and the array that it adds to. A residual is a second writer of an
array, and two stages may write to different components of one array. With b_i what the readouts give and
s_i = ∂E/∂b_i,

    energies    values forward                              ∂E/∂r of edges    adjoints backward from s
    loss        a loss gives b̄_i, and by the forces' adjoints a motion ṙ of the edges with
                ∂L = ∂ Σ_i (b̄_i b_i + s_i ḃ_i):  tangents forward, both adjoints backward from b̄.

The adjoints of the tangents are those that the forces took (B. A. Pearlmutter, Neural Comput. 6, 147 (1994)).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from mlpot.stages.readout import Embedding, Readout
from mlpot.stages.stage import Environments, Stage, Weights

ENERGY = "energy"
"""The array (n_atoms, 1, 1) that readouts add to: b_i."""


class Step(NamedTuple):
    """One entry of the list."""

    stage: Stage | None  # None copies: a residual
    source: str | None  # array that is read; None for an `Embedding`
    target: str  # array that is added to
    read: int = 0  # first component that is read
    write: int = 0  # first component that is added to
    n_copied: int = 0  # components of a residual; 0 for all of the source


class Shape(NamedTuple):
    """Of an array at atoms."""

    n_components: int
    n_channels: int


Signature = tuple[tuple[object, ...], ...]
_KNOWN: dict[Signature, dict[str, Shape]] = {}
"""Shapes of lists that were checked: a training makes the same list in every step."""
MOST_KNOWN = 64


def _signature(step: Step) -> tuple[object, ...]:
    """All that decides whether a step fits to others."""
    stage = step.stage
    if stage is None:
        return step
    return type(stage), stage.n_read, stage.n_written, *(w.shape for w in stage.weights), *step[1:]


class Program:
    """A list of steps whose arrays fit together.

    Args:
        steps: in the order in which they run; every component is written before it is read, and not after.

    Raises:
        ValueError: two stages do not fit together; says which.
    """

    def __init__(self, steps: Iterable[Step]):
        self.steps = tuple(Step(*step) for step in steps)
        signature = tuple(map(_signature, self.steps))
        if signature in _KNOWN:
            self.shapes: dict[str, Shape] = _KNOWN[signature]
            return
        self.shapes = {}
        self._written: dict[str, set[int]] = {}
        self._read: dict[str, set[int]] = {}
        for number, step in enumerate(self.steps):
            try:
                self._add(step)
            except ValueError as error:
                name = "residual" if step.stage is None else type(step.stage).__name__
                arrays = f"from {step.source!r} to {step.target!r}"
                raise ValueError(
                    f"Stage {number} of the network ({name} {arrays}) does not fit: {error}"
                ) from None
        if self.shapes.get(ENERGY) != Shape(1, 1):
            raise ValueError(f"A network needs a Readout that writes to {ENERGY!r}, and nothing else may.")
        if len(_KNOWN) >= MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[signature] = self.shapes

    @property
    def weights(self) -> Weights:
        """Those of all stages, in order."""
        return tuple(w for step in self.steps if step.stage is not None for w in step.stage.weights)

    def windows(self, step: Step) -> tuple[slice, slice]:
        """The components that a step reads and adds to."""
        if step.stage is None:
            assert step.source is not None
            n = step.n_copied or self.shapes[step.source].n_components - step.read
            return slice(step.read, step.read + n), slice(step.write, step.write + n)
        read = slice(step.read, step.read + step.stage.n_read)
        return read, slice(step.write, step.write + step.stage.n_written)

    def _add(self, step: Step) -> None:
        if (step.source is None) != isinstance(step.stage, Embedding):
            raise ValueError("an Embedding, and only that, reads no array.")
        if (step.target == ENERGY) != isinstance(step.stage, Readout):
            raise ValueError(f"a Readout, and only that, writes to {ENERGY!r}.")
        n = 0
        if step.source is not None:
            n = self._of_source(step)
        write = self.windows(step)[1]
        if step.stage is not None:
            n = step.stage.n_channels(n)
        if overlap := self._read.get(step.target, set()) & set(range(write.start, write.stop)):
            raise ValueError(f"components {sorted(overlap)} of {step.target!r} were read before.")
        known = self.shapes.get(step.target, Shape(0, n))
        if known.n_channels != n:
            raise ValueError(f"{step.target!r} has {known.n_channels} channels, not {n}.")
        self.shapes[step.target] = Shape(max(known.n_components, write.stop), n)
        self._written.setdefault(step.target, set()).update(range(write.start, write.stop))

    def _of_source(self, step: Step) -> int:
        """Channels of the array that is read."""
        assert step.source is not None
        if step.source not in self.shapes or step.source == ENERGY:
            raise ValueError(f"no stage before it writes an array {step.source!r} that could be read.")
        components = set(range(*self.windows(step)[0].indices(10**6)))
        if missing := components - self._written[step.source]:
            raise ValueError(f"components {sorted(missing)} of {step.source!r} were not written before.")
        self._read.setdefault(step.source, set()).update(components)
        return self.shapes[step.source].n_channels


Arrays = dict[str, Tensor]


def forward(program: Program, at: Environments) -> Arrays:
    """All arrays; a function of the vectors and weights that autograd derives as often as asked."""
    arrays: Arrays = {}
    for step in program.steps:
        x = _read(program, arrays, step, at)
        _add(program, arrays, step, x if step.stage is None else step.stage.value(at, x))
    return arrays


def atomic_values(program: Program, at: Environments) -> Tensor:
    """b_i, (n_atoms,)."""
    return forward(program, at)[ENERGY][:, 0, 0]


def edge_gradient(
    program: Program, at: Environments, s: Tensor, values: Arrays | None = None
) -> tuple[Tensor, Arrays, Arrays]:
    """∂E/∂r (n_edges, 3) for ∂E/∂b_i = s_i (n_atoms,), all arrays, if they are not given, and ∂E of each."""
    values = forward(program, at) if values is None else values
    adjoints = {name: torch.zeros_like(value) for name, value in values.items()}
    adjoints[ENERGY] = s[:, None, None].to(values[ENERGY])
    gradient = torch.zeros_like(at.vectors)
    for step in reversed(program.steps):
        back = _written(program, adjoints, step)
        if step.stage is not None:
            back, along = step.stage.adjoint(at, _read(program, values, step, at), back)
            gradient = gradient if along is None else gradient + along
        _add_back(program, adjoints, step, back)
    return gradient, values, adjoints


def loss_gradient(
    program: Program, at: Environments, b_bar: Tensor, values: Arrays, adjoints: Arrays
) -> tuple[list[Weights], Tensor]:
    """Gradient of Σ_i (b̄_i b_i + s_i ḃ_i) by the weights of each step, and ḃ (n_atoms,).

    Args:
        program: the steps.
        at: with the motion of the edges.
        b_bar: (n_atoms,).
        values: from `edge_gradient`.
        adjoints: likewise; they hold s.
    """
    x_dots = tangents(program, at, values)
    back = {name: torch.zeros_like(value) for name, value in values.items()}
    back[ENERGY] = b_bar[:, None, None].to(values[ENERGY])
    gradients: list[Weights] = []
    for step in reversed(program.steps):
        of_weights: Weights = ()
        x_bar, g = _written(program, back, step), _written(program, adjoints, step)
        if step.stage is not None:
            x, x_dot = _read(program, values, step, at), _read(program, x_dots, step, at)
            x_bar, of_weights = step.stage.both_adjoints(at, x, x_dot, x_bar, g)
        _add_back(program, back, step, x_bar)
        gradients.append(of_weights)
    return gradients[::-1], x_dots[ENERGY][:, 0, 0]


def tangents(program: Program, at: Environments, values: Arrays) -> Arrays:
    """The derivative of all arrays along the motion of the edges."""
    x_dots: Arrays = {}
    for step in program.steps:
        x_dot = _read(program, x_dots, step, at)
        if step.stage is not None:
            x_dot = step.stage.tangent(at, _read(program, values, step, at), x_dot)
        _add(program, x_dots, step, x_dot)
    return x_dots


def _read(program: Program, arrays: Arrays, step: Step, at: Environments) -> Tensor:
    if step.source is None:
        return at.vectors.new_empty(len(at.element), 0, 0)
    return arrays[step.source][:, program.windows(step)[0]]


def _written(program: Program, arrays: Arrays, step: Step) -> Tensor:
    return arrays[step.target][:, program.windows(step)[1]]


def _add(program: Program, arrays: Arrays, step: Step, y: Tensor) -> None:
    arrays[step.target] = _padded_sum(arrays.get(step.target), y, program.windows(step)[1], program, step.target)


def _add_back(program: Program, arrays: Arrays, step: Step, x_bar: Tensor) -> None:
    if step.source is not None:
        window = program.windows(step)[0]
        arrays[step.source] = _padded_sum(arrays[step.source], x_bar, window, program, step.source)


def _padded_sum(array: Tensor | None, y: Tensor, window: slice, program: Program, name: str) -> Tensor:
    """array + y at some components, without changing either."""
    n = program.shapes[name].n_components
    before, after = window.start, n - window.stop
    if before or after:
        y = torch.cat([y.new_zeros(len(y), before, y.shape[2]), y, y.new_zeros(len(y), after, y.shape[2])], 1)
    return y if array is None else array + y
