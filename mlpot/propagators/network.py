"""Networks that move particles: E(n)-equivariant messages with velocities (Satorras 2021, equation 7)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Velocities = Literal["given", "updated"]
Pairs = Literal["free", "antisymmetric"]
SOFTENING = 0.1  # of inverse distances, in units of length


class VelocityLayer(nn.Module):
    """One layer, dense: every particle of a structure meets every other.

    With d_ij = x_i − x_j, distances and velocities of the layer, and N particles:

        m_ij = φ_e(h_i, h_j, a_ij)
        f_i  = 1/(N − 1) Σ_j d_ij φ_x(m_ij)
        v_i ← (1 + φ_v(h_i)) v_i + f_i,    x_i ← x_i + τ v_i
        h_i ← h_i + φ_h(h_i, Σ_j m_ij)

    `updated` hands v on from layer to layer. Where velocities are `given`, every layer has those of the input, and
    x_i ← x_i + τ (1 + φ_v(h_i)) v_i + f_i, as in the published program of the paper.

    Where pairs are `antisymmetric`, f_i has φ_x(m_ij) + φ_x(m_ji) and is divided by the mass of particle i, and
    φ_v is absent: the momentum that particle j gives to i is opposite to what i gives to j, and along the line
    between them. So each layer keeps the total momentum and the total angular momentum, and moves the center of
    mass by τ times its velocity.

    Args:
        n_features: of a particle and of a message.
        n_edge: numbers a_ij of an edge.
        velocities: see above.
        pairs: see above.
        duration: τ.
    """

    def __init__(self, n_features: int, n_edge: int, *, velocities: Velocities, pairs: Pairs, duration: float):
        super().__init__()
        self.updated, self.antisymmetric = velocities == "updated", pairs == "antisymmetric"
        self.duration = duration
        self.of_center = nn.Linear(n_features, n_features)
        self.of_neighbor = nn.Linear(n_features, n_features, bias=False)
        self.of_edge = nn.Linear(n_edge, n_features, bias=False)
        self.message = nn.Linear(n_features, n_features)
        last = nn.Linear(n_features, 1, bias=False)
        nn.init.xavier_uniform_(last.weight, gain=0.001)  # starts as free flight, as published
        self.kick = nn.Sequential(nn.Linear(n_features, n_features), nn.SiLU(), last)
        if not self.antisymmetric:
            last = nn.Linear(n_features, 1)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.of_velocity = nn.Sequential(nn.Linear(n_features, n_features), nn.SiLU(), last)
        first, last = nn.Linear(2 * n_features, n_features), nn.Linear(n_features, n_features)
        self.of_node = nn.Sequential(first, nn.SiLU(), last)

    def forward(
        self, h: Tensor, x: Tensor, v: Tensor, edges: Tensor, displacements: Tensor, inertia: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next h, x and v.

        Args:
            h: (b, n, n_features).
            x: (b, n, 3).
            v: (b, n, 3).
            edges: (b, n, n, n_edge).
            displacements: (b, n, n, 3) x_i − x_j.
            inertia: (b, n, 1) by which a kick is divided.
        """
        others = 1 - torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, :, None]
        hidden = self.of_center(h).unsqueeze(2) + self.of_neighbor(h).unsqueeze(1) + self.of_edge(edges)
        messages = functional.silu(self.message(functional.silu(hidden)))
        weights = self.kick(messages)
        if self.antisymmetric:
            weights = weights + weights.transpose(1, 2)
        kick = (displacements * weights).sum(2) / max(1, x.shape[1] - 1) / inertia
        scaled = v if self.antisymmetric else v + self.of_velocity(h) * v
        if self.updated:
            v = scaled + kick
            x = x + self.duration * v
        else:
            x = x + self.duration * scaled + kick
        return h + self.of_node(torch.cat((h, (messages * others).sum(2)), -1)), x, v


