"""`mlpot md`; as in `cli`, imports stand inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from mlpot.cli.data import console
from mlpot.cli.options import Overrides
from mlpot.cli.progress import progress, working

if TYPE_CHECKING:
    from mlpot.dynamics.log import Drift
    from mlpot.dynamics.summary import MDSummary


class RunOrElse(TyperGroup):
    """A group in which what is not the name of a command is a recipe to run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As of a group, `run` being what is left out."""
        if args and args[0] not in (*self.commands, "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


md_app = typer.Typer(
    help="Run molecular dynamics by a recipe; look at a run.", no_args_is_help=True, cls=RunOrElse
)


@md_app.command("run")
def md_run(
    recipe: Annotated[Path, typer.Argument(help="YAML file; `mlpot recipe --md` prints one.")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--continue", help="Go on from the last checkpoint, if any.")] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Length of the run, whatever the recipe says.")] = None,
) -> None:
    """Run molecular dynamics by a recipe; `mlpot md RECIPE` is the same."""
    from mlpot.dynamics.checkpoints import NAMES
    from mlpot.dynamics.recipe import MDRecipe
    from mlpot.dynamics.run import run_md
    from mlpot.dynamics.run_replicas import run_replicas
    from mlpot.recipes import RecipeError, load_recipe

    length = [] if steps is None else [f"steps={steps}"]
    checked = load_recipe(MDRecipe, recipe, [*(overrides or ()), *length])
    own = [stage.steps or stage.time_ps for stage in checked.stages]
    if own and (length or (checked.steps is not None and all(own))):
        raise RecipeError(
            f"{recipe} has {len(own)} stages, so that {'--steps' if length else 'steps'} is not the length of the "
            "run. Leave it out, and give each stage its own: stages=[{ensemble: nve, steps: 100}, ...]."
        )
    if resume and not any((checked.output / name).exists() for name in NAMES):
        console.print(f"There is no checkpoint in {checked.output}, so the run begins.", soft_wrap=True)
    if checked.is_batch:
        with progress("molecular dynamics") as tell:
            summaries = run_replicas(checked, resume=resume, progress=tell)
        _print_replicas(checked.output, summaries)
        return
    with progress("molecular dynamics") as tell:
        summary = run_md(checked, resume=resume, progress=tell)
    _print_md(checked.output, summary)


@md_app.command("analyze")
def md_analyze(
    run: Annotated[Path, typer.Argument(help="Folder of a run, which may still go on.")],
    skip_ps: Annotated[float, typer.Option(min=0, help="Left out at the beginning of the last stage.")] = 0.0,
    r_max: Annotated[float, typer.Option(min=0.5, max=100.0, help="Å, of the radial distribution.")] = 8.0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder, the run's by default.")] = None,
) -> None:
    """Tell what a run shows: structure, diffusion, vibrations, temperature, drift."""
    from mlpot.dynamics.analyze import PICTURES, analyze_md
    from mlpot.dynamics.log import with_error

    with working("reading the trajectory"):
        found = analyze_md(run, skip_ps=skip_ps, r_max=r_max, output=output)
    expected = "" if found.expected_std_K is None else f", canonical {found.expected_std_K:.1f}"
    lines = [
        f"{found.n_frames} frames, {found.frame_ps:g} ps apart, from {found.from_ps:g} ps on",
        f"Temperature: {with_error(found.temperature_K, found.temperature_error)} K, standard deviation "
        f"{found.temperature_std_K:.1f}{expected}",
    ]
    lines += _drift(found.drift)
    for element, d in found.diffusion.items():
        lines.append(f"Diffusion of {element}: {d.told}")
    lines += [f"{PICTURES[panel]}: {note}" for panel, note in found.notes.items()]
    console.print("\n".join([*lines, f"Curves and picture: {output or run}"]), markup=False, soft_wrap=True)


def _drift(found: Drift | None, untold: str | None = None) -> list[str]:
    """The line that tells a drift, or why there is none; none where nothing is conserved."""
    from mlpot.dynamics.log import with_error

    what = "Drift of the conserved quantity"
    if found is None:
        return [] if untold is None else [f"{what}: {untold}"]
    slope, error = found.slope, found.slope_error
    told = "" if abs(slope) > 2 * error else ", not told from none by a run of this length"
    return [f"{what}: {with_error(slope, error)} meV/atom/ns{told}"]


def _pace(summary: MDSummary, n: int = 1) -> str:
    """How fast a run, or each of n replicas, went on."""
    if summary.steps_per_s == 0:
        return "; the run had ended before, and nothing was left to do"
    all_of_them = "all: " if n > 1 else ""
    return (
        f" in {summary.wall_s:.1f} s ({all_of_them}{n * summary.steps_per_s:.0f} steps/s, "
        f"{n * summary.ns_per_day:.3g} ns/day)"
    )


def _print_md(output: Path, summary: MDSummary) -> None:
    from mlpot.dynamics.log import with_error

    fixed = f", {summary.n_fixed} atoms fixed" if summary.n_fixed else ""
    lines = [
        f"{summary.formula}, {summary.ensemble}: {summary.steps} steps, {summary.time_ps:g} ps{_pace(summary)}",
        f"Temperature: {with_error(summary.temperature_K, summary.temperature_error)} K, of "
        f"{summary.n_degrees} degrees of freedom{fixed}",
    ]
    if summary.pressure_GPa is not None:
        lines.append(f"Pressure: {with_error(summary.pressure_GPa, summary.pressure_error)} GPa")
    if summary.volume_A3 is not None:
        lines.append(f"Volume: {with_error(summary.volume_A3, summary.volume_error)} Å³")
    lines += _drift(summary.drift, summary.untold_drift)
    lines += [f"Warning: {warning}" for warning in summary.warnings]
    console.print("\n".join([*lines, f"Trajectory, log and picture: {output}"]), markup=False, soft_wrap=True)


def _print_replicas(output: Path, summaries: list[MDSummary]) -> None:
    formulas = sorted({summary.formula for summary in summaries})
    n, first = len(summaries), summaries[0]
    temperatures = [summary.temperature_K for summary in summaries]
    mean = sum(temperatures) / n
    lines = [
        f"{n} replicas of {', '.join(formulas)}, {first.ensemble}: {first.steps} steps each, {first.time_ps:g} ps"
        f"{_pace(first, n)}",
        f"Temperature: {mean:.4g} K, of replicas {min(temperatures):.4g} to {max(temperatures):.4g}",
    ]
    told = [f"{k}: {warning}" for k, summary in enumerate(summaries) for warning in summary.warnings]
    lines += [f"Warning of replica {warning}" for warning in told[:5]]
    lines += [f"and {len(told) - 5} more warnings, in md.json of each replica"] if len(told) > 5 else []
    lines += [f"A folder for each, as of a run: {output}/replica_*"]
    console.print("\n".join(lines), markup=False, soft_wrap=True)
