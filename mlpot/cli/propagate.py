"""The `mlpot propagate` commands; as in `cli`, imports stand inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mlpot.cli.data import Overwrite, console, new_table
from mlpot.cli.options import Overrides

Dtype = Annotated[
    Literal["float32", "float64"],
    typer.Option(help="In which the propagator computes, and to whose rounding momentum is conserved."),
]

propagate_app = typer.Typer(
    help="Learned propagators: positions and velocities after a fixed interval, in one call.",
    no_args_is_help=True,
)


@propagate_app.command("train")
def propagate_train(
    recipe: Annotated[Path, typer.Argument(help="YAML file; `mlpot propagate recipe` prints one.")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a propagator by a recipe, from trajectories with velocities or on the experiment."""
    from mlpot.propagators.recipe import PropagatorRecipe
    from mlpot.propagators.sets import sets_of
    from mlpot.propagators.training import check_directory, train
    from mlpot.recipes import load_recipe

    wanted = load_recipe(PropagatorRecipe, recipe, overrides or ())

    def tell(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False)

    check_directory(wanted, resume=resume, overwrite=overwrite)
    found = train(wanted, sets_of(wanted.data), resume=resume, overwrite=overwrite, tell=tell)
    table = new_table("Mean squared errors", "set", "positions", "velocities", "free flight, positions")
    for name in ("train", "validation", "test"):
        if name in found:
            of = found[name]
            velocities = f"{of['velocities_mse']:.5g}" if "velocities_mse" in of else "not foretold"
            table.add_row(name, f"{of['positions_mse']:.5g}", velocities, f"{of['free_flight_mse']:.5g}")
    console.print(table)
    tell(f"Written: {wanted.training.directory}/model.safetensors, metrics.json, log.csv")


@propagate_app.command("run")
def propagate_run(
    propagator: Annotated[Path, typer.Argument(help="Propagator, a file of mlpot propagate train.")],
    structure: Annotated[Path, typer.Argument(help="H5MD with velocities, of one molecule.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="*.h5 (H5MD).")],
    calls: Annotated[int, typer.Option(min=1, help="Intervals to go.")] = 100,
    frame: Annotated[int, typer.Option(help="Of the file; negative counts from the end.")] = 0,
    potential: Annotated[
        Path | None, typer.Option(help="Trained potential, which gives energies and forces of the frames.")
    ] = None,
    dtype: Dtype = "float64",
    overwrite: Overwrite = False,
) -> None:
    """Roll a propagator out: write the trajectory that it foretells."""
    from mlpot.atomic_files import check_place
    from mlpot.data.sources.read import read_structure
    from mlpot.model_file import load_potential
    from mlpot.propagators.propagator_file import load_propagator
    from mlpot.propagators.rollout import roll_out
    from mlpot.torch_settings import known_dtype

    check_place(output, overwrite=overwrite)
    known = load_propagator(propagator, dtype=known_dtype(dtype))
    of = None if potential is None else load_potential(potential)
    energies = roll_out(known, read_structure(structure, frame), output, calls, potential=of, overwrite=overwrite)
    told = f"{calls + 1} frames, {known.interval:g} fs apart, written to {output}"
    if energies:
        drift = max(abs(e - energies[0]) for e in energies)
        told += f"\nTotal energy: at most {1e3 * drift:.3g} meV from that at the start"
    console.print(told, soft_wrap=True, highlight=False)


@propagate_app.command("judge")
def propagate_judge(
    propagator: Annotated[Path, typer.Argument(help="Propagator, a file of mlpot propagate train.")],
    trajectory: Annotated[Path, typer.Argument(help="H5MD that it has not learned, at constant energy.")],
    potential: Annotated[Path, typer.Argument(help="The potential that made the trajectory (*.safetensors).")],
    starts: Annotated[int, typer.Option(min=1, help="Frames from which roll-outs begin.")] = 50,
    calls: Annotated[int, typer.Option(min=1, help="Intervals of each roll-out.")] = 50,
    dtype: Dtype = "float64",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The figures, *.json.")] = None,
) -> None:
    """Compare a propagator with integration by the potential: errors, energy, and what the same time would buy."""
    from mlpot.atomic_files import check_reports, write_whole
    from mlpot.model_file import load_potential
    from mlpot.propagators.judge import OTHER_FORCES, as_json, judge
    from mlpot.propagators.propagator_file import load_propagator
    from mlpot.propagators.trajectories import read_trajectory
    from mlpot.torch_settings import known_dtype

    check_reports(output)
    known, of = load_propagator(propagator, dtype=known_dtype(dtype)), load_potential(potential)
    found = judge(known, read_trajectory(trajectory), of, n_starts=starts, n_calls=calls)
    title = "Root mean squares over all starts"
    table = new_table(title, "calls", "fs", "by", "positions, Å", "velocities, Å/fs", "energy, meV/atom")
    for row in found["rows"]:
        errors = [f"{row[name]:.3g}" for name in ("positions", "velocities", "energy")]
        table.add_row(str(row["calls"]), f"{row['time_fs']:g}", row["method"], *errors)
    console.print(table)
    told = (
        "One call takes {microseconds_per_call:.3g} µs of the processor for each of {starts} molecules, a step of "
        "the potential {microseconds_per_step:.3g} µs: a call costs {steps_in_a_call:.3g} steps. Momentum changes "
        "by at most {momentum:.2g} of the sum of its absolute parts."
    )
    console.print(told.format(**found), soft_wrap=True, highlight=False)
    if found["forces_apart"] > OTHER_FORCES:
        told = (
            "Warning: forces of the potential are {forces_apart:.2g} eV/Å from those in the trajectory (root mean "
            "square), which another potential or method made: its rows have its own errors beside those of steps."
        )
        console.print(told.format(**found), soft_wrap=True, highlight=False)
    if output is not None:
        write_whole(output, as_json(found))


@propagate_app.command("recipe")
def propagate_recipe() -> None:
    """Print a commented recipe with every default."""
    from mlpot.propagators.recipe import PropagatorRecipe
    from mlpot.recipes import template

    print(template(PropagatorRecipe), end="")
