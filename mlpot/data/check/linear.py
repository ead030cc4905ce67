"""A small linear potential, fitted in seconds, that tells what the labels of a set should look like.

Atomic energies are linear in pair functions and in second moments of the neighborhood (as in moment tensor
potentials, A. V. Shapeev, Multiscale Model. Simul. 14, 1153 (2016)):

    p_ik  = Σ_j g_k(r_ij)
    m_iabl = Σ_jk g_a(r_ij) g_b(r_ik) (u_ij · u_ik)^l,   l = 0, 1, 2

so that energies, forces and stresses are linear in the same coefficients, and comparing them needs no training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray

from mlpot.data.frame import Frame
from mlpot.graph import edge_vectors
from mlpot.neighbors import build_graph
from mlpot.units import BOHR, HARTREE, KCAL_MOL, KJ_MOL, RYDBERG

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

N_PAIR = 8  # radial functions of pairs
RESOLVED = 3  # elements that have moments of their own; of more, two weighted sums
RIDGE = 1e-6
FEWEST = 10  # energies beyond those that composition explains
SHARE = 0.5  # of the energies, of which there are fewer than of forces
_OF_ENERGIES = (
    1.0, HARTREE, RYDBERG, KCAL_MOL, KJ_MOL, BOHR, BOHR / HARTREE, BOHR / RYDBERG, 1 / HARTREE, 1 / KCAL_MOL
)  # fmt: skip
USUAL = [sign * t for t in _OF_ENERGIES for sign in (1.0, -1.0)]
"""Ratios of units that are met: of eV and eV/Å, of other energies, of both in atomic units, of other forces."""
CLEARLY = 2.0  # less misfit than another ratio
RATIOS = np.concatenate([sign * np.logspace(-1.3, 1.3, 131) for sign in (1.0, -1.0)])


@dataclass(frozen=True)
class Design:
    """Derivatives of the energy of one frame with respect to the coefficients."""

    energy: Floats  # (n_coefficients,)
    forces: Floats  # (3 n_atoms, n_coefficients)
    virial: Floats  # (9, n_coefficients), dE/dε


class Basis:
    """The functions for a set of elements.

    Args:
        elements: atomic numbers, ascending.
        nearest: Å, a typical distance of nearest neighbors.
        n_moment: radial functions of moments.
    """

    def __init__(self, elements: list[int], nearest: float, n_moment: int = 3):
        self.elements = np.array(elements)
        self.cutoff = float(max(4.5, 2.2 * nearest))
        self.shortest = 0.6 * nearest
        n = len(elements)
        self.n_species = n if n <= RESOLVED else 2
        self.weights = np.eye(n) if n <= RESOLVED else np.stack([np.ones(n), covalent_radii[elements]], axis=1)
        self.n_moment = n_moment
        n_channels = self.n_species * n_moment
        self.a, self.b = np.triu_indices(n_channels)
        self.n_pairs = n * (n + 1) // 2 * N_PAIR
        self.n_moments = 3 * len(self.a)
        self.size = self.n_pairs + n * self.n_moments

    def design(self, frame: Frame) -> Design:
        """The design of one frame.

        Raises:
            ValueError: as `build_graph`.
        """
        graph = build_graph(frame.numbers, frame.positions, frame.cell, frame.pbc, self.cutoff)
        center, neighbor = graph.edges.center.numpy(), graph.edges.neighbor.numpy()
        vectors = edge_vectors(graph).numpy()
        kind = np.searchsorted(self.elements, frame.numbers)
        energy = np.zeros(self.size)
        slope = np.zeros((len(center), 3, self.size))  # of the energy by each edge vector
        self._add_pairs(kind[center], kind[neighbor], vectors, energy, slope)
        self._add_moments(kind, center, neighbor, graph.edges.row_ptr.numpy(), vectors, energy, slope)
        forces = _sums(slope - slope[graph.edges.reverse.numpy()], graph.edges.row_ptr.numpy())
        virial = np.einsum("eaf,eb->abf", slope, vectors)
        return Design(energy, forces.reshape(-1, self.size), virial.reshape(9, self.size))

    def _radial(self, r: Floats, n: int) -> tuple[Floats, Floats]:
        """(n_edges, n) Gaussians in r under an envelope, and their derivatives."""
        centers = np.linspace(self.shortest, self.cutoff, n + 1)[:-1]
        width = (self.cutoff - self.shortest) / n
        x = r / self.cutoff
        envelope, slope = (1 - x**2) ** 3, -6 * x * (1 - x**2) ** 2 / self.cutoff
        shifted = (r[:, None] - centers) / width
        gauss = np.exp(-0.5 * shifted**2)
        return gauss * envelope[:, None], gauss * (slope[:, None] - envelope[:, None] * shifted / width)

    def _add_pairs(self, zi: Ints, zj: Ints, vectors: Floats, energy: Floats, slope: Floats) -> None:
        r = np.linalg.norm(vectors, axis=1)
        g, dg = self._radial(r, N_PAIR)
        low, high = np.minimum(zi, zj), np.maximum(zi, zj)
        column = (high * (high + 1) // 2 + low)[:, None] * N_PAIR + np.arange(N_PAIR)
        np.add.at(energy, column, 0.5 * g)
        unit = vectors / r[:, None]
        edge = np.arange(len(r))[:, None]
        for axis in range(3):
            slope[edge, axis, column] = 0.5 * dg * unit[:, axis, None]

    def _add_moments(
        self,
        kind: Ints,
        center: Ints,
        neighbor: Ints,
        row_ptr: Ints,
        vectors: Floats,
        energy: Floats,
        slope: Floats,
    ) -> None:
        r = np.linalg.norm(vectors, axis=1)
        unit = vectors / r[:, None]
        g, dg = self._radial(r, self.n_moment)
        weight = self.weights[kind[neighbor]]
        g, dg = (
            (weight[:, :, None] * x[:, None, :]).reshape(len(r), self.n_species * self.n_moment) for x in (g, dg)
        )
        d_unit = (np.eye(3) - unit[:, :, None] * unit[:, None, :]) / r[:, None, None]  # d unit_m / d vector_x
        column = self.n_pairs + kind * self.n_moments
        for power in range(3):
            tensor, change = _powers(unit, d_unit, power)
            moment = _sums(g[:, :, None] * tensor[:, None, :], row_ptr)
            product = np.einsum("icm,idm->icd", moment, moment)[:, self.a, self.b]
            # d m_ab = dA_a · A_b + A_a · dA_b, with dA_a = (g'_a u T + g_a dT) · d vector
            along = np.einsum("em,ecm->ec", tensor, moment[center])
            across = np.einsum("emx,ecm->ecx", change, moment[center])
            part = (
                (dg[:, self.a] * along[:, self.b] + dg[:, self.b] * along[:, self.a])[:, None, :]
                * unit[:, :, None]
                + g[:, None, self.a] * across[:, self.b].transpose(0, 2, 1)
                + g[:, None, self.b] * across[:, self.a].transpose(0, 2, 1)
            )
            own = np.arange(len(self.a)) + power * len(self.a)
            np.add.at(energy, column[:, None] + own, product)
            for k in np.unique(kind):
                mine = kind[center] == k
                start = self.n_pairs + k * self.n_moments + power * len(self.a)
                slope[mine, :, start : start + len(self.a)] = part[mine]


def _sums(values: Floats, row_ptr: Ints) -> Floats:
    """Sums over the edges of each atom."""
    sums = np.zeros((len(row_ptr) - 1, *values.shape[1:]))
    there = np.flatnonzero(np.diff(row_ptr))
    if len(there):
        sums[there] = np.add.reduceat(values, row_ptr[there])
    return sums


def _powers(unit: Floats, d_unit: Floats, power: int) -> tuple[Floats, Floats]:
    """u⊗...⊗u, flattened, and its derivative."""
    n = len(unit)
    if power == 0:
        return np.ones((n, 1)), np.zeros((n, 1, 3))
    if power == 1:
        return unit, d_unit
    tensor = unit[:, :, None] * unit[:, None, :]
    change = unit[:, :, None, None] * d_unit[:, None, :, :] + d_unit[:, :, None, :] * unit[:, None, :, None]
    return tensor.reshape(n, 9), change.reshape(n, 9, 3)


@dataclass(frozen=True)
class Fit:
    """The potential fitted to energies and forces that may be in units of their own."""

    frames: list[Frame]
    designs: list[Design]
    ratio: float  # what energies must be multiplied by to be those of the forces; negative for gradients
    forces_explained: float  # 1 − residual / total sum of squares
    forces_alone: float  # the same by a potential that need not explain energies
    energies_explained: float
    coefficients: Floats
    energy: Floats  # (n_frames,) energies above their composition, as labeled
    predicted: Floats  # (n_frames,) and as predicted, in the units of the forces

    def forces(self, k: int) -> Floats:
        """Predicted forces of a frame in the units of its labels, flat."""
        return np.asarray(self.designs[k].forces @ self.coefficients)

    def known(self, k: int) -> tuple[Floats, Floats]:
        """Labeled and predicted components of the forces of a frame where a label is known, flat."""
        labeled = self.frames[k].forces.reshape(-1)
        there = np.isfinite(labeled)
        return labeled[there], self.forces(k)[there]

    def virial(self, k: int) -> Floats:
        """Predicted dE/dε of a frame in the units of its forces."""
        return np.asarray(self.designs[k].virial @ self.coefficients).reshape(3, 3)


def fit(frames: list[Frame], basis: Basis) -> Fit | None:
    """Fit energies and forces together for every ratio of their units and take the likeliest; None without one.

    The likelihood is that of Gaussian residuals of unknown size, so it has no unit: −½ ln(1 − R²) of the forces
    and of the energies, one as good as the other.
    """
    designs = [basis.design(frame) for frame in frames]
    counts = np.array([(frame.numbers[:, None] == basis.elements).sum(axis=0) for frame in frames], dtype=float)
    residue = np.eye(len(frames)) - counts @ np.linalg.pinv(counts, rcond=1e-8)  # takes the composition out
    y = [frame.forces.reshape(-1) for frame in frames]
    known = [np.isfinite(f) for f in y]  # but for those of atoms that were held
    size = np.array([np.sqrt(np.mean(f[k] ** 2)) for f, k in zip(y, known, strict=True)])
    if not (size > 0).any():
        return None
    weight = 1 / np.hypot(size, np.median(size))  # a few huge forces must not decide
    a = np.concatenate([w * d.forces[k] for w, d, k in zip(weight, designs, known, strict=True)])
    b = np.concatenate([w * f[k] for w, f, k in zip(weight, y, known, strict=True)])
    scale = np.sqrt((a**2).mean(axis=0))
    if not scale.any():
        return None  # no atom has a neighbor
    scale[scale < 1e-6 * scale.max()] = np.inf  # coefficients that no force determines are left out
    a /= scale
    energies = np.array([frame.energy for frame in frames])
    ae, be = residue @ np.array([d.energy for d in designs]) / scale, residue @ energies
    spread = float(np.std(be))
    degrees = len(frames) - np.linalg.matrix_rank(counts)
    if len(b) < 2 * basis.size or degrees < FEWEST or spread < 1e-7 * max(1.0, float(np.abs(energies).max())):
        return None
    ratio, explained, w = _likeliest(a, b, ae, be)
    w = w / scale
    predicted = residue @ np.array([d.energy @ w for d in designs])
    return Fit(frames, designs, ratio, *explained, w, be, predicted)


def _likeliest(a: Floats, b: Floats, ae: Floats, be: Floats) -> tuple[float, tuple[float, float, float], Floats]:
    """The ratio t at which w solves a w = b and ae w = t be best, how well it does, and w.

    Forces alone say roughly what t is; energies weigh so much that neither is overfitted there.
    """
    normal = a.T @ a
    normal[np.diag_indices_from(normal)] += RIDGE * len(b)
    by_forces = np.linalg.solve(normal, a.T @ b)
    alone, forces_alone = ae @ by_forces, 1 - _left(a @ by_forces, b)
    rough = float(np.linalg.norm(alone) / np.linalg.norm(be))
    share = SHARE * float(b @ b) / float(be @ be) / rough**2
    w0, w1 = np.linalg.solve(normal + share * ae.T @ ae, np.stack([a.T @ b, share * ae.T @ be], axis=1)).T
    left = []
    f0, f1, e0, e1 = a @ w0, a @ w1, ae @ w0, ae @ w1
    for t in rough * RATIOS:
        left.append([_left(f0 + t * f1, b), _left(e0 / t + e1, be)])
    best = int(np.argmin(np.log(left).sum(axis=1)))
    t = float(rough * RATIOS[best])
    found = _Ratio(t, left[best][0], left[best][1], np.asarray(w0 + t * w1))
    if len(be) > 2 * len(normal):  # else energies of any units can be explained
        # Strains may decide the energies and small steps of atoms the forces, which then say little of the former.
        usual = [_at(t, normal, a, b, ae, be) for t in USUAL]
        found = min(usual[0], found, key=lambda one: one.misfit)
        clear = min(usual, key=lambda one: one.misfit)
        found = clear if clear.misfit < found.misfit - CLEARLY else found
    return found.t, (1 - found.forces_left, forces_alone, 1 - found.energies_left), found.w


class _Ratio(NamedTuple):
    """A ratio of units, what it leaves unexplained, and the coefficients."""

    t: float
    forces_left: float
    energies_left: float
    w: Floats

    @property
    def misfit(self) -> float:
        """Minus twice the logarithm of the likelihood."""
        return float(np.log(self.forces_left) + np.log(self.energies_left))


def _at(t: float, normal: Floats, a: Floats, b: Floats, ae: Floats, be: Floats) -> _Ratio:
    """The fit at a ratio, where energies of these units weigh as much as forces."""
    share = SHARE * float(b @ b) / float(be @ be) / t**2
    w = np.linalg.solve(normal + share * ae.T @ ae, a.T @ b + share * t * ae.T @ be)
    return _Ratio(t, _left(a @ w, b), _left(ae @ w / t, be), np.asarray(w))


def _left(predicted: Floats, labeled: Floats) -> float:
    """The share of the sum of squares that is not predicted."""
    return max(1e-6, float(((predicted - labeled) ** 2).sum() / (labeled @ labeled)))
