"""Atoms that move freely keep their energy and momentum, and find their way back.

Velocity Verlet does not conserve the energy E itself, which follows the vibrations by order dt², but nearly

    Ẽ = E + dt² (v·K·v / 12 − F·M⁻¹·F / 24),   K·v = −dF/dt,

which follows them by order dt⁴ (R. D. Engle, R. D. Skeel, M. Drees, J. Comput. Phys. 206, 432 (2005)). A drift of
E is one of Ẽ too, where a run that is hundreds of times shorter can tell it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
from ase import Atoms, units
from ase.optimize import FIRE
from numpy.typing import NDArray

from mlpot.certificate.check import Check, Figure, Structures, free, judge, movable, periodic, worst
from mlpot.certificate.subject import Subject
from mlpot.dynamics.log import drift as drift_of

Floats = NDArray[np.float64]
Tell = Callable[[str], object]
TEMPERATURE = 300.0  # K
MOST_LIFTED = 10.0
SURE = 4.0  # standard errors: less of a drift than that cannot be told from none


class Flight(NamedTuple):
    """What was seen along a trajectory at constant energy, and where it ended."""

    time: Floats  # (n,) ps
    energy: Floats  # (n,) eV
    shadow: Floats  # (n,) eV, Ẽ; NaN at the ends
    kinetic: Floats  # (n,) eV
    momentum: Floats  # (n, 3)
    spin: Floats  # (n, 3) angular momentum
    end: Atoms


def drift(subject: Subject, structures: Structures, picoseconds: float = 20.0) -> Check:
    """P17: energy does not drift at constant energy."""
    figures, errors = [], []
    for name, atoms in movable(structures).items():
        first, dt = start(subject, atoms), 2 * step(atoms)
        flight = fly(subject, first, dt, round(1000 * picoseconds / dt))
        figure, error = drift_figure(flight.time[1:-1], flight.shadow[1:-1], len(atoms), name, 1.0)
        over_run = figure.value * len(atoms) * flight.time[-1] / 1e6
        figures += [figure, Figure("drift over the run / σ(E_kin)", name, over_run / flight.kinetic.std(), 0.02)]
        errors.append(error)
    return judge("P17", "energy is conserved", figures, length(picoseconds, errors))


def long_drift(
    subject: Subject, structures: Structures, picoseconds: float = 100.0, tell: Tell = lambda text: None
) -> Check:
    """P18: nor does it in a long run, with the potential as deployed and in float64.

    The step is half that of P17: at 0.5 fs with H, Ẽ too follows an exchange of vibrations by more than the bar.
    """
    figures, errors = [], []
    for name, atoms in typical(structures).items():
        for judged in (subject,) if subject.exact is None else (subject, subject.exact):
            where = f"{name}, float{32 if judged.single else 64}"
            first, dt = start(judged, atoms), step(atoms)
            told = partial(_told, tell, f"P18, {where}")
            flight = fly(judged, first, dt, round(1000 * picoseconds / dt), 10, told)
            bar = 0.03 if judged.single else 0.005
            figure, error = drift_figure(flight.time[1:-1], flight.shadow[1:-1], len(atoms), where, bar)
            figures.append(figure)
            errors.append(error)
    return judge("P18", "energy is conserved for long", figures, length(picoseconds, errors))


def _told(tell: Tell, what: str, text: str) -> None:
    tell(f"{what}: {text}")


def length(picoseconds: float, errors: Iterable[float]) -> str:
    """How long was looked, and the least drift that this can tell from none."""
    return f"{picoseconds:g} ps, which tell {max(errors, default=0.0):.1g} from none"


def scaling(subject: Subject, structures: Structures, n_halvings: int = 1) -> Check:
    """P19: halving the step divides the fluctuation of the energy by four."""
    figures, double = [], subject.double  # the last digits of float32 do not shrink with the step
    for name, atoms in movable(structures).items():
        first, shortest = start(double, atoms), step(atoms)
        spread = []
        for doubling in range(n_halvings + 1):
            n = 400 >> doubling
            energy = fly(double, first, shortest * 2**doubling, n, every=2 ** (n_halvings - doubling)).energy
            spread.append(float(energy.std()))
        for k in range(n_halvings):
            bar = 0.2 if k == 0 else 0.4
            figures.append(Figure("|ratio − 4|", name, abs(spread[k + 1] / spread[k] - 4), bar))
    return judge("P19", "fluctuation ~ dt²", figures)


def reversal(subject: Subject, structures: Structures, n_steps: int = 2000) -> Check:
    """P20: with momenta turned round, atoms go back to where they came from."""
    figures = []
    for name, atoms in movable(structures).items():
        first = start(subject, atoms)
        turned = fly(subject, first, 2 * step(atoms), n_steps).end
        turned.set_momenta(-turned.get_momenta())
        back = fly(subject, turned, 2 * step(atoms), n_steps).end
        bar = 1e-3 if subject.single else 1e-9 if atoms.pbc.all() else 1e-6
        figures.append(Figure("positions, Å", name, worst(back.positions, first.positions), bar))
    return judge("P20", "time reversal", figures, f"{n_steps} steps")


def momenta(subject: Subject, structures: Structures, picoseconds: float = 100.0) -> Check:
    """P21: momentum is conserved, and in vacuum angular momentum too."""
    figures = []
    for name, atoms in typical(structures).items():
        dt = 2 * step(atoms)
        first = start(subject, atoms)
        flight = fly(subject, first, dt, round(1000 * picoseconds / dt), every=10)
        size = float(np.linalg.norm(first.get_momenta(), axis=1).sum())
        bar = 1e-6 if subject.single else 1e-10
        figures.append(Figure("|P| / Σ|p|", name, worst(flight.momentum) / size, bar))
        if not atoms.pbc.any():
            arms = np.linalg.norm(first.positions - first.get_center_of_mass(), axis=1)
            whirl = float((arms * np.linalg.norm(first.get_momenta(), axis=1)).sum())
            figures.append(
                Figure(
                    "|ΔL| / Σ|r||p|",
                    name,
                    worst(flight.spin, flight.spin[0]) / whirl,
                    1e4 * bar if subject.single else 1e-8,
                )
            )
    return judge("P21", "momentum is conserved", figures, f"{picoseconds:g} ps")


def fly(
    subject: Subject, first: Atoms, dt: float, n_steps: int, every: int = 1, tell: Tell = lambda text: None
) -> Flight:
    """Velocity Verlet of `n_steps` of dt (fs) from positions and momenta.

    L. Verlet, Phys. Rev. 159, 98 (1967); W. C. Swope et al., J. Chem. Phys. 76, 637 (1982).
    """
    atoms, h = first.copy(), dt * units.fs
    atoms.calc = subject.calculator
    m, p, f = atoms.get_masses()[:, None], atoms.get_momenta(), atoms.get_forces()
    before, seen, shadow = np.full_like(f, np.nan), [], []
    for k in range(n_steps + 1):
        v, now = p / m, f
        if k % every == 0:
            kinetic = float((m * v**2).sum() / 2)
            spin = np.cross(atoms.positions, p).sum(axis=0)
            seen.append((k * dt / 1000, atoms.get_potential_energy() + kinetic, kinetic, p.sum(axis=0), spin))
        if k < n_steps:
            p = p + h / 2 * f
            atoms.positions += h * p / m
            f = atoms.get_forces()
            p = p + h / 2 * f
        else:
            f = np.full_like(f, np.nan)
        if k % every == 0:
            shadow.append(-h / 24 * (v * (f - before)).sum() - h**2 / 24 * (now**2 / m).sum())
        before = now
        if 10 * (k + 1) // n_steps > 10 * k // n_steps:
            tell(f"{k * dt / 1000:.0f} of {n_steps * dt / 1000:.0f} ps")
    atoms.set_momenta(p)
    atoms.calc = None
    time, energy, kinetics, momentum, spins = (np.array(column) for column in zip(*seen, strict=True))
    return Flight(time, energy, energy + np.array(shadow), kinetics, momentum, spins, atoms)


def drift_figure(time: Floats, energy: Floats, n_atoms: int, where: str, bar: float) -> tuple[Figure, float]:
    """Of an energy (eV) over ps, and what can be told from none; a lower bar is lifted to it, within reason."""
    found = drift_of(time, energy, n_atoms)
    slope, error = (np.nan, np.nan) if found is None else (abs(found.slope), SURE * found.slope_error)
    return Figure("drift, meV/atom/ns", where, slope, min(max(bar, error), MOST_LIFTED * bar)), error


def typical(structures: Structures) -> Structures:
    """For what takes long: of molecules and of crystals the smallest from which atoms may move."""
    kinds = [kind(movable(structures)) for kind in (free, periodic)]
    return dict(min(k.items(), key=lambda item: len(item[1])) for k in kinds if k)


def step(atoms: Atoms) -> float:
    """fs: a quarter for hydrogen, more for what is heavier."""
    return 0.25 * min(4.0, float(np.sqrt(atoms.get_masses().min())))


def start(subject: Subject, atoms: Atoms) -> Atoms:
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
