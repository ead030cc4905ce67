"""The contract of a stage, and the record of what all stages of a network see.

A network is a list of stages. A stage is a formula with three derivatives, and knows no other stage:

    value           y = f(x)
    adjoint         x̄ = Jᵀ ȳ, and ∂E/∂r of each edge                      from energies to forces
    tangent         ẏ = J ẋ + what the motion ṙ of the edges gives            training
    both_adjoints   x̄ = Jᵀ ȳ + (∂ẏ/∂x)ᵀ g and the gradients of the weights, g the adjoint of ẏ    training

Forces are derivatives, so the gradient of a loss on them is one of second order, but along one direction only, and
no stage needs a derivative of a derivative of its formula (see `run`). An array at atoms is
(n_atoms, n_components, n_channels): the components of a spherical tensor stand side by side, channels are last.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor

from mlpot.graph import Edges
from mlpot.stages.harmonics import harmonic_gradients, harmonics, harmonics_along
from mlpot.stages.spline_grid import SplineGrid


@dataclass(eq=False)
class Environments:
    """The atoms and their neighbors, as every stage of one evaluation sees them."""

    element: Tensor  # (n_atoms,) int64, index among the elements of the network
    edges: Edges
    vectors: Tensor  # (n_edges, 3) Å, from center to neighbor
    vectors_dot: Tensor | None = None  # (n_edges, 3), the motion of the edges along which `tangent` derives
    kept: dict[Any, Any] = field(default_factory=dict, repr=False)  # what stages find once for all of them

    @cached_property
    def distances(self) -> Tensor:
        """d (n_edges,) Å."""
        return self.vectors.square().sum(1).sqrt()

    @cached_property
    def directions(self) -> Tensor:
        """u = r/d, (n_edges, 3)."""
        return self.vectors / self.distances[:, None]

    @cached_property
    def distances_dot(self) -> Tensor:
        """ḋ = u · ṙ, (n_edges,)."""
        assert self.vectors_dot is not None, "tangents need the motion of the edges"
        return (self.directions * self.vectors_dot).sum(1)

    @cached_property
    def harmonics(self) -> Tensor:
        """Y_b(u) to degree 3, (n_edges, 16)."""
        return harmonics(self.directions)

    @cached_property
    def harmonic_gradients(self) -> Tensor:
        """∂Y_b/∂r, (n_edges, 16, 3) 1/Å."""
        return harmonic_gradients(self.directions, self.distances)

    @cached_property
    def harmonics_dot(self) -> Tensor:
        """Ẏ_b = ∂Y_b/∂r · ṙ, (n_edges, 16)."""
        assert self.vectors_dot is not None, "tangents need the motion of the edges"
        return harmonics_along(self.directions, self.distances, self.vectors_dot)

    def moving(self, motion: Tensor) -> Environments:
        """The same atoms with a motion of the edges (n_edges, 3); what was found of their vectors is kept."""
        moved = Environments(self.element, self.edges, self.vectors, motion, self.kept)
        for name in ("distances", "directions", "harmonics", "harmonic_gradients"):
            if name in self.__dict__:
                moved.__dict__[name] = self.__dict__[name]
        return moved

    def on_knots(self, grid: SplineGrid) -> tuple[Tensor, Tensor, Tensor]:
        """`SplineGrid.coefficients` of the distances."""
        if grid not in self.kept:
            self.kept[grid] = grid.coefficients(self.distances)
        found: tuple[Tensor, Tensor, Tensor] = self.kept[grid]
        return found


Weights = tuple[Tensor, ...]


class Stage(Protocol):
    """A formula from an array at atoms to another, with its derivatives.

    `weights` are tensors that the network computes from its parameters, and that carry their gradient there.
    """

    @property
    def weights(self) -> Weights: ...

    @property
    def n_read(self) -> int:
        """Components that it reads."""
        ...

    @property
    def n_written(self) -> int:
        """Components that it writes."""
        ...

    def n_channels(self, n: int) -> int:
        """Channels that it writes if it reads n.

        Raises:
            ValueError: it does not read n channels.
        """
        ...

    def value(self, at: Environments, x: Tensor) -> Tensor:
        """y (n_atoms, n_written, …) of x (n_atoms, n_read, n_channels)."""
        ...

    def adjoint(self, at: Environments, x: Tensor, y_bar: Tensor) -> tuple[Tensor, Tensor | None]:
        """x̄, and ∂E/∂r (n_edges, 3) if the stage sees edges."""
        ...

    def tangent(self, at: Environments, x: Tensor, x_dot: Tensor) -> Tensor:
        """ẏ."""
        ...

    def both_adjoints(
        self, at: Environments, x: Tensor, x_dot: Tensor, y_bar: Tensor, g: Tensor
    ) -> tuple[Tensor, Weights]:
        """x̄ and the gradients of `weights`, with ȳ the adjoint of y and g that of ẏ."""
        ...


def fits(n: int, n_expected: int, stage: str) -> None:
    """Raise ValueError unless a stage gets the number of channels that its weights are made for."""
    if n != n_expected:
        raise ValueError(f"{stage} has weights for {n_expected} channels, but reads an array of {n}.")


def of_element(rows: Tensor, at: Environments) -> Tensor:
    """Those of each atom's element (n_atoms, …) of (n_elements, …), or (1, …) if all elements share one."""
    return rows.index_select(0, at.element) if len(rows) > 1 else rows


def by_element(values: Tensor, n: int, at: Environments) -> Tensor:
    """Sums over the atoms of each of n elements, or of all if n is one: (n_atoms, …) -> (n, …)."""
    if n == 1:
        return values.sum(0, keepdim=True)
    return values.new_zeros(n, *values.shape[1:]).index_add(0, at.element, values)
