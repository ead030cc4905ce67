"""Which units and signs explain the labels: hypotheses are weighed, and the likeliest is named or nothing is said.

Evidence, none of which knows the level of theory:

- nearest atoms stand about a sum of covalent radii apart: the unit of length;
- forces are the slope of the energy, along trajectories and in a linear potential: the ratio of their units;
- bonds are as stiff as H. B. Schlegel's rule says (Theor. Chim. Acta 66, 333 (1984)): the unit and sign of forces;
- all electrons of an atom have about the Thomas-Fermi-Scott-Schwinger energy: the unit of total energies;
- atoms bind by a few eV each: the unit of energies, where there are isolated atoms;
- stress is the strain derivative of that linear potential: its unit, sign and order of components.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from ase.data import covalent_radii

from mlpot.data.check.geometry import NOBLE
from mlpot.data.check.linear import Basis, Fit, Floats
from mlpot.data.frame import Frame
from mlpot.data.stress_labels import along_periodic
from mlpot.graph import edge_vectors
from mlpot.neighbors import build_graph
from mlpot.units import BOHR, ENERGY, HARTREE, LENGTH, PRESSURE

COST = {"energy": 3.0, "forces": 3.0, "sign of forces": 3.0, "sign of energy": 4.0, "rare": 1.0}
"""How much more likely a fault must make the data before it is believed: −ln of its prior."""
COMMON = ("eV", "hartree", "kcal/mol")
PER_ATOM = "eV an atom"
STIFFNESS_ERROR, BINDING_ERROR, TOTAL_ERROR = 0.6, 0.7, 0.05  # of logarithms
BINDING = 4.0  # eV an atom
N_STIFF = 8  # frames whose stiffness is looked at
USELESS = 0.5  # a fit that explains less says nothing of units
SURE, PROBABLE = 0.9, 0.6
VOIGT = ((1, 2), (0, 2), (0, 1))  # yz, xz, xy


@dataclass(frozen=True)
class Evidence:
    """What was measured on the numbers as they stand in the file; NaN where nothing could be."""

    ratio: float  # forces per slope of the energy
    ratio_error: float  # of its logarithm
    stiffness: float  # mean curvature in units of the forces per Å, over the one expected of the bonds
    total: float  # energies over those of all electrons, eV
    binding: float  # energy an atom below isolated atoms
    n_atoms: float  # of a frame, where all have the same number


@dataclass(frozen=True)
class Hypothesis:
    """Units and signs of energies and forces."""

    energy: str = "eV"
    forces: str = "eV/angstrom"
    energy_sign: int = 1
    forces_sign: int = 1

    @property
    def cost(self) -> float:
        """−ln of the prior; quantities that are wrong in the same way count once and a half."""
        wrong = (self.energy != "eV") * COST["energy"], (self.forces != "eV/angstrom") * COST["forces"]
        unit, length = self.forces.rsplit("/", 1)
        same = unit == self.energy and (length == "bohr") == (unit in ("hartree", "rydberg"))
        mixed = self.forces != "eV/angstrom" and (length == "bohr") != (unit in ("hartree", "rydberg"))
        rare = sum(name not in COMMON for name in {self.energy, unit}) + mixed
        signs = (self.forces_sign < 0) * COST["sign of forces"] + (self.energy_sign < 0) * COST["sign of energy"]
        return (max(wrong) * 1.5 if same else sum(wrong)) + rare * COST["rare"] + signs

    def fixes(self) -> list[str]:
        """What is to be told to `mlpot data convert`."""
        energy = "-" * (self.energy_sign < 0) + self.energy
        forces = "-" * (self.forces_sign < 0) + self.forces
        energy = "eV*n_atoms" if self.energy == PER_ATOM else energy
        return [f"energy={energy}"] * (energy != "eV") + [f"forces={forces}"] * (forces != "eV/angstrom")


@dataclass(frozen=True)
class Verdict:
    """The likeliest hypothesis and how sure it is."""

    best: Hypothesis
    confidence: float
    misfit: float  # −ln of the likelihood that is left
    second: Hypothesis


def hypotheses(n_atoms: float) -> Iterator[Hypothesis]:
    """All that are weighed."""
    energies = [*ENERGY, *([PER_ATOM] if n_atoms > 1 else [])]
    for energy in energies:
        for forces in (f"{e}/{x}" for e in ENERGY for x in ("angstrom", "bohr")):
            for sign in (1, -1):
                yield Hypothesis(energy, forces, forces_sign=sign)
                yield Hypothesis(energy, forces, -1, sign)


def weigh(evidence: Evidence) -> Verdict:
    """The verdict on energies and forces."""
    known = list(hypotheses(evidence.n_atoms))
    misfits = np.array([_misfit(h, evidence) for h in known])
    scores = misfits + [h.cost for h in known]
    order = np.argsort(scores)
    posterior = np.exp(scores[order[0]] - scores)
    best = order[0]
    return Verdict(known[best], float(1 / posterior.sum()), float(misfits[best]), known[order[1]])


def _misfit(h: Hypothesis, evidence: Evidence) -> float:
    energy = h.energy_sign * (evidence.n_atoms if h.energy == PER_ATOM else ENERGY[h.energy])
    unit, length = h.forces.rsplit("/", 1)
    forces = h.forces_sign * ENERGY[unit] / LENGTH[length]
    total = _off(evidence.total * energy, TOTAL_ERROR)
    return (
        _off(evidence.ratio * forces / energy, evidence.ratio_error)
        + min(_off(evidence.stiffness * forces, STIFFNESS_ERROR), 20.0)
        + min(_off(evidence.binding * energy / BINDING, BINDING_ERROR), 4.0)
        - max(0.0, 6.0 - total)
    )


def _off(ratio: float, error: float) -> float:
    """−ln of the likelihood of a ratio that should be one; nothing where it is not known."""
    if np.isnan(ratio):
        return 0.0
    return 50.0 if ratio <= 0 else min(50.0, 0.5 * float(np.log(ratio) / error) ** 2)


def measure(fit: Fit | None, frames: list[Frame], basis: Basis, isolated: Mapping[int, float]) -> Evidence:
    """The evidence of a sample of frames and their linear fit."""
    energies = np.array([f.energy for f in frames])
    sizes = np.array([len(f.numbers) for f in frames])
    electrons = np.array([all_electrons(f.numbers) for f in frames])
    total = float(np.median(energies / electrons)) if np.isfinite(energies).all() else np.nan
    binding = np.nan
    if all(int(z) in isolated for z in basis.elements) and np.isfinite(energies).all():
        atoms = np.array([sum(isolated[int(z)] for z in f.numbers) for f in frames])
        binding = -float(np.median((energies - atoms) / sizes))
    n_atoms = float(sizes[0]) if np.ptp(sizes) == 0 else np.nan
    if fit is None or min(fit.forces_explained, fit.energies_explained) < USELESS:
        return Evidence(np.nan, np.nan, np.nan, total, binding, n_atoms)
    error = 0.08 + 2 * (1 - fit.forces_explained) + 2 * (1 - fit.energies_explained)
    return Evidence(fit.ratio, error, stiffness(fit, basis), total, binding, n_atoms)


def all_electrons(numbers: np.ndarray) -> float:
    """About the total energy of neutral atoms, eV.

    J. Schwinger, Phys. Rev. A 22, 1827 (1980): a few per cent off for light elements.
    """
    z = numbers.astype(float)
    return float((-0.7687 * z ** (7 / 3) + 0.5 * z**2 - 0.2699 * z ** (5 / 3)).sum() * HARTREE)


def stiffness(fit: Fit, basis: Basis) -> float:
    """Mean curvature of the fit over that of the bonds, averaged over some frames; NaN without bonds."""
    rng, step, ratios = np.random.default_rng(0), 0.01, []
    every = max(1, len(fit.frames) // N_STIFF)
    for frame in fit.frames[::every]:
        expected = _bonds(frame)
        if expected > 0:
            shift = step * rng.choice([-1.0, 1.0], size=frame.positions.shape)
            ends = [replace(frame, positions=frame.positions + s * shift) for s in (1, -1)]
            up, down = (basis.design(f).forces @ fit.coefficients for f in ends)
            ratios.append(float((down - up) @ shift.ravel()) / (2 * step**2) / expected)
    return float(np.median(ratios)) if ratios else np.nan


def _bonds(frame: Frame) -> float:
    """Trace of the Hessian that bonds alone would give, eV/Å²; less for each where atoms have many neighbors."""
    if NOBLE[frame.numbers].any():
        return 0.0
    graph = build_graph(frame.numbers, frame.positions, frame.cell, frame.pbc, 6.0)
    center, neighbor = graph.edges.center.numpy(), graph.edges.neighbor.numpy()
    r = np.linalg.norm(edge_vectors(graph).numpy(), axis=1)
    zi, zj = frame.numbers[center], frame.numbers[neighbor]
    length = covalent_radii[zi] + covalent_radii[zj]
    bonded = r < 1.25 * length
    coordination = np.bincount(center[bonded], minlength=len(frame.numbers))
    crowded = np.minimum(1.0, 4 / np.maximum(1, np.maximum(coordination[center], coordination[neighbor])))
    row_i, row_j = np.digitize(zi, [3, 11]), np.digitize(zj, [3, 11])
    b = np.array([[-0.244, 0.352, 0.660], [0.352, 1.085, 1.522], [0.660, 1.522, 2.068]])[row_i, row_j]
    constant = 1.734 / (length / BOHR - b) ** 3 * HARTREE / BOHR**2  # eV/Å²
    return float((constant * crowded)[bonded].sum())  # each bond twice: once for either end


@dataclass(frozen=True)
class StressVerdict:
    """What explains the stress labels."""

    unit: str
    sign: int
    order: tuple[int, int, int]  # places in the file of yz, xz, xy
    agreement: float  # correlation with the linear potential, under this order
    slope: float  # file over prediction


def weigh_stress(fit: Fit, forces_unit: float) -> StressVerdict | None:
    """The unit, sign and order of stress labels; None where frames have none, or the fit does not foresee them.

    Args:
        fit: to frames in house units of length.
        forces_unit: eV/Å of one unit of the fit's forces.
    """
    which = [k for k, f in enumerate(fit.frames) if np.isfinite(f.stress).all()]
    if len(which) < 5:
        return None
    volumes = np.array([abs(np.linalg.det(fit.frames[k].cell)) for k in which])
    labels = np.array([fit.frames[k].stress for k in which])
    along = (along_periodic(fit.virial(k), fit.frames[k].pbc, fit.frames[k].cell) for k in which)
    expected = np.array(list(along)) * forces_unit
    expected /= volumes[:, None, None]
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]  # ASE's first
    shears = [abs(_cosine(_shears(labels, order), _shears(expected))) for order in orders]
    best = int(np.argmax(shears))
    if shears[best] < max(0.6, shears[0] + 0.2):
        best = 0  # what does not clearly do better is not believed
    file, ours = _parts(labels, orders[best]), _parts(expected)
    part = max(range(len(file)), key=lambda k: abs(_cosine(file[k], ours[k])))
    agreement = _cosine(file[part], ours[part])
    if abs(agreement) < 0.7:
        return None
    slope = float(np.sign(agreement) * np.linalg.norm(file[part]) / np.linalg.norm(ours[part]))
    named = {unit: 1 / value for unit, value in PRESSURE.items()} | {"eV": float(np.median(volumes))}
    unit = min(named, key=lambda u: abs(np.log(abs(slope) / named[u])) + 0.2 * (u == "eV"))
    if abs(np.log(abs(slope) / named[unit])) > 0.6:
        return None
    return StressVerdict(unit, int(np.sign(slope)), orders[best], abs(agreement), slope)


def _parts(stress: Floats, order: tuple[int, ...] = (0, 1, 2)) -> list[Floats]:
    """Everything in one row; without the pressure, which fits foresee least well; shears alone."""
    diagonal = stress[:, [0, 1, 2], [0, 1, 2]]
    pressure = diagonal.mean(axis=1)
    shears, stretches = _shears(stress, order), (diagonal - pressure[:, None]).ravel()
    most = np.concatenate([stretches, shears])
    return [np.concatenate([pressure - pressure.mean(), most]), most, shears]


def _shears(stress: Floats, order: tuple[int, ...] = (0, 1, 2)) -> Floats:
    return np.stack([stress[:, i, j] for i, j in (VOIGT[k] for k in order)], axis=1).ravel()


def _cosine(a: Floats, b: Floats) -> float:
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0 else 0.0
