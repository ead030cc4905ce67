"""What a run comes to: means with errors, drift, speed, and why it ended."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ase import Atoms

from mlpot.atomic_files import beside_results, write_whole
from mlpot.data.constraints import held_coordinates
from mlpot.dynamics.log import Drift, mean_and_error, of_stage, read_log, told_drift, untold_drift
from mlpot.dynamics.recipe import NPT, MDRecipe
from mlpot.figures.door import plot_md
from mlpot.version import __version__


@dataclass(frozen=True)
class End:
    """Where a run ended."""

    stage: MDRecipe  # in which
    stage_began_ps: float
    n_degrees: int
    steps: int
    time_ps: float
    steps_per_s: float
    wall_s: float
    stopped: str | None = None
    blown_up: bool = False


@dataclass(frozen=True)
class MDSummary:
    """The summary of a run; the log has the details."""

    formula: str
    n_atoms: int
    n_degrees: int
    n_fixed: int  # atoms of which a coordinate is held
    ensemble: str  # of the last stage
    steps: int
    time_ps: float
    temperature_K: float
    temperature_error: float | None  # K, standard error from blocks
    pressure_GPa: float | None
    pressure_error: float | None  # GPa
    volume_A3: float | None  # of a cell that a barostat moves
    volume_error: float | None  # Å³
    drift: Drift | None  # of the conserved quantity, in the last stage
    untold_drift: str | None  # why there is none, where an energy is conserved
    wall_s: float  # since the run was begun or continued
    steps_per_s: float
    ns_per_day: float
    warnings: tuple[str, ...]
    stopped: str | None  # why the run ended early
    blown_up: bool  # a guard stopped it


def summary_of(recipe: MDRecipe, atoms: Atoms, end: End, warnings: dict[str, str]) -> MDSummary:
    """Summarize a run by its log.

    Args:
        recipe: of the run, with the folder of its log.
        atoms: at the end.
        end: where it ended.
        warnings: of its guards.
    """
    columns = of_stage(read_log(recipe.output / "log.csv"), end.stage_began_ps)
    temperature, temperature_error = mean_and_error(columns["temperature_K"])
    pressure, pressure_error = mean_and_error(columns["pressure_GPa"]) if atoms.pbc.all() else (None, None)
    moves = end.stage.ensemble in NPT
    volume, volume_error = mean_and_error(columns["volume_A3"]) if moves else (None, None)
    return MDSummary(
        formula=atoms.get_chemical_formula(),
        n_atoms=len(atoms),
        n_degrees=end.n_degrees,
        n_fixed=int(held_coordinates(atoms).any(axis=1).sum()),
        ensemble=end.stage.ensemble,
        steps=end.steps,
        time_ps=end.time_ps,
        temperature_K=temperature,
        temperature_error=temperature_error,
        pressure_GPa=pressure,
        pressure_error=pressure_error,
        volume_A3=volume,
        volume_error=volume_error,
        drift=told_drift(columns["time_ps"], columns["conserved_eV"], len(atoms)),
        untold_drift=untold_drift(columns["time_ps"], columns["conserved_eV"]),
        wall_s=end.wall_s,
        steps_per_s=end.steps_per_s,
        ns_per_day=end.steps_per_s * end.stage.timestep_fs * 86400 / 1e6,
        warnings=tuple(warnings.values()),
        stopped=end.stopped,
        blown_up=end.blown_up,
    )


def write_report(recipe: MDRecipe, summary: MDSummary, card: dict[str, str]) -> None:
    """Write md.json into the folder of a run."""
    report = {
        "summary": asdict(summary),
        "recipe": recipe.model_dump(mode="json"),
        "provenance": card,
        "mlpot": __version__,
    }
    write_whole(recipe.output / "md.json", (json.dumps(report, indent=2) + "\n").encode())


def draw(recipe: MDRecipe, summary: MDSummary) -> None:
    """Draw md.png into the folder of a run."""
    columns, path = read_log(recipe.output / "log.csv"), recipe.output / "md.png"
    with beside_results(path):
        plot_md(columns, summary.n_atoms, path, title=f"{summary.formula}, {summary.ensemble}")
