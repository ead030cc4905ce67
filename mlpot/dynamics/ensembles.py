"""ASE's integrators, each with the number of degrees of freedom of the run.

ASE counts 3N, less what is fixed. Velocity Verlet and the deterministic thermostats keep the total momentum, which
starts at zero, and a molecule's angular momentum too: 3N − 3 or 3N − 6 momenta are left, and with 3N a molecule of
nine atoms would run 29 % too hot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms, units
from ase.md.bussi import Bussi
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT, NoseHooverChainNVT, NoseHooverChainThermostat
from ase.md.verlet import VelocityVerlet
from numpy.typing import NDArray

from mlpot.data.constraints import held_coordinates
from mlpot.dynamics.recipe import NPT, MDRecipe
from mlpot.dynamics.start import (
    StartError,
    bring_to_rest,
    degrees_of_freedom,
    motion_of_whole,
    take_out_drift,
    widest_gap,
)
from mlpot.units import GPA

STEPS_IN_A_PERIOD = {"thermostat_fs": 5.0, "barostat_fs": 20.0}
"""Fewer are not integrated: with half as many the conserved energy of a chain or barostat jumps or overflows."""
DETERMINISTIC = ("nose-hoover", *NPT)
VACUUM = 6.0  # Å; between layers of a crystal are 4 at most
SHARED_HEAT = 0.01
"""Of the temperature asked for, by which a motion of the whole may leave the inner one off without a word."""


class _Constrained:
    """Applies the constraints to the momenta that the integrator holds beside the atoms, after each half step.

    ASE's forces in dynamics are those of the free atoms: without this, the momenta of fixed atoms grow, and the
    thermostat, which counts them, cools the other atoms.
    """

    atoms: Atoms
    _p: NDArray[np.float64]

    def _integrate_p(self, delta: float) -> None:
        super()._integrate_p(delta)  # type: ignore[misc]  # of the integrator that stands behind
        for constraint in self.atoms.constraints:
            constraint.adjust_momenta(self.atoms, self._p)


class ChainThermostat(NoseHooverChainThermostat):
    """ASE's chain of thermostats, of one structure or of each of many whose atoms stand one after another.

    Every number is found by the same operations in both, so that a replica in a batch is what it is alone.

    Args:
        n_degrees: degrees of freedom; (n_replicas,) of many.
        masses: (n_atoms, 1) u.
        temperature_K: of the bath.
        tdamp: period in ASE's units of time.
        sizes: atoms of each replica.
    """

    def __init__(
        self,
        n_degrees: float | NDArray[np.float64],
        masses: NDArray[np.float64],
        temperature_K: float,
        tdamp: float,
        sizes: NDArray[np.integer],
    ):
        super().__init__(num_atoms_global=1, masses=masses, temperature_K=temperature_K, tdamp=tdamp)
        self._num_atoms_global = n_degrees / 3  # stands for the degrees of freedom wherever ASE uses it
        shape = (self._tchain, *np.shape(n_degrees))
        self._eta, self._p_eta, self._Q = np.zeros(shape), np.zeros(shape), np.empty(shape)
        self._Q[:] = self._kT * tdamp**2
        self._Q[0] *= n_degrees
        self._sizes, self._starts = sizes, 3 * (np.cumsum(sizes) - sizes)

    def _integrate_p_eta_j(self, p: NDArray[np.float64], j: int, delta2: float, delta4: float) -> None:
        p_eta, inertia = self._p_eta, self._Q
        is_last = j == self._tchain - 1
        drag = 1.0 if is_last else np.exp(-delta4 * p_eta[j + 1] / inertia[j + 1])
        if j == 0:
            twice = np.add.reduceat((np.square(p) / self._masses).ravel(), self._starts)
            force = twice.reshape(np.shape(self._num_atoms_global)) - 3 * self._num_atoms_global * self._kT
        else:
            force = np.square(p_eta[j - 1]) / inertia[j - 1] - self._kT
        p_eta[j] = (p_eta[j] * drag + delta2 * force) * drag

    def _integrate_nhc_p(self, p: NDArray[np.float64], delta: float) -> None:
        p *= np.repeat(np.exp(-delta * self._p_eta[0] / self._Q[0]), self._sizes)[:, None]


class ConstrainedChain(_Constrained, NoseHooverChainNVT):
    """ASE's chain of thermostats, with constraints."""


