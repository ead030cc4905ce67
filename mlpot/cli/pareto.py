"""The `mlpot pareto` command; as in `cli`, imports stand inside the command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlpot.cli.data import Overwrite, console
from mlpot.cli.options import Block, By, Overrides, numbers_in, pairs
from mlpot.cli.tables import print_study

if TYPE_CHECKING:
    from mlpot.studies.pareto_summary import Budget

Data = Annotated[Path, typer.Argument(help="Labeled structures, H5MD; a tenth validates and a tenth tests.")]
Minutes = Annotated[str, typer.Option(help="Of training, ascending; each backbone is trained for each.")]
Backbones = Annotated[
    str | None, typer.Option(help="Networks that are compared; without it three, which are told.")
]
BudgetText = Annotated[
    str | None,
    typer.Option("--budget", help="For which one is picked: minutes=5,microseconds=20 (per atom and step)."),
]
Seeds = Annotated[int, typer.Option(help="Trainings of each backbone for each time.")]
Test = Annotated[Path | None, typer.Option(help="A test set; then only the validation set is drawn.")]
SplitSeed = Annotated[int, typer.Option(min=0, help="Draws the sets.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of all trainings.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on; more minutes, backbones and seeds may be given.")]


def pareto(
    data: Data,
    overrides: Overrides = None,
    minutes: Minutes = "1,2,4",
    backbones: Backbones = None,
    budget: BudgetText = None,
    seeds: Seeds = 1,
    test: Test = None,
    by: By = "block",
    block: Block = None,
    split_seed: SplitSeed = 0,
    output: Output = Path("runs/pareto"),
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Which network for which budget: error against minutes of training and cost in use, on your data."""
    from mlpot.models.presets import FIRST
    from mlpot.studies.pareto import pareto as run
    from mlpot.studies.pareto_plan import Question
    from mlpot.studies.pareto_table import short_table, told

    question = Question(
        data=str(data),
        test=None if test is None else str(test),
        directory=output,
        backbones=FIRST if backbones is None else tuple(name.strip() for name in backbones.split(",")),
        minutes=tuple(numbers_in("--minutes", minutes, "1,2,4")),
        n_seeds=seeds,
        overrides=tuple(overrides or ()),
        by=by,
        block=block,
        seed=split_seed,
    )
    found = run(question, _budget(budget), resume=resume, overwrite=overwrite)
    print_study(*short_table(found))
    for line in [
        *found["notes"],
        *told(found),
        f"Written: {output}/pareto.json, .csv, .png; a page: mlpot report",
    ]:
        console.print(line, markup=False, soft_wrap=True, highlight=False)


def _budget(text: str | None) -> Budget:
    """What --budget says."""
    from mlpot.studies.pareto_summary import Budget

    limits = pairs(text.split(",")) if text else {}
    if unknown := limits.keys() - {"minutes", "microseconds"}:
        raise ValueError(f"--budget {text}: there is no {', '.join(unknown)}. Write minutes=5,microseconds=20.")
    found = {}
    for name, number in limits.items():
        first, *others = [*numbers_in(f"--budget {name}", number, f"{name}=5"), None]
        if first is None or others != [None]:
            raise ValueError(f"--budget {text}: give one number of {name}. Write minutes=5,microseconds=20.")
        found[name] = first
    return Budget(**found)
