"""The `mlpot curves` command; as in `cli`, imports stand inside the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mlpot.cli.data import console
from mlpot.cli.tables import print_study


def curves(
    directories: Annotated[list[Path], typer.Argument(help="Folders of mlpot curve or of averaged curves.")],
    against: Annotated[
        str | None, typer.Option(help="Name of the folder to which the others are compared; the first one.")
    ] = None,
    error: Annotated[
        Literal["forces", "energy"], typer.Option(help="Mean absolute error that is compared.")
    ] = "forces",
    target: Annotated[
        float | None, typer.Option(help="Forces MAE, meV/Å: tells the number of frames of each for it.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of curves.json and .png.")] = Path(
        "runs/curves"
    ),
) -> None:
    """Do curves of several networks differ in slope, or by a factor? Compared frame by frame and seed by seed."""
    from mlpot.atomic_files import beside_results
    from mlpot.figures.curves import plot_curves
    from mlpot.studies.curves import ERRORS, compare, head_and_rows, told, write_comparison

    found = compare(directories, against=against, error=ERRORS[error], target=target)
    write_comparison(found, output)
    with beside_results(output / "curves.png"):
        plot_curves(found, output / "curves.png")
    title = f"{error} MAE on the test set by number of training frames; factor to {found['against']}"
    print_study(title, *head_and_rows(found))
    written = f"Written: {output}/curves.json, curves.png; a page: mlpot report {output}"
    for line in [*told(found), *found["notes"], written]:
        console.print(line, markup=False, soft_wrap=True, highlight=False)