class _InHalves(_Constrained):
    """A step of ASE's barostats in two parts, between which the forces of many replicas are computed together."""

    dt: float
    _integrate_p_cell_by_barostat: Callable[[float], None]
    _integrate_p_cell: Callable[[float], None]
    _integrate_q: Callable[[float], None]
    _integrate_q_cell: Callable[[float], None]
    _update_atoms: Callable[[], None]
    _thermostat: NoseHooverChainThermostat

    def step(self) -> None:
        """A whole one."""
        self.to_new_positions()
        self.to_new_momenta()

    def to_new_positions(self) -> None:
        """Half a step of momenta, and all of it of positions and cell, by the forces before it."""
        half = self.dt / 2
        self._integrate_p_cell_by_barostat(half)
        self._p = self._thermostat.integrate_nhc(self._p, half)
        self._integrate_p_cell(half)
        self._integrate_p(half)
        self._integrate_q(self.dt)
        self._integrate_q_cell(self.dt)
        self._update_atoms()

    def to_new_momenta(self) -> None:
        """The other half of momenta, by the forces at its end."""
        half = self.dt / 2
        self._integrate_p(half)
        self._integrate_p_cell(half)
        self._p = self._thermostat.integrate_nhc(self._p, half)
        self._integrate_p_cell_by_barostat(half)
        self._update_atoms()


class ConstrainedIsotropic(_InHalves, IsotropicMTKNPT):
    """ASE's barostat that keeps the shape of the cell, with the center of mass held or not."""

    _p_eps: float

    def _integrate_p_cell_by_barostat(self, delta: float) -> None:
        self._p_eps = self._barostat.integrate_nhc_baro(self._p_eps, delta)


class ConstrainedMTK(_InHalves, MTKNPT):
    """ASE's barostat of the whole cell, with the center of mass held or not."""


@dataclass(frozen=True)
class Ensemble:
    """An integrator, its number of degrees of freedom and its conserved quantity."""

    name: str
    dynamics: MolecularDynamics
    n_degrees: int
    conserved: Callable[[], float] | None  # eV; None where the ensemble has no conserved quantity
    warnings: dict[str, str] = field(default_factory=dict)  # of what it samples slowly, by what is warned of

    def set_temperature(self, temperature_K: float) -> None:
        """Change the temperature of the thermostat; its masses stay, so its frequency changes slightly."""
        dynamics, kT = self.dynamics, units.kB * temperature_K
        if self.name == "langevin":
            dynamics.set_temperature(temperature_K)
        elif self.name == "bussi":
            dynamics.temp, dynamics.target_kinetic_energy = kT, 0.5 * self.n_degrees * kT
        elif self.name != "nve":
            dynamics._thermostat._kT = kT
            if self.name in NPT:
                dynamics._kT = dynamics._barostat._kT = kT

    def settle(self) -> None:
        """Take out a drift that Bussi's thermostat made of rounding; the scales of the others are bounded."""
        if self.name == "bussi":
            take_out_drift(self.dynamics.atoms)


def build_ensemble(
    atoms: Atoms, recipe: MDRecipe, rng: np.random.Generator, n_degrees: int | None = None
) -> Ensemble:
    """The integrator of a recipe for atoms that have velocities and a calculator.

    Args:
        n_degrees: degrees of freedom, if they were counted before: rounding makes momenta that were zero not quite
            zero.

    Raises:
        StartError: the ensemble does not suit the structure.
    """
    if n_degrees is None:
        n_degrees = degrees_of_freedom(atoms, keeps_momentum=recipe.ensemble != "langevin")
    if n_degrees < 1:
        why = "all of its coordinates are held" if held_coordinates(atoms).all() else "it is at rest as a whole"
        what = "Free some atoms" if held_coordinates(atoms).all() else "Choose langevin"
        raise StartError(
            f"{atoms.get_chemical_formula()} has no motion left in ensemble {recipe.ensemble!r}: {why}. {what}."
        )
    _check_chain(atoms, recipe)
    if recipe.ensemble in NPT:
        built = _mtk(atoms, recipe, n_degrees)
    else:
        make = {"nve": _nve, "langevin": _langevin, "bussi": _bussi, "nose-hoover": _nose_hoover}[recipe.ensemble]
        built = make(atoms, recipe, n_degrees, rng)
    built.warnings.update(_slowly_sampled(atoms, recipe, n_degrees) | _vacuum(atoms, recipe))
    return built


