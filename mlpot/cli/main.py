"""The `mlpot` command: each subcommand is a thin call of one Python function.

Imports stand inside the subcommands, here and nowhere else: `mlpot --help` and shell completion must not wait
seconds for torch, Lightning and matplotlib.
"""

from __future__ import annotations

import os
import sys
import warnings
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlpot.cli.arguments import check_arguments, of_convert
from mlpot.cli.average import average
from mlpot.cli.check import check, data_info
from mlpot.cli.curve import curve
from mlpot.cli.curves import curves
from mlpot.cli.data import (
    ElementNames,
    ElementsFrom,
    Overwrite,
    console,
    data_app,
    new_table,
    print_account,
    source_of,
)
from mlpot.cli.export import export
from mlpot.cli.imports import import_app
from mlpot.cli.info import info
from mlpot.cli.lammps import lammps
from mlpot.cli.md import md_app
from mlpot.cli.options import Device, Dtype, Model, On, Overrides, check_quotes, counted
from mlpot.cli.pareto import pareto
from mlpot.cli.progress import progress, working
from mlpot.cli.propagate import propagate_app
from mlpot.cli.socket import answer
from mlpot.cli.tables import print_evaluation
from mlpot.cli.verify import verify
from mlpot.signals import StoppedError
from mlpot.version import __version__

if TYPE_CHECKING:
    from mlpot.training.rate_range import RateRange