class VelocityNetwork(nn.Module):
    """Layers of equation 7, from positions and velocities to those after one interval, which is the unit of time.

    It is equivariant under rotations, reflections, translations and permutations. Edges have the squared distance,
    that of the input, and the product of the charges; if asked, more:

    Args:
        n_classes: kinds of particles.
        n_features: of a particle.
        n_layers: a particle flies for 1/n_layers of the interval in each.
        velocities: "updated" or "given", see `VelocityLayer`; those at the end are known if they are updated.
        pairs: "free" or "antisymmetric", see `VelocityLayer`.
        velocity_features: edges have v_i·d_ij, v_j·d_ij and v_i·v_j too: scalars of vectors (l = 1), which tell
            how particles approach, as those of SEGNN do (Brandstetter 2022).
        n_radial: edges have so many Gaussians of the distance, and its inverse.
        radius: the Gaussians lie between 0 and it.
        shared: all layers have the same weights, as the steps of an integrator have.
        speed: typical speed, in units of which velocities are features; kicks are multiples of it.

    Raises:
        ValueError: antisymmetric pairs with velocities that are given.
    """

    def __init__(
        self,
        *,
        n_classes: int = 1,
        n_features: int = 64,
        n_layers: int = 4,
        velocities: Velocities = "updated",
        pairs: Pairs = "free",
        velocity_features: bool = False,
        n_radial: int = 0,
        radius: float = 4.0,
        shared: bool = False,
        speed: float = 1.0,
    ):
        super().__init__()
        if pairs == "antisymmetric" and velocities == "given":
            raise ValueError(
                "Antisymmetric pairs change velocities, and these are given in every layer. Let velocities be "
                "updated, or pairs free."
            )
        self.n_layers, self.velocity_features, self.speed = n_layers, velocity_features, speed
        self.radius, self.n_radial = radius, n_radial
        self.tells_velocities, self.antisymmetric = velocities == "updated", pairs == "antisymmetric"
        n_edge = 3 + 3 * velocity_features + (n_radial + 1 if n_radial else 0)
        self.of_class = nn.Embedding(n_classes, n_features)
        self.of_speed = nn.Linear(1, n_features)
        self.layers = nn.ModuleList(
            VelocityLayer(n_features, n_edge, velocities=velocities, pairs=pairs, duration=1 / n_layers)
            for _ in range(1 if shared else n_layers)
        )

    def forward(
        self, classes: Tensor, charges: Tensor, masses: Tensor, x: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Positions and velocities after the interval.

        Args:
            classes: (b, n) kind of each particle, an index.
            charges: (b, n).
            masses: (b, n).
            x: (b, n, 3) positions.
            v: (b, n, 3) velocities, in units of length per interval.

        Returns:
            (b, n, 3) each; the velocities are those of the input where these are given.
        """
        h = self.of_class(classes) + self.of_speed(_length(v / self.speed))
        displacements = x.unsqueeze(2) - x.unsqueeze(1)
        fixed = torch.stack((charges.unsqueeze(2) * charges.unsqueeze(1), displacements.square().sum(-1)), -1)
        inertia = (masses.unsqueeze(-1) if self.antisymmetric else torch.ones_like(x[..., :1])) / self.speed
        for k in range(self.n_layers):
            layer = self.layers[k % len(self.layers)]
            h, x, v = layer(h, x, v, self._edges(fixed, displacements, v), displacements, inertia)
            displacements = x.unsqueeze(2) - x.unsqueeze(1)
        return x, v

    def _edges(self, fixed: Tensor, displacements: Tensor, v: Tensor) -> Tensor:
        """(b, n, n, n_edge)."""
        squared = displacements.square().sum(-1, keepdim=True)
        found = [fixed, squared]
        if self.velocity_features:
            u = v / self.speed
            found += [
                (displacements * u.unsqueeze(2)).sum(-1, keepdim=True),
                (displacements * u.unsqueeze(1)).sum(-1, keepdim=True),
            ]
            found.append((u.unsqueeze(2) * u.unsqueeze(1)).sum(-1, keepdim=True))
        if self.n_radial:
            softened = (squared + SOFTENING**2).sqrt()
            centers = torch.linspace(0, self.radius, self.n_radial, dtype=v.dtype, device=v.device)
            found += [1 / softened, (-((softened - centers) * (self.n_radial / self.radius)).square()).exp()]
        return torch.cat(found, -1)


def _length(v: Tensor) -> Tensor:
    """(…, 1) length of vectors, whose derivative is finite where they vanish."""
    squared = v.square().sum(-1, keepdim=True)
    still = squared == 0
    return torch.where(still, 0, torch.where(still, 1, squared).sqrt())