def _slowly_sampled(atoms: Atoms, recipe: MDRecipe, n_degrees: int) -> dict[str, str]:
    """What a thermostat without noise on each atom hardly brings to its temperature."""
    if recipe.ensemble in ("nve", "langevin"):
        return {}
    if n_degrees == 1 and recipe.ensemble in DETERMINISTIC:
        return {
            "one degree": f"A single degree of freedom is sampled slowly by the chain of {recipe.ensemble!r}: its "
            "mean temperature may be off by more than the error that is told. Choose langevin."
        }
    energy, n_whole = motion_of_whole(atoms)
    inner = n_degrees - n_whole
    if n_whole == 0 or inner < 1:
        return {}
    share = 2 * energy / units.kB
    left = max(0.0, n_degrees * recipe.temperature_K - share) / inner
    if abs(left / recipe.temperature_K - 1) < SHARED_HEAT:
        return {}
    return {
        "motion": f"The structure flies or turns as a whole, at {share / n_whole:.3g} K, and ensemble "
        f"{recipe.ensemble!r} counts that as heat, which hardly passes to the motion inside: with it, that is "
        f"at {left:.3g} K instead of {recipe.temperature_K:g}. Choose langevin, or velocities: draw, which is at "
        "rest as a whole."
    }


def _vacuum(atoms: Atoms, recipe: MDRecipe) -> dict[str, str]:
    gap, axis = widest_gap(atoms) if recipe.ensemble in NPT else (0.0, 0)
    if gap < VACUUM:
        return {}
    return {
        "vacuum": f"Along lattice vector {axis + 1} no atom lies within {gap:.1f} Å: the barostat moves that, "
        "and the pressure is that of a volume with it. Of a slab or a molecule, set pbc false there and choose an "
        "ensemble without a barostat."
    }


def _nve(atoms: Atoms, recipe: MDRecipe, n_degrees: int, rng: np.random.Generator) -> Ensemble:
    dynamics = VelocityVerlet(atoms, recipe.timestep_fs * units.fs)
    return Ensemble(recipe.ensemble, dynamics, n_degrees, lambda: _total_energy(atoms))


def _langevin(atoms: Atoms, recipe: MDRecipe, n_degrees: int, rng: np.random.Generator) -> Ensemble:
    dynamics = LangevinBAOAB(
        atoms,
        recipe.timestep_fs * units.fs,
        temperature_K=recipe.temperature_K,
        T_tau=recipe.thermostat_fs * units.fs,
        hydrostatic=True,  # without a barostat this only spares a matrix exponential in each step
        rng=rng,
    )
    return Ensemble(recipe.ensemble, dynamics, n_degrees, None)


def _bussi(atoms: Atoms, recipe: MDRecipe, n_degrees: int, rng: np.random.Generator) -> Ensemble:
    dynamics = Bussi(
        atoms,
        recipe.timestep_fs * units.fs,
        temperature_K=recipe.temperature_K,
        taut=recipe.thermostat_fs * units.fs,
        rng=rng,
    )
    dynamics.ndof = n_degrees
    dynamics.target_kinetic_energy = 0.5 * n_degrees * units.kB * recipe.temperature_K
    return Ensemble(
        recipe.ensemble, dynamics, n_degrees, lambda: _total_energy(atoms) - dynamics.transferred_energy
    )


def _nose_hoover(atoms: Atoms, recipe: MDRecipe, n_degrees: int, rng: np.random.Generator) -> Ensemble:
    dynamics = _chain(atoms, recipe)
    dynamics._thermostat = _thermostat(dynamics, recipe, n_degrees)
    return Ensemble(recipe.ensemble, dynamics, n_degrees, _steady(dynamics, recipe))


def check_plan(atoms: Atoms, plan: Sequence[MDRecipe]) -> None:
    """Raise StartError if one of all stages has a thermostat or barostat that does not suit the structure."""
    for stage in plan:
        _check_chain(atoms, stage)
        if stage.ensemble in NPT:
            _check_barostat(atoms, stage)


def rest_after_noise(atoms: Atoms, plan: Sequence[MDRecipe], stage: int) -> None:
    """Bring a structure to rest as a whole where a stage that keeps its motion follows one whose noise made it.

    Else the share of heat in that motion at the last step of the noise stays there, and the inner motion of a
    molecule of nine atoms would be some 15 % too hot or too cold.
    """
    if stage == 0 or plan[stage - 1].ensemble != "langevin" or plan[stage].ensemble == "langevin":
        return
    rested = atoms.copy()
    bring_to_rest(rested)
    if degrees_of_freedom(rested, keeps_momentum=True) > 0:
        atoms.set_momenta(rested.get_momenta())


