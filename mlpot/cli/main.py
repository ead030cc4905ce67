"""The `mlpot` command: each subcommand is a thin call of one Python function.

Imports stand inside the subcommands, here and nowhere else: `mlpot --help` and shell completion must not wait
seconds for torch, Lightning and matplotlib.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

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
from mlpot.cli.lammps import lammps
from mlpot.cli.options import check_quotes
from mlpot.cli.progress import progress, working
from mlpot.cli.tables import print_certificate, print_evaluation
from mlpot.signals import StoppedError

if TYPE_CHECKING:
    from mlpot.dynamics.run import MDSummary
    from mlpot.training.rate_range import RateRange

app = typer.Typer(
    name="mlpot",
    help="Machine-learned interatomic potentials: train from DFT trajectories, run molecular dynamics.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
data_app.command()(export)
app.command()(lammps)
app.add_typer(data_app, name="data")


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
app.add_typer(md_app, name="md")

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Put over the recipe's.")]
Model = Annotated[Path, typer.Argument(help="Trained potential (*.safetensors).")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
Dtype = Annotated[
    Literal["float32", "float64"] | None, typer.Option(help="In which it computes; as trained by default.")
]
BatchAtoms = Annotated[int, typer.Option(min=1, help="Atoms computed at once.")]


@app.callback()
def _options(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
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
    from mlpot.recipes import load_recipe
    from mlpot.training.fit import range_test as find_rates
    from mlpot.training.fit import train as run
    from mlpot.training.recipe import Recipe
    from mlpot.training.run_directory import moved_to

    wanted = load_recipe(Recipe, recipe, overrides or ())
    if range_test:
        _print_rates(find_rates(wanted))
        return
    if resume and (here := moved_to(wanted, recipe)):
        told = f"{wanted.training.directory} holds no run: going on in {here}, where the recipe lies."
        console.print(told, soft_wrap=True)
        wanted = load_recipe(Recipe, recipe, [*(overrides or ()), f"training.directory={here}"])
    result = run(wanted, resume=resume, overwrite=overwrite)
    console.print(f"Trained potential: {result.model}\nMetrics and pictures: {result.directory}", soft_wrap=True)


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
) -> None:
    """Print a commented recipe with every default."""
    from mlpot.recipes import template

    if md:
        from mlpot.dynamics.recipe import MDRecipe as Recipe
    else:
        from mlpot.training.recipe import Recipe  # type: ignore[assignment]
    print(template(Recipe), end="")


@app.command()
def info(model: Model) -> None:
    """Print what a potential's file says of itself, and whether compiled code computes it here."""
    import json

    from mlpot.forces import computed_by
    from mlpot.model_file import load_potential

    potential = load_potential(model)
    told = {**potential.header, "computed on a CPU by": computed_by(potential)}
    print(json.dumps(told, indent=2, ensure_ascii=False))


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
    batch_atoms: BatchAtoms = 1024,
    elements: ElementNames = None,
    elements_from: ElementsFrom = None,
) -> None:
    """Compare a potential with labeled structures."""
    from mlpot.evaluate import NAMES
    from mlpot.evaluate import evaluate as run

    source = source_of(data, elements, elements_from)
    with progress("evaluating") as tell:
        found = run(
            model, source, device=device, dtype=dtype, batch_atoms=batch_atoms, output=output, progress=tell
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
    batch_atoms: BatchAtoms = 1024,
    elements: ElementNames = None,
    elements_from: ElementsFrom = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out structures without an answer, and tell which and why.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write structures with the energies, forces and stresses of a potential."""
    from mlpot.predictions import predict_file

    source = source_of(structures, elements, elements_from, labels=False)
    left_out: list[str] = []
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
            progress=tell,
        )
    print_account(source)
    for line in left_out:
        console.print(line, markup=False, soft_wrap=True)
    lost = f", {len(left_out)} left out" if skip_bad else ""
    console.print(f"{n} structures written to {output}{lost}", soft_wrap=True)


@md_app.command("run")
def md_run(
    recipe: Annotated[Path, typer.Argument(help="YAML file; `mlpot recipe --md` prints one.")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--continue", help="Go on from the last checkpoint, if any.")] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Length of the run, whatever the recipe says.")] = None,
) -> None:
    """Run molecular dynamics by a recipe; `mlpot md RECIPE` is the same."""
    from mlpot.dynamics.recipe import MDRecipe
    from mlpot.dynamics.run import run_md
    from mlpot.recipes import load_recipe

    length = [] if steps is None else [f"steps={steps}"]
    checked = load_recipe(MDRecipe, recipe, [*(overrides or ()), *length])
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

    with working("reading the trajectory"):
        found = analyze_md(run, skip_ps=skip_ps, r_max=r_max, output=output)
    expected = "" if found.expected_std_K is None else f", canonical {found.expected_std_K:.1f}"
    lines = [
        f"{found.n_frames} frames, {found.frame_ps:g} ps apart, from {found.from_ps:g} ps on",
        f"Temperature: {_with_error(found.temperature_K, found.temperature_error)} K, standard deviation "
        f"{found.temperature_std_K:.1f}{expected}",
    ]
    if found.drift is not None:
        lines.append(_drift(found.drift.slope, found.drift.slope_error))
    for element, d in found.diffusion.items():
        lines.append(f"Diffusion of {element}: {d.told}")
    lines += [f"{PICTURES[panel]}: {note}" for panel, note in found.notes.items()]
    console.print("\n".join([*lines, f"Curves and picture: {output or run}"]), markup=False, soft_wrap=True)


def _drift(slope: float, error: float) -> str:
    told = "" if abs(slope) > 2 * error else ", not told from none by a run of this length"
    return f"Drift of the conserved quantity: {_with_error(slope, error)} meV/atom/ns{told}"


def _print_md(output: Path, summary: MDSummary) -> None:
    fixed = f", {summary.n_fixed} atoms fixed" if summary.n_fixed else ""
    lines = [
        f"{summary.formula}, {summary.ensemble}: {summary.steps} steps, {summary.time_ps:g} ps in "
        f"{summary.wall_s:.1f} s ({summary.steps_per_s:.0f} steps/s, {summary.ns_per_day:.3g} ns/day)",
        f"Temperature: {_with_error(summary.temperature_K, summary.temperature_error)} K, of "
        f"{summary.n_degrees} degrees of freedom{fixed}",
    ]
    if summary.pressure_GPa is not None:
        lines.append(f"Pressure: {_with_error(summary.pressure_GPa, summary.pressure_error)} GPa")
    if summary.drift is not None:
        lines.append(_drift(summary.drift.slope, summary.drift.slope_error))
    lines += [f"Warning: {warning}" for warning in summary.warnings]
    console.print("\n".join([*lines, f"Trajectory, log and picture: {output}"]), markup=False, soft_wrap=True)


def _print_checks(wanted: bool) -> None:
    if not wanted:
        return
    from mlpot.certificate.table import rows

    for row in rows():
        print(f"{row.id:3}  {row.level:5}  {row.sentence}  Bar: {row.bar}.")
    raise typer.Exit


Attach = Annotated[bool, typer.Option("--attach", "--seal", help="Store the result in the model's file.")]
ListChecks = Annotated[
    bool, typer.Option("--list", callback=_print_checks, is_eager=True, help="Print all checks and their bars.")
]


@app.command()
def verify(
    model: Annotated[Path | None, typer.Argument(help="Trained potential (*.safetensors).")] = None,
    structures: Annotated[
        Path | None, typer.Option(help="Yours, in any file that ASE reads; otherwise some of the training.")
    ] = None,
    level: Annotated[Literal["quick", "full"], typer.Option(help="A minute, or all there is.")] = "quick",
    long_ps: Annotated[float, typer.Option(min=1.0, help="Length of the long runs of level full, ps.")] = 100.0,
    calculator: Annotated[
        str | None, typer.Option(metavar="MODULE:NAME", help="Judge any ASE calculator instead; its code is run.")
    ] = None,
    elements: Annotated[str | None, typer.Option(help="Of the calculator, such as H,C,O.")] = None,
    attach: Attach = False,
    json: Annotated[Path | None, typer.Option(help="Write the certificate, such as verify.json.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page, such as verify.html.")] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    _list: ListChecks = False,
) -> None:
    """Check that a potential obeys physics; exit status 1 if a check fails."""
    from mlpot.atomic_files import check_places
    from mlpot.certificate.run import certify
    from mlpot.html.certificate import write_page
    from mlpot.model_file import attach_certificate

    if (model is None) == (calculator is None) or (attach and model is None):
        raise ValueError("Give either the file of a model or --calculator; --attach needs the file.")
    check_places(json, html)
    if calculator is not None:
        sys.path.insert(0, "")  # modules of the folder where the user stands
    certificate = certify(
        model,
        structures,
        level=level,
        calculator=calculator,
        elements=elements,
        device=device,
        dtype=dtype,
        long_ps=long_ps,
        tell=(lambda line: print(line, file=sys.stderr)) if level == "full" else (lambda line: None),
    )
    print_certificate(certificate)
    if json is not None:
        certificate.write(json)
    if html is not None:
        write_page(certificate.as_dict(), html)
    if attach and model is not None:
        attach_certificate(model, certificate.as_dict())
        console.print(f"Attached to {model}", soft_wrap=True)
    if not certificate.passed:
        raise typer.Exit(1)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a training, an evaluation or an MD run.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page; report.html in the folder by default.")
    ] = None,
) -> None:
    """Write a page on a run: one file, to look at without a network, to keep and to pass on."""
    from mlpot.html.run import write_report

    with working("drawing the page"):
        written = write_report(run, output)
    console.print(f"Written to {written}", soft_wrap=True)


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"


def _show_warning(message: Warning | str, category: type[Warning], *where: object, **_: object) -> None:
    """One line, without the place in our code."""
    print(f"mlpot: {category.__name__}: {message}", file=sys.stderr)


def main() -> None:
    """Run the command; errors that a user can mend are one line, all others keep their traceback."""
    warnings.showwarning = _show_warning
    try:
        check_quotes(sys.argv[1:])
        app()
    except StoppedError as stopped:
        print(f"mlpot: {stopped}", file=sys.stderr)
        sys.exit(stopped.exit_code)
    except BrokenPipeError:  # whoever read the output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError, MemoryError) as error:
        if "--traceback" in sys.argv:
            raise
        sys.exit(f"mlpot: {_in_words(error)}")


def _in_words(error: ValueError | OSError | MemoryError) -> str:
    """The message of an error; those of the system name the file first."""
    if isinstance(error, MemoryError):
        return f"There is not enough memory ({error}). Take fewer structures or atoms at once, or smaller ones."
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}. Give another file, or mend its place."
    return str(error)