app = typer.Typer(
    name="mlpot",
    help="Machine-learned interatomic potentials: train from DFT trajectories, run molecular dynamics.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

BatchAtoms = Annotated[
    int | None,
    typer.Option(min=1, help="Atoms computed at once: 8192, without compiled code 1024."),
]


def _print_version(asked: bool) -> None:
    if asked:
        print(f"mlpot {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the subcommand; `main` looks for --traceback itself, as errors end up there."""


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML file; `mlpot recipe` prints one.")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    overwrite: Overwrite = False,
    range_test: Annotated[
        bool, typer.Option("--range-test", help="Only tell which learning rates serve; nothing is written.")
    ] = False,
) -> None:
    """Train a potential by a recipe."""
    from mlpot.training.fit import range_test as find_rates
    from mlpot.training.train import read_recipe
    from mlpot.training.train import train as run

    if range_test:
        _print_rates(find_rates(read_recipe(recipe, overrides or ())))
        return
    result = run(recipe, overrides or (), resume=resume, overwrite=overwrite)
    if result.metrics:  # else another process of this training writes the potential, and tells when it has
        console.print(
            f"Trained potential: {result.model}\nMetrics and pictures: {result.directory}", soft_wrap=True
        )


def _print_rates(found: RateRange) -> None:
    table = new_table("Loss while the learning rate grows", "learning rate", "loss")
    for k in range(0, len(found.rates), 5):
        table.add_row(f"{found.rates[k]:.2g}", f"{found.losses[k]:.4g}")
    console.print(table)
    told = f"Lowest at {found.at_minimum:.2g}; a tenth of it serves: optimizer.learning_rate={found.suggested:g}"
    console.print(told, soft_wrap=True, highlight=False)


@app.command()
def recipe(
    md: Annotated[bool, typer.Option("--md", help="Of molecular dynamics instead of training.")] = False,
    backbone: Annotated[str | None, typer.Option(help="The network, with the settings that served here.")] = None,
) -> None:
    """Print a commented recipe: a network with its settings, and every other key with its default."""
    from mlpot.recipes import RecipeError, template

    if not md:
        from mlpot.training.recipe import Recipe, settings_of

        print(template(Recipe, settings_of(backbone)), end="")
        return
    if backbone is not None:
        raise RecipeError("--backbone: a run of molecular dynamics has the network of its model. Leave it out.")
    from mlpot.dynamics.recipe import MDRecipe

    print(template(MDRecipe), end="")


@app.command()
def evaluate(
    model: Model,
    data: Annotated[Path, typer.Argument(help="Labeled structures: H5MD, or any file that ASE reads.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for evaluation.json, frames.csv, parity.json and .png."),
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    batch_atoms: BatchAtoms = None,
    on: On = None,
    elements: ElementNames = None,
    elements_from: ElementsFrom = None,
) -> None:
    """Compare a potential with labeled structures."""
    from mlpot.evaluate import NAMES
    from mlpot.evaluate import evaluate as run

    source = source_of(data, elements, elements_from)
    with progress("evaluating") as tell:
        found = run(
            model, source, device=device, dtype=dtype, batch_atoms=batch_atoms, output=output, on=on, progress=tell
        )
    print_evaluation(found, NAMES)
    print_account(source)
    if output is not None:
        console.print(f"Written to {output}", soft_wrap=True)


@app.command()
def predict(
    model: Model,
    structures: Annotated[Path, typer.Argument(help="H5MD, or any file that ASE reads.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="*.h5 (H5MD), *.xyz, *.traj or *.db.")],
    device: Device = "cpu",
    dtype: Dtype = None,
    batch_atoms: BatchAtoms = None,
    on: On = None,
    elements: ElementNames = None,
    elements_from: ElementsFrom = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out structures without an answer, and tell which and why.")
    ] = False,
    spread: Annotated[
        bool, typer.Option(help="Of a committee, write energy_std and forces_std too; twice the time.")
    ] = True,
    overwrite: Overwrite = False,
) -> None:
    """Write structures with the energies, forces and stresses of a potential."""
    from mlpot.extrapolation import Outside
    from mlpot.predictions import predict_file

    source = source_of(structures, elements, elements_from, labels=False)
    left_out, outside = list[str](), Outside()
    with progress("predicting") as tell:
        n = predict_file(
            model,
            source,
            output,
            device=device,
            dtype=dtype,
            batch_atoms=batch_atoms,
            overwrite=overwrite,
            on_bad=(lambda k, why: left_out.append(f"Left out: structure {k}: {why}")) if skip_bad else None,
            on=on,
            progress=tell,
            outside=outside,
            spread=spread,
        )
    print_account(source)
    for line in left_out:
        console.print(line, markup=False, soft_wrap=True)
    if told := str(outside):
        console.print(told, markup=False, soft_wrap=True)
    lost = f", {len(left_out)} left out" if skip_bad else ""
    console.print(f"{counted(n, 'structure')} written to {output}{lost}", soft_wrap=True)


@app.command()
def report(
    run: Annotated[
        Path, typer.Argument(help="Folder of a training, a curve, a comparison, an evaluation or an MD run.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page; report.html in the folder by default.")
    ] = None,
) -> None:
    """Write a page on a run: one file, to look at without a network, to keep and to pass on."""
    from mlpot.html.run import write_report

    with working("drawing the page"):
        written = write_report(run, output)
    console.print(f"Written to {written}", soft_wrap=True)


data_app.command()(export)
data_app.command("info")(data_info)
data_app.command()(check)
app.command()(info)
app.command()(average)
app.command()(curve)
app.command()(curves)
app.command()(lammps)
app.command()(answer)
app.command()(pareto)
app.command()(verify)
app.add_typer(data_app, name="data")
app.add_typer(import_app, name="import")
app.add_typer(md_app, name="md")
app.add_typer(propagate_app, name="propagate")


def _show_warning(message: Warning | str, category: type[Warning], *where: object, **_: object) -> None:
    """One line, without the place in our code."""
    print(f"mlpot: {category.__name__}: {message}", file=sys.stderr)


def main() -> None:
    """Run the command; errors that a user can mend are one line, all others keep their traceback."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):  # a letter that a terminal does not know, such as Å, fails no run
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    commands = typer.main.get_command(app)  # made once, which takes longer than a small command
    try:
        check_quotes(sys.argv[1:])
        check_arguments(commands, sys.argv[1:])
        commands()
    except StoppedError as stopped:
        print(f"mlpot: {stopped}", file=sys.stderr)
        sys.exit(stopped.exit_code)
    except BrokenPipeError:  # whoever read the output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError, MemoryError) as error:
        if "--traceback" in sys.argv:
            raise
        told = _in_words(error)
        sys.exit(f"mlpot: {told}{of_convert(commands, sys.argv[1:], told)}")


def _in_words(error: ValueError | OSError | MemoryError) -> str:
    """The message of an error; those of the system name the file first."""
    if isinstance(error, MemoryError):
        return f"There is not enough memory ({error}). Take fewer structures or atoms at once, or smaller ones."
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""  # none of what a full disk keeps from the output
        return f"{where}{error.strerror}. Give another file, or mend its place."
    return str(error)
