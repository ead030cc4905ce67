"""Atoms that move freely keep their energy and momentum, and find their way back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase import Atoms, units
from ase.optimize import FIRE
from numpy.typing import NDArray

from mlpot.certificate.check import Check, Figure, Structures, judge, movable, worst
from mlpot.certificate.subject import Subject

Floats = NDArray[np.float64]
TEMPERATURE = 300.0  # K
EXCHANGE = 1.0  # ps


class Flight(NamedTuple):
    """What was seen along a trajectory at constant energy, and where it ended."""

    time: Floats  # (n,) ps
    energy: Floats  # (n,) eV
    kinetic: Floats  # (n,) eV
    momentum: Floats  # (n, 3)
    spin: Floats  # (n, 3) angular momentum
    end: Atoms


def drift(subject: Subject, structures: Structures, picoseconds: float = 20.0) -> Check:
    """P17: energy does not drift at constant energy."""
    figures = []
    for name, atoms in movable(structures).items():
        start, dt = _start(subject, atoms), 2 * _step(atoms)
        flight = fly(subject, start, dt, round(1000 * picoseconds / dt))
        slope, error = _slope(flight.time, flight.energy)
        sure = float(np.maximum(abs(slope) - error, 0.0))  # what is surely there; NaN stays
        figures.append(Figure("drift, meV/atom/ns", name, 1e6 * sure / len(atoms), 1.0))
        figures.append(
            Figure("drift over the run / σ(E_kin)", name, sure * flight.time[-1] / flight.kinetic.std(), 0.02)
        )
    return judge("P17", "energy is conserved", figures, f"{picoseconds:g} ps, less the error of the slope")


def scaling(subject: Subject, structures: Structures, n_halvings: int = 1) -> Check:
    """P19: halving the step divides the fluctuation of the energy by four."""
    figures, double = [], subject.double  # the last digits of float32 do not shrink with the step
    for name, atoms in movable(structures).items():
        start, shortest = _start(double, atoms), _step(atoms)
        spread = []
        for doubling in range(n_halvings + 1):
            n = 400 >> doubling
            energy = fly(double, start, shortest * 2**doubling, n, every=2 ** (n_halvings - doubling)).energy
            spread.append(float(energy.std()))
        for k in range(n_halvings):
            bar = 0.2 if k == 0 else 0.4
            figures.append(Figure("|ratio − 4|", name, abs(spread[k + 1] / spread[k] - 4), bar))
    return judge("P19", "fluctuation ~ dt²", figures)


def reversal(subject: Subject, structures: Structures, n_steps: int = 2000) -> Check:
    """P20: with momenta turned round, atoms go back to where they came from."""
    figures = []
    for name, atoms in movable(structures).items():
        start = _start(subject, atoms)
        turned = fly(subject, start, 2 * _step(atoms), n_steps).end
        turned.set_momenta(-turned.get_momenta())
        back = fly(subject, turned, 2 * _step(atoms), n_steps).end
        bar = 1e-3 if subject.single else 1e-9 if atoms.pbc.all() else 1e-6
        figures.append(Figure("positions, Å", name, worst(back.positions, start.positions), bar))
    return judge("P20", "time reversal", figures, f"{n_steps} steps")


def momenta(subject: Subject, structures: Structures, picoseconds: float = 100.0) -> Check:
    """P21: momentum is conserved, and in vacuum angular momentum too."""
    figures = []
    for name, atoms in movable(structures).items():
        dt = 2 * _step(atoms)
        start = _start(subject, atoms)
        flight = fly(subject, start, dt, round(1000 * picoseconds / dt), every=10)
        size = float(np.linalg.norm(start.get_momenta(), axis=1).sum())
        bar = 1e-6 if subject.single else 1e-10
        figures.append(Figure("|P| / Σ|p|", name, worst(flight.momentum) / size, bar))
        if not atoms.pbc.any():
            arms = np.linalg.norm(start.positions - start.get_center_of_mass(), axis=1)
            whirl = float((arms * np.linalg.norm(start.get_momenta(), axis=1)).sum())
            figures.append(
                Figure(
                    "|ΔL| / Σ|r||p|",
                    name,
                    worst(flight.spin, flight.spin[0]) / whirl,
                    1e4 * bar if subject.single else 1e-8,
                )
            )
    return judge("P21", "momentum is conserved", figures, f"{picoseconds:g} ps")


def fly(subject: Subject, start: Atoms, dt: float, n_steps: int, every: int = 1) -> Flight:
    """Velocity Verlet of `n_steps` of dt (fs) from positions and momenta.

    L. Verlet, Phys. Rev. 159, 98 (1967); W. C. Swope et al., J. Chem. Phys. 76, 637 (1982).
    """
    atoms, h = start.copy(), dt * units.fs
    atoms.calc = subject.calculator
    m, p, f = atoms.get_masses()[:, None], atoms.get_momenta(), atoms.get_forces()
    seen = []
    for k in range(n_steps + 1):
        if k % every == 0:
            kinetic = float((p**2 / (2 * m)).sum())
            spin = np.cross(atoms.positions, p).sum(axis=0)
            seen.append((k * dt / 1000, atoms.get_potential_energy() + kinetic, kinetic, p.sum(axis=0), spin))
        if k < n_steps:
            p = p + h / 2 * f
            atoms.positions += h * p / m
            f = atoms.get_forces()
            p = p + h / 2 * f
    atoms.set_momenta(p)
    atoms.calc = None
    time, energy, kinetics, momentum, spins = (np.array(column) for column in zip(*seen, strict=True))
    return Flight(time, energy, kinetics, momentum, spins, atoms)


def _step(atoms: Atoms) -> float:
    """fs: a quarter for hydrogen, more for what is heavier."""
    return 0.25 * min(4.0, float(np.sqrt(atoms.get_masses().min())))


def _start(subject: Subject, atoms: Atoms) -> Atoms:
    """The structure near rest, with velocities of the temperature and no momentum in sum."""
    atoms = atoms.copy()
    atoms.set_constraint()
    atoms.calc = subject.calculator
    FIRE(atoms, logfile=None).run(fmax=0.1, steps=100)
    atoms.calc = None
    m = atoms.get_masses()[:, None]
    p = np.random.default_rng(7).normal(size=(len(atoms), 3)) * np.sqrt(m * units.kB * TEMPERATURE)
    atoms.set_momenta(p - m * p.sum(axis=0) / m.sum())
    return atoms


def _slope(time: Floats, values: Floats, n_blocks: int = 10) -> tuple[float, float]:
    """Of a straight line, per ps, and its error: four standard errors of blocks, or that of an exchange of energy.

    The finite step makes the energy follow the state of the vibrations. They exchange what they have within some
    picoseconds, and a run of T ps cannot tell that from a drift: σ(E) × EXCHANGE / T².
    """
    n = len(time) // n_blocks * n_blocks
    t, v = (x[:n].reshape(n_blocks, -1).mean(axis=1) for x in (time, values))
    lever = t - t.mean()
    slope = float((lever * v).sum() / (lever**2).sum())
    rest = v - v.mean() - slope * lever
    standard = float(np.sqrt((rest**2).sum() / (n_blocks - 2) / (lever**2).sum()))
    spread = float((values - slope * time).std())
    return slope, max(4 * standard, spread * EXCHANGE / time[-1] ** 2)