def _check_chain(atoms: Atoms, recipe: MDRecipe) -> None:
    """A chain of thermostats goes around where no force acts, and has a period that steps must follow."""
    deterministic = recipe.ensemble in DETERMINISTIC
    if len(atoms) == 1 and deterministic:
        raise StartError(
            f"{recipe.structure} is one atom, on which no force acts, and ensemble {recipe.ensemble!r} is "
            "deterministic: its temperature would depend on how the run begins. Choose langevin."
        )
    for name, n_steps in STEPS_IN_A_PERIOD.items():
        period, least = getattr(recipe, name), n_steps * recipe.timestep_fs
        if deterministic and period < least and (name == "thermostat_fs" or recipe.ensemble in NPT):
            raise StartError(
                f"{name} = {period:g} is a period of {recipe.ensemble!r}, which steps of timestep_fs = "
                f"{recipe.timestep_fs:g} cannot follow: it needs {least:g} fs or more. 100 steps of a thermostat "
                "and 1000 of a barostat are usual."
            )


def _check_barostat(atoms: Atoms, recipe: MDRecipe) -> None:
    if not atoms.pbc.all():
        pbc = "".join("FT"[int(p)] for p in atoms.pbc)
        raise StartError(
            f"Ensemble {recipe.ensemble!r} needs a structure that is periodic in three directions, and "
            f"{recipe.structure} has pbc {pbc}: a volume with vacuum in it has no pressure that could be held. "
            "Choose an ensemble without a barostat: langevin, bussi, nose-hoover or nve."
        )
    if (n := int(held_coordinates(atoms).any(axis=1).sum())) > 0:
        raise StartError(
            f"Ensemble {recipe.ensemble!r} scales positions with the cell, and {n} atoms of {recipe.structure} "
            "are held in place: the pressure on such a cell is not that of the material in it. Free them, or "
            "choose another ensemble."
        )


def _mtk(atoms: Atoms, recipe: MDRecipe, n_degrees: int) -> Ensemble:
    """Martyna, Tobias and Klein's barostat: J. Chem. Phys. 101, 4177 (1994)."""
    _check_barostat(atoms, recipe)
    integrator = ConstrainedIsotropic if recipe.ensemble == "npt-isotropic" else ConstrainedMTK
    constraints = atoms.constraints
    atoms.set_constraint()  # ASE refuses a fixed center of mass; these integrators keep it
    dynamics = integrator(
        atoms,
        recipe.timestep_fs * units.fs,
        temperature_K=recipe.temperature_K,
        pressure_au=recipe.pressure_GPa * GPA,
        tdamp=recipe.thermostat_fs * units.fs,
        pdamp=recipe.barostat_fs * units.fs,
    )
    atoms.set_constraint(constraints)
    dynamics._num_atoms_global = n_degrees / 3  # as in `ChainThermostat`
    dynamics._thermostat = _thermostat(dynamics, recipe, n_degrees)
    return Ensemble(recipe.ensemble, dynamics, n_degrees, _steady(dynamics, recipe))


def chains(
    batch: Atoms, recipe: MDRecipe, n_degrees: Sequence[int], sizes: NDArray[np.integer]
) -> ConstrainedChain:
    """The integrator of many replicas of `_nose_hoover`, whose atoms stand one after another in one structure."""
    dynamics = _chain(batch, recipe)
    dynamics._thermostat = _thermostat(dynamics, recipe, np.array(n_degrees, dtype=float), sizes)
    return dynamics


def _chain(atoms: Atoms, recipe: MDRecipe) -> ConstrainedChain:
    return ConstrainedChain(
        atoms,
        recipe.timestep_fs * units.fs,
        temperature_K=recipe.temperature_K,
        tdamp=recipe.thermostat_fs * units.fs,
    )


def _thermostat(
    dynamics: MolecularDynamics,
    recipe: MDRecipe,
    n_degrees: float | NDArray[np.float64],
    sizes: NDArray[np.integer] | None = None,
) -> ChainThermostat:
    own = np.array([len(dynamics.masses)]) if sizes is None else sizes
    return ChainThermostat(n_degrees, dynamics.masses, recipe.temperature_K, recipe.thermostat_fs * units.fs, own)


def _steady(dynamics: MolecularDynamics, recipe: MDRecipe) -> Callable[[], float] | None:
    """The extended energy, which is conserved while the temperature of the bath is."""
    return dynamics.get_conserved_energy if recipe.temperature_end_K is None else None


def _total_energy(atoms: Atoms) -> float:
    return float(atoms.get_potential_energy() + atoms.get_kinetic_energy())
