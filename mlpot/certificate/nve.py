"""Dynamics at constant energy: energy and momentum are conserved, and time reversal leads back to the start.

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

from mlpot.certificate.bars import (
    ANGULAR_MOMENTUM,
    DRIFT,
    DRIFT_OF_KINETIC,
    HALVINGS,
    LONG_DRIFT,
    MOMENTUM,
    REVERSAL,
    REVERSAL_IN_CELL,
    REVERSAL_SINGLE,
)
from mlpot.certificate.check import Check, Measurement, Structures, free, movable, periodic, verdict, worst
from mlpot.certificate.tested import CalculatorUnderTest
from mlpot.dynamics.log import drift as drift_of

Floats = NDArray[np.float64]
Tell = Callable[[str], object]
TEMPERATURE = 300.0  # K
MOST_LIFTED = 10.0
SURE = 4.0  # standard errors: a smaller drift cannot be distinguished from zero


class NVERun(NamedTuple):
    """What was recorded along a trajectory at constant energy, and its last structure."""

    time: Floats  # (n,) ps
    energy: Floats  # (n,) eV
    shadow: Floats  # (n,) eV, Ẽ; NaN at the ends
    kinetic: Floats  # (n,) eV
    momentum: Floats  # (n, 3)
    angular_momentum: Floats  # (n, 3), about the origin
    end: Atoms


def drift(tested: CalculatorUnderTest, structures: Structures, picoseconds: float = 20.0) -> Check:
    """P17: energy does not drift at constant energy."""
    figures, errors = [], []
    for name, atoms in movable(structures).items():
        first, dt = start(tested, atoms), 2 * step(atoms)
        run = run_nve(tested, first, dt, round(1000 * picoseconds / dt))
        figure, error = drift_measurement(run.time[1:-1], run.shadow[1:-1], len(atoms), name, DRIFT)
        over_run = figure.value * len(atoms) * run.time[-1] / 1e6
        figures += [
            figure,
            Measurement("drift over the run / σ(E_kin)", name, over_run / run.kinetic.std(), DRIFT_OF_KINETIC),
        ]
        errors.append(error)
    return verdict("P17", "energy is conserved", figures, length(picoseconds, errors))


def long_drift(
    tested: CalculatorUnderTest, structures: Structures, picoseconds: float = 100.0, tell: Tell = lambda text: None
) -> Check:
    """P18: energy does not drift in a long run, with the potential as deployed and in float64.

    The step is half that of P17: at 0.5 fs with H, Ẽ too follows an exchange of vibrations by more than the bar.
    """
    figures, errors = [], []
    for name, atoms in typical(structures).items():
        for judged in (tested,) if tested.exact is None else (tested, tested.exact):
            where = f"{name}, float{32 if judged.single else 64}"
            first, dt = start(judged, atoms), step(atoms)
            told = partial(_told, tell, f"P18, {where}")
            run = run_nve(judged, first, dt, round(1000 * picoseconds / dt), 10, told)
            bar = LONG_DRIFT[judged.single]
            figure, error = drift_measurement(run.time[1:-1], run.shadow[1:-1], len(atoms), where, bar)
            figures.append(figure)
            errors.append(error)
    return verdict("P18", "energy is conserved for long", figures, length(picoseconds, errors))


def _told(tell: Tell, what: str, text: str) -> None:
    tell(f"{what}: {text}")


def length(picoseconds: float, errors: Iterable[float]) -> str:
    """The length of the runs, and the smallest drift that they can distinguish from zero."""
    return f"{picoseconds:g} ps; a drift below {max(errors, default=0.0):.1g} cannot be distinguished from zero"


def scaling(tested: CalculatorUnderTest, structures: Structures, n_halvings: int = 1) -> Check:
    """P19: halving the step divides the fluctuation of the energy by four."""
    figures, double = [], tested.double  # the last digits of float32 do not shrink with the step
    for name, atoms in movable(structures).items():
        first, shortest = start(double, atoms), step(atoms)
        spread = []
        for doubling in range(n_halvings + 1):
            n = 400 >> doubling
            energy = run_nve(double, first, shortest * 2**doubling, n, every=2 ** (n_halvings - doubling)).energy
            spread.append(float(energy.std()))
        for k in range(n_halvings):
            bar = HALVINGS[min(k, 1)]
            figures.append(Measurement("|ratio − 4|", name, abs(spread[k + 1] / spread[k] - 4), bar))
    return verdict("P19", "fluctuation ~ dt²", figures)


def reversal(tested: CalculatorUnderTest, structures: Structures, n_steps: int = 2000) -> Check:
    """P20: with reversed momenta, atoms return to their initial positions."""
    figures = []
    for name, atoms in movable(structures).items():
        first = start(tested, atoms)
        reversed_ = run_nve(tested, first, 2 * step(atoms), n_steps).end
        reversed_.set_momenta(-reversed_.get_momenta())
        back = run_nve(tested, reversed_, 2 * step(atoms), n_steps).end
        bar = REVERSAL_SINGLE if tested.single else REVERSAL_IN_CELL if atoms.pbc.all() else REVERSAL
        figures.append(Measurement("positions, Å", name, worst(back.positions, first.positions), bar))
    return verdict("P20", "time reversal", figures, f"{n_steps} steps")


def momenta(tested: CalculatorUnderTest, structures: Structures, picoseconds: float = 100.0) -> Check:
    """P21: momentum is conserved, and in vacuum angular momentum."""
    figures = []
    for name, atoms in typical(structures).items():
        dt = 2 * step(atoms)
        first = start(tested, atoms)
        run = run_nve(tested, first, dt, round(1000 * picoseconds / dt), every=10)
        size = float(np.linalg.norm(first.get_momenta(), axis=1).sum())
        figures.append(Measurement("|P| / Σ|p|", name, worst(run.momentum) / size, MOMENTUM[tested.single]))
        if not atoms.pbc.any():
            arms = np.linalg.norm(first.positions - first.get_center_of_mass(), axis=1)
            scale = float((arms * np.linalg.norm(first.get_momenta(), axis=1)).sum())
            figures.append(
                Measurement(
                    "|ΔL| / Σ|r||p|",
                    name,
                    worst(run.angular_momentum, run.angular_momentum[0]) / scale,
                    ANGULAR_MOMENTUM[tested.single],
                )
            )
    return verdict("P21", "momentum is conserved", figures, f"{picoseconds:g} ps")


def run_nve(
    tested: CalculatorUnderTest,
    first: Atoms,
    dt: float,
    n_steps: int,
    every: int = 1,
    tell: Tell = lambda text: None,
) -> NVERun:
    """Velocity Verlet of `n_steps` of dt (fs) from positions and momenta.

    L. Verlet, Phys. Rev. 159, 98 (1967); W. C. Swope et al., J. Chem. Phys. 76, 637 (1982).
    """
    atoms, h = first.copy(), dt * units.fs
    atoms.calc = tested.calculator
    m, p, f = atoms.get_masses()[:, None], atoms.get_momenta(), atoms.get_forces()
    before, rows, shadow = np.full_like(f, np.nan), [], []
    for k in range(n_steps + 1):
        v, now = p / m, f
        if k % every == 0:
            kinetic = float((m * v**2).sum() / 2)
            angular_momentum = np.cross(atoms.positions, p).sum(axis=0)
            rows.append(
                (k * dt / 1000, atoms.get_potential_energy() + kinetic, kinetic, p.sum(axis=0), angular_momentum)
            )
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
    time, energy, kinetics, momentum, angular_momenta = (np.array(column) for column in zip(*rows, strict=True))
    return NVERun(time, energy, energy + np.array(shadow), kinetics, momentum, angular_momenta, atoms)


def drift_measurement(
    time: Floats, energy: Floats, n_atoms: int, where: str, bar: float
) -> tuple[Measurement, float]:
    """Drift of an energy (eV) over time (ps), and its resolution, to which the bar is raised, at most tenfold."""
    found = drift_of(time, energy, n_atoms)
    slope, error = (np.nan, np.nan) if found is None else (abs(found.slope), SURE * found.slope_error)
    return Measurement("drift, meV/atom/ns", where, slope, min(max(bar, error), MOST_LIFTED * bar)), error


def typical(structures: Structures) -> Structures:
    """The smallest movable molecule and the smallest movable crystal, for checks that take long."""
    kinds = [kind(movable(structures)) for kind in (free, periodic)]
    return dict(min(k.items(), key=lambda item: len(item[1])) for k in kinds if k)


def step(atoms: Atoms) -> float:
    """A time step in fs: 0.25 with hydrogen, longer with heavier atoms."""
    return 0.25 * min(4.0, float(np.sqrt(atoms.get_masses().min())))


def start(tested: CalculatorUnderTest, atoms: Atoms) -> Atoms:
    """The relaxed structure with thermal velocities and without total momentum."""
    atoms = atoms.copy()
    atoms.set_constraint()
    atoms.calc = tested.calculator
    FIRE(atoms, logfile=None).run(fmax=0.1, steps=100)
    atoms.calc = None
    m = atoms.get_masses()[:, None]
    p = np.random.default_rng(7).normal(size=(len(atoms), 3)) * np.sqrt(m * units.kB * TEMPERATURE)
    atoms.set_momenta(p - m * p.sum(axis=0) / m.sum())
    return atoms
