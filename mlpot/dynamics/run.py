"""A run of molecular dynamics, from a recipe to its files."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mlpot.calculator import MLPotCalculator
from mlpot.checkpoint import DTYPES
from mlpot.data.trajectory import TrajectoryWriter
from mlpot.dynamics.ensembles import Ensemble, build_ensemble
from mlpot.dynamics.log import Drift, Floats, Log, drift, mean_and_error, observe
from mlpot.dynamics.recipe import MDRecipe
from mlpot.dynamics.start import starting_atoms
from mlpot.report.md import plot_md
from mlpot.version import __version__


class BlowUpError(ValueError):
    """A run met a state that the potential cannot compute; its files are complete up to the last good step."""


@dataclass(frozen=True)
class MDSummary:
    """What a run amounted to; the log has the rest."""

    formula: str
    n_atoms: int
    n_degrees: int
    ensemble: str
    steps: int
    time_ps: float
    temperature_K: float
    temperature_error: float | None  # K, standard error from blocks
    pressure_GPa: float | None
    pressure_error: float | None  # GPa
    drift: Drift | None  # of the conserved quantity
    wall_s: float
    steps_per_s: float
    ns_per_day: float
    stopped: str | None  # why the run ended early


def run_md(recipe: MDRecipe) -> MDSummary:
    """Run molecular dynamics and write trajectory.h5, log.csv, md.json and md.png into the output folder.

    Raises:
        StartError: the run cannot begin from this structure.
        FileExistsError: the folder holds an earlier run.
        BlowUpError: the energy or a force is not finite any more, or two atoms are in one place.
        ValueError, FileNotFoundError: as the functions that read the model and the structure.
    """
    rng = np.random.default_rng(recipe.seed)
    calculator = MLPotCalculator(
        recipe.model, device=recipe.device, dtype=None if recipe.dtype is None else DTYPES[recipe.dtype]
    )
    atoms = starting_atoms(recipe, calculator, rng)
    ensemble = build_ensemble(atoms, recipe, rng)
    recipe.output.mkdir(parents=True, exist_ok=True)
    card = {"made with": f"mlpot {__version__}", "recipe": recipe.model_dump_json()}
    began = time.perf_counter()
    with (
        TrajectoryWriter(recipe.output / "trajectory.h5", card=card, overwrite=recipe.overwrite) as trajectory,
        Log(recipe.output / "log.csv") as log,
    ):
        n_done, failure = _integrate(recipe, atoms, ensemble, trajectory, log)
    summary = _summary(recipe, atoms, ensemble, log, n_done, time.perf_counter() - began, failure)
    report = {"summary": asdict(summary), "recipe": recipe.model_dump(mode="json"), "mlpot": __version__}
    (recipe.output / "md.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    plot_md(log.columns(), len(atoms), recipe.output / "md.png", title=f"{summary.formula}, {recipe.ensemble}")
    if failure is not None:
        raise BlowUpError(
            f"Step {n_done + 1}: {failure} The trajectory in {recipe.output} ends with the last good frame. "
            "Either the atoms left what the potential knows, or the time step is too long."
        ) from failure.__cause__
    return summary


class _BadStepError(ValueError):
    """A step after which nothing can be computed."""

    def __init__(self, reason: str, last_good: Atoms):
        super().__init__(reason)
        self.last_good = last_good


def _integrate(
    recipe: MDRecipe, atoms: Atoms, ensemble: Ensemble, trajectory: TrajectoryWriter, log: Log
) -> tuple[int, _BadStepError | None]:
    """Run, log and write; the number of steps done, and what ended them early."""
    step = 0
    try:
        for step in _steps(atoms, ensemble, recipe.n_steps):
            time_fs = step * recipe.timestep_fs
            if step % recipe.log_every == 0:
                log.add(observe(atoms, ensemble, step, time_fs / 1e3, log.speed(step)))
            if step % recipe.write_every == 0:
                trajectory.add(atoms, step=step, time=time_fs)
    except _BadStepError as failure:
        if step % recipe.write_every:
            trajectory.add(failure.last_good, step=step, time=step * recipe.timestep_fs)
        return step, failure
    return step, None


class _State(NamedTuple):
    """What it takes to go back to a step."""

    positions: Floats
    momenta: Floats
    cell: Floats
    results: dict[str, Any]  # the calculator makes a new one for each calculation


def _steps(atoms: Atoms, ensemble: Ensemble, n_steps: int) -> Iterator[int]:
    """Integrate, and give the number of each step whose energy and forces are finite, from 0 on."""
    dynamics = ensemble.dynamics.irun(n_steps)
    good = _state(atoms)
    for step in range(n_steps + 1):
        try:
            next(dynamics)
        except ValueError as error:  # of the calculator: positions not finite, or two atoms in one place
            raise _BadStepError(str(error), _restored(atoms, good)) from error
        results = atoms.calc.results
        if not (math.isfinite(results["energy"]) and np.isfinite(results["forces"]).all()):
            raise _BadStepError("The energy or a force is not finite.", _restored(atoms, good))
        good = _state(atoms)
        yield step


def _state(atoms: Atoms) -> _State:
    return _State(atoms.get_positions(), atoms.get_momenta(), atoms.cell.array.copy(), atoms.calc.results)


def _restored(atoms: Atoms, state: _State) -> Atoms:
    copy = atoms.copy()
    copy.set_constraint()
    copy.set_cell(state.cell)
    copy.positions[:] = state.positions
    copy.set_momenta(state.momenta)
    copy.calc = SinglePointCalculator(copy, **state.results)
    return copy


def _summary(
    recipe: MDRecipe,
    atoms: Atoms,
    ensemble: Ensemble,
    log: Log,
    n_done: int,
    wall_s: float,
    failure: _BadStepError | None,
) -> MDSummary:
    columns = log.columns()
    temperature, temperature_error = mean_and_error(columns["temperature_K"])
    pressure, pressure_error = mean_and_error(columns["pressure_GPa"]) if atoms.pbc.all() else (None, None)
    speed = n_done / wall_s
    return MDSummary(
        formula=atoms.get_chemical_formula(),
        n_atoms=len(atoms),
        n_degrees=ensemble.n_degrees,
        ensemble=recipe.ensemble,
        steps=n_done,
        time_ps=n_done * recipe.timestep_fs / 1e3,
        temperature_K=temperature,
        temperature_error=temperature_error,
        pressure_GPa=pressure,
        pressure_error=pressure_error,
        drift=drift(columns["time_ps"], columns["conserved_eV"], len(atoms)),
        wall_s=wall_s,
        steps_per_s=speed,
        ns_per_day=speed * recipe.timestep_fs * 86400 / 1e6,
        stopped=None if failure is None else str(failure),
    )
