"""A network on every edge: messages of two dense layers, summed over the neighbors.

    z_ij = a_i + b_j + C e(s_ij)         m_ij = φ(W φ(z_ij) + w), or φ(z_ij) without a second layer
    y_i  = Σ_j u_ij g_ij m_ij            u_ij = factor · u(d_ij),  g_ij = σ(p · m_ij + p₀) with a gate, else 1

(V. G. Satorras et al., ICML 2021, arXiv 2102.09844, eqs. 3, 5 and 8). The first layer of the network is split, so
that what atoms add to it is found once an atom: the stage reads [a, b], which a `Linear` makes of features. e is a
radial basis. Atoms may also step along their edges (eq. 4), by

    δ_i = −Σ_j u_ij t_ij R_ij,           t_ij = v · φ(M m_ij + μ)

where R_ij is the vector of the edge r_ij, or R_ij = r_ij + D_j − D_i between atoms that have been displaced by D.
Then s = √(|R|² + ε²), else s = d. Steps and displacements are components that have x, y and z as the first three
channels: the stage reads [a, b, D] and writes [y, δ]. The envelope u is of the true distance d.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mlpot.stages.pointwise import FUNCTIONS
from mlpot.stages.radial import Basis, Envelope
from mlpot.stages.stage import Environments, Weights, fits


class Dense(NamedTuple):
    """The second layer of the messages."""

    weight: Tensor  # W (n, n), from rows to columns
    bias: Tensor  # w (n,)


class Gate(NamedTuple):
    """What attention has."""

    weight: Tensor  # p (n,)
    bias: Tensor  # p₀ (1,)


class Move(NamedTuple):
    """What steps have."""

    weight: Tensor  # M (n, n)
    bias: Tensor  # μ (n,)
    along: Tensor  # v (n,)


class _Messages(NamedTuple):
    """Values on edges, (n_edges, n_channels) unless said; what a stage does not have is empty."""

    u: Tensor  # (n_edges, 1)
    s: Tensor  # (n_edges,)
    r: Tensor  # R (n_edges, 3)
    basis: Tensor  # e (n_edges, n_radial)
    z: Tensor
    f: Tensor  # φ(z)
    y: Tensor
    m: Tensor
    gate: Tensor  # g (n_edges, 1)
    x: Tensor  # M m + μ
    k: Tensor  # φ(x)
    t: Tensor  # (n_edges, 1)


class _Dots(NamedTuple):
    """Tangents of them."""

    u: Tensor
    s: Tensor
    r: Tensor
    basis: Tensor
    z: Tensor
    f: Tensor
    y: Tensor
    m: Tensor
    q: Tensor  # of p · m + p₀
    x: Tensor
    k: Tensor
    t: Tensor


class _Bars(NamedTuple):
    """Adjoints of them."""

    y_i: Tensor  # of the sum, at the center
    step: Tensor  # of the step, (n_edges, 3)
    u: Tensor
    s: Tensor
    r: Tensor
    z: Tensor
    f: Tensor
    y: Tensor
    m: Tensor
    q: Tensor
    x: Tensor
    t: Tensor


@dataclass(eq=False)
class EdgeNetwork:
    """See above.

    Args:
        from_radial: C, (n_radial, n_channels).
        places: of the basis, (n_radial,); no gradient goes to them.
        basis: e.
        envelope: u.
        factor: of the envelope.
        function: φ, a name in `pointwise.FUNCTIONS`.
        second: the second layer.
        gate: the gate.
        move: what makes steps.
        softening: ε², Å², if the atoms that it reads are displaced.

    Raises:
        ValueError: there is no such function, or weights do not fit together.
    """

    from_radial: Tensor
    places: Tensor
    basis: Basis
    envelope: Envelope
    factor: float = 1.0
    function: str = "silu"
    second: Dense | None = None
    gate: Gate | None = None
    move: Move | None = None
    softening: float | None = None

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise ValueError(f"Unknown function {self.function!r}. Choose one of {', '.join(sorted(FUNCTIONS))}.")
        n = self.from_radial.shape[1]
        for name, parts in (("second", self.second), ("gate", self.gate), ("move", self.move)):
            if parts is not None and parts.weight.shape[0] != n:
                raise ValueError(f"{name} has weights for {parts.weight.shape[0]} channels, but C has {n}.")
        if n < 3 and self.has_vectors:
            raise ValueError(
                f"Displacements need three channels, but there are {n}. Give n_features of at least 3."
            )

    @property
    def has_vectors(self) -> bool:
        """Whether atoms are displaced, or step."""
        return self.softening is not None or self.move is not None

    @property
    def weights(self) -> Weights:
        parts = [part for part in (self.second, self.gate, self.move) if part is not None]
        return (self.from_radial, self.places, *(w for part in parts for w in part))

    @property
    def n_read(self) -> int:
        return 2 if self.softening is None else 3

    @property
    def n_written(self) -> int:
        return 1 if self.move is None else 2

    def n_channels(self, n: int) -> int:
        fits(n, self.from_radial.shape[1], "EdgeNetwork")
        return n

    def value(self, at: Environments, x: Tensor) -> Tensor:
        way = self._messages(at, x)
        return self._written(at, x, way.u * way.gate * way.m, -way.u * way.t * way.r)

    def tangent(self, at: Environments, x: Tensor, x_dot: Tensor) -> Tensor:
        """Σ_j (u̇ g + u ġ) m + u g ṁ, and −Σ_j (u̇ t + u ṫ) R + u t Ṙ."""
        way = self._messages(at, x)
        dot = self._tangents(at, way, x_dot)
        opened = dot.u * way.gate + way.u * self._gate_slope(way) * dot.q
        step = -(dot.u * way.t + way.u * dot.t) * way.r - way.u * way.t * dot.r
        return self._written(at, x, opened * way.m + way.u * way.gate * dot.m, step)

    def adjoint(self, at: Environments, x: Tensor, y_bar: Tensor) -> tuple[Tensor, Tensor]:
        """ā_i = Σ_j z̄, b̄_j = Σ_i z̄, D̄_j = Σ_i R̄ = −D̄_i, and ∂E/∂r = R̄ + ū u′ r/d."""
        way = self._messages(at, x)
        bar = self._adjoints(way, *self._at_centers(at, y_bar))
        along = self.factor * self.envelope.slope(at.distances)[:, None] * bar.u
        if not self.has_vectors:
            along = along + bar.s[:, None]
        return self._read(at, x, bar.z, bar.r), bar.r + along * at.directions

    def both_adjoints(
        self, at: Environments, x: Tensor, x_dot: Tensor, y_bar: Tensor, g: Tensor
    ) -> tuple[Tensor, Weights]:
        """The adjoints from ȳ, and how those from g change along ẋ and ṙ: the mixed second derivatives."""
        way = self._messages(at, x)
        dot = self._tangents(at, way, x_dot)
        of_g = self._adjoints(way, *self._at_centers(at, g))
        bar = self._second(way, dot, of_g, *self._at_centers(at, y_bar))
        return self._read(at, x, bar.z, bar.r), self._to_weights(way, dot, of_g, bar)

    def _messages(self, at: Environments, x: Tensor) -> _Messages:
        f = FUNCTIONS[self.function][0]
        i, j = at.edges.center, at.edges.neighbor
        r, s = self._moved(at, x)
        basis = self.basis.derivative(s, 0, self.places.detach())
        z = x[:, 0].index_select(0, i) + x[:, 1].index_select(0, j) + basis @ self.from_radial
        first = f(z)
        y = z if self.second is None else first @ self.second.weight + self.second.bias
        m, nothing = first if self.second is None else f(y), z.new_empty(len(z), 0)
        one = z.new_ones(len(z), 1)
        gate = one if self.gate is None else torch.sigmoid((m @ self.gate.weight)[:, None] + self.gate.bias)
        hidden = nothing if self.move is None else m @ self.move.weight + self.move.bias
        k = f(hidden)
        t = 0 * one if self.move is None else (k @ self.move.along)[:, None]
        u = self.factor * self.envelope(at.distances)[:, None]
        return _Messages(u, s, r, basis, z, first, y, m, gate, hidden, k, t)

    def _moved(self, at: Environments, x: Tensor) -> tuple[Tensor, Tensor]:
        """R and s."""
        if self.softening is None:
            return at.vectors, at.distances
        r = at.vectors + self._between(at, x[:, 2, :3])
        return r, (r.square().sum(1) + self.softening).sqrt()

    @staticmethod
    def _between(at: Environments, d: Tensor) -> Tensor:
        """D_j − D_i."""
        return d.index_select(0, at.edges.neighbor) - d.index_select(0, at.edges.center)

    def _tangents(self, at: Environments, way: _Messages, x_dot: Tensor) -> _Dots:
        slope, nothing = FUNCTIONS[self.function][1], way.z.new_zeros(len(way.z), 1)
        assert at.vectors_dot is not None, "tangents need the motion of the edges"
        r = at.vectors_dot if self.softening is None else at.vectors_dot + self._between(at, x_dot[:, 2, :3])
        s = (way.r * r).sum(1) / way.s
        basis = self.basis.derivative(way.s, 1, self.places) * s[:, None]
        z = x_dot[:, 0].index_select(0, at.edges.center) + x_dot[:, 1].index_select(0, at.edges.neighbor)
        z = z + basis @ self.from_radial
        f = slope(way.z) * z
        y = z if self.second is None else f @ self.second.weight
        m = f if self.second is None else slope(way.y) * y
        q = nothing if self.gate is None else (m @ self.gate.weight)[:, None]
        x = way.x if self.move is None else m @ self.move.weight
        k = slope(way.x) * x
        t = nothing if self.move is None else (k @ self.move.along)[:, None]
        u = self.factor * (self.envelope.slope(at.distances) * at.distances_dot)[:, None]
        return _Dots(u, s, r, basis, z, f, y, m, q, x, k, t)

    def _gate_slope(self, way: _Messages) -> Tensor:
        return way.gate * (1 - way.gate)  # zero without a gate

    def _adjoints(self, way: _Messages, y_i: Tensor, step: Tensor) -> _Bars:
        """From ȳ and δ̄ at the centers of edges."""
        pulled, along = _dot(way.m, y_i), _dot(way.r, step)
        q = way.u * pulled * self._gate_slope(way)
        u, t = way.gate * pulled - way.t * along, -way.u * along
        x, m = self._through_move(way, t, None)
        m = m + way.u * way.gate * y_i
        m = m if self.gate is None else m + q * self.gate.weight
        y, f, z = self._through_layers(way, m, None)
        s = self._by_length(way, z)
        r = -way.u * way.t * step
        r = r + (s / way.s)[:, None] * way.r if self.has_vectors else torch.zeros_like(r)
        return _Bars(y_i, step, u, s, r, z, f, y, m, q, x, t)

    def _second(self, way: _Messages, dot: _Dots, g: _Bars, y_i: Tensor, step: Tensor) -> _Bars:
        """From ȳ and δ̄, and by the tangents from those that g has."""
        gate_slope = self._gate_slope(way)
        pulled, curved = _dot(way.m, g.y_i), gate_slope * (1 - 2 * way.gate)
        q = way.u * _dot(way.m, y_i) + dot.u * pulled + way.u * _dot(dot.m, g.y_i)
        q = q * gate_slope + way.u * pulled * curved * dot.q
        t = -way.u * (_dot(way.r, step) + _dot(dot.r, g.step)) - dot.u * _dot(way.r, g.step)
        x, m = self._through_move(way, t, (dot, g))
        m = m + way.u * way.gate * y_i + (dot.u * way.gate + way.u * gate_slope * dot.q) * g.y_i
        m = m if self.gate is None else m + q * self.gate.weight
        y, f, z = self._through_layers(way, m, (dot, g))
        s, r = g.s, torch.zeros_like(way.r)
        if self.softening is not None:
            curvature = self.basis.derivative(way.s, 2, self.places) * dot.s[:, None]
            s = self._by_length(way, z) + ((g.z @ self.from_radial.T) * curvature).sum(1)
            r = (s / way.s)[:, None] * way.r - way.u * way.t * step - (dot.u * way.t + way.u * dot.t) * g.step
            r = r + (g.s / way.s)[:, None] * (dot.r - (dot.s / way.s)[:, None] * way.r)
        return _Bars(y_i, step, way.u, s, r, z, f, y, m, q, x, t)

    def _through_move(self, way: _Messages, t: Tensor, of: tuple[_Dots, _Bars] | None) -> tuple[Tensor, Tensor]:
        """The adjoint of M m + μ, and what m gets by it."""
        if self.move is None:
            return way.x, torch.zeros_like(way.m)
        _, slope, curvature = FUNCTIONS[self.function]
        x = t * self.move.along * slope(way.x)
        if of is not None:
            x = x + of[1].t * self.move.along * curvature(way.x) * of[0].x
        return x, x @ self.move.weight.T

    def _through_layers(
        self, way: _Messages, m: Tensor, of: tuple[_Dots, _Bars] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """ȳ, the adjoint of φ(z), and z̄."""
        _, slope, curvature = FUNCTIONS[self.function]
        y = f = m
        if self.second is not None:
            y = slope(way.y) * m
            if of is not None:
                y = y + curvature(way.y) * of[0].y * of[1].m
            f = y @ self.second.weight.T
        z = slope(way.z) * f
        return y, f, z if of is None else z + curvature(way.z) * of[0].z * of[1].f

    def _by_length(self, way: _Messages, z: Tensor) -> Tensor:
        return ((z @ self.from_radial.T) * self.basis.derivative(way.s, 1, self.places)).sum(1)

    def _to_weights(self, way: _Messages, dot: _Dots, g: _Bars, bar: _Bars) -> Weights:
        out = [way.basis.T @ bar.z + dot.basis.T @ g.z, torch.zeros_like(self.places)]
        if self.second is not None:
            out += [way.f.T @ bar.y + dot.f.T @ g.y, bar.y.sum(0)]
        if self.gate is not None:
            out += [(bar.q * way.m + g.q * dot.m).sum(0), bar.q.sum(0)]
        if self.move is not None:
            out += [way.m.T @ bar.x + dot.m.T @ g.x, bar.x.sum(0), (bar.t * way.k + g.t * dot.k).sum(0)]
        return tuple(out)

    def _at_centers(self, at: Environments, y: Tensor) -> tuple[Tensor, Tensor]:
        """The sum and the step of (n_atoms, n_written, n_channels) at the center of each edge."""
        rows = y.index_select(0, at.edges.center)
        return rows[:, 0], rows[:, 1, :3] if self.move is not None else rows.new_zeros(len(rows), 3)

    def _written(self, at: Environments, x: Tensor, message: Tensor, step: Tensor) -> Tensor:
        parts = [message] if self.move is None else [message, _wide(step, message.shape[1])]
        return _sums(torch.stack(parts, 1), at.edges.center, len(x))

    def _read(self, at: Environments, x: Tensor, z: Tensor, r: Tensor) -> Tensor:
        """Adjoints of what was read, from those of edges."""
        i, j = at.edges.center, at.edges.neighbor
        parts = [_sums(z, i, len(x)), _sums(z, j, len(x))]
        if self.softening is not None:
            parts.append(_wide(_sums(r, j, len(x)) - _sums(r, i, len(x)), z.shape[1]))
        return torch.stack(parts, 1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(n_edges, 1)."""
    return (a * b).sum(1, keepdim=True)


def _wide(vectors: Tensor, n_channels: int) -> Tensor:
    """(n, 3) -> (n, n_channels), zeros behind."""
    return torch.nn.functional.pad(vectors, (0, n_channels - 3))


def _sums(values: Tensor, at: Tensor, n_atoms: int) -> Tensor:
    return values.new_zeros(n_atoms, *values.shape[1:]).index_add(0, at, values)
