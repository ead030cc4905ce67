"""`mlpot average`; as in `cli`, imports stand inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mlpot.cli.data import Overwrite, console
from mlpot.cli.progress import working
from mlpot.cli.tables import print_study


def average(
    model: Annotated[Path, typer.Argument(help="Trained potential (*.safetensors), or the folder of a curve.")],
    destination: Annotated[Path, typer.Argument(help="File to write (*.safetensors), or folder of the curve.")],
    group: Annotated[
        str, typer.Option(help="octahedral (24 rotations), icosahedral (60), or random.")
    ] = "icosahedral",
    reflections: Annotated[
        bool, typer.Option("--reflections", help="Copies that are inverted too, twice as many.")
    ] = False,
    rotations: Annotated[
        int | None, typer.Option(min=1, max=1024, help="How many random ones; 60 by default.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of random ones; 1 by default.")] = None,
    overwrite: Overwrite = False,
    resume: Annotated[bool, typer.Option("--resume", help="Of a curve: go on, also with more trainings.")] = False,
) -> None:
    """Average a potential over rotated copies of each structure, so that rotations change less, at that cost.

    Of a curve, every potential is averaged and judged on the curve's test set.
    """
    n_rotations, seed = _random_ones(group, rotations, seed)
    if model.is_dir():
        settings = {"over": group, "reflections": reflections, "n_rotations": n_rotations, "seed": seed}
        _average_curve(model, destination, settings, resume=resume, overwrite=overwrite)
        return
    if resume:
        raise ValueError(f"--resume: {model} is no folder of a curve. Leave it out.")
    from mlpot.averaging import average as run

    with working("comparing rotated copies"):
        found = run(
            model,
            destination,
            over=group,
            reflections=reflections,
            n_rotations=n_rotations,
            seed=seed,
            overwrite=overwrite,
        )
    lines = [f"Averaged over {found.n_copies} copies: it costs {found.n_copies} times as much as {model}"]
    if found.was_equivariant:
        lines.append("Rotated copies had one energy already: averaging over rotations changes nothing.")
    if found.before is not None:
        lines += [f"Before: {found.before}", f"After:  {found.after}", "Both are those of the weights in float64."]
    lines += [f"Mirror images {found.mirror_images}", f"Written to {destination}"]
    console.print("\n".join(lines), markup=False, soft_wrap=True, highlight=False)


def _random_ones(group: str, rotations: int | None, seed: int | None) -> tuple[int, int]:
    """How many random rotations, and their seed, which a finite group has not."""
    if group != "random" and (rotations, seed) != (None, None):
        raise ValueError(
            f"--rotations and --seed are of random rotations, and would do nothing to --group {group}. Leave them "
            "out, or write --group random."
        )
    return 60 if rotations is None else rotations, 1 if seed is None else seed


def _average_curve(
    source: Path, directory: Path, settings: dict[str, Any], *, resume: bool, overwrite: bool
) -> None:
    from mlpot.studies.averaged_curve import average_curve
    from mlpot.studies.curve_summary import head_and_rows, slopes_told

    with working("averaging and judging"):
        found = average_curve(source, directory, resume=resume, overwrite=overwrite, **settings)
    print_study("Errors of averages on the test set, mean ± standard deviation over seeds", *head_and_rows(found))
    for line in [*slopes_told(found["laws"]), *found["notes"], f"Written to {directory}"]:
        console.print(line, markup=False, soft_wrap=True, highlight=False)
