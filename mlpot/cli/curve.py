"""The `mlpot curve` command; as in `cli`, imports stand inside the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlpot.cli.data import Overwrite, console
from mlpot.cli.options import Block, By, Overrides, numbers_in
from mlpot.cli.tables import print_study


def curve(
    recipe: Annotated[Path, typer.Argument(help="YAML file; its epochs are those of the largest size.")],
    overrides: Overrides = None,
    sizes: Annotated[str, typer.Option(help="Numbers of training frames, ascending.")] = "50,100,200,400",
    seeds: Annotated[int, typer.Option(help="Trainings of each size, on other frames from other weights.")] = 3,
    by: By = "block",
    block: Block = None,
    target: Annotated[
        float | None, typer.Option(help="Forces MAE, meV/Å: tells the number of frames for it.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on; more sizes and seeds may be given.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Error against number of training frames: one training for each size and seed, and the slope through them."""
    from mlpot.recipes import load_recipe
    from mlpot.studies.curve import curve as run
    from mlpot.studies.curve_summary import head_and_rows, slopes_told
    from mlpot.training.recipe import Recipe

    wanted = load_recipe(Recipe, recipe, overrides or ())
    numbers = [int(n) for n in numbers_in("--sizes", sizes, "50,100,200,400", whole=True)]
    found = run(wanted, numbers, seeds, by=by, block=block, target=target, resume=resume, overwrite=overwrite)
    print_study("Errors on the test set, mean ± standard deviation over seeds", *head_and_rows(found))
    told = [*slopes_told(found["laws"]), *found["notes"]]
    told += [] if found["target"] is None else [found["target"]["told"]]
    told.append(f"Written: {wanted.training.directory}/curve.json, curve.png; a page: mlpot report")
    for line in told:
        console.print(line, markup=False, soft_wrap=True, highlight=False)
