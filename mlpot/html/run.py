"""The page of a run, of which kind the files in its folder tell."""

from __future__ import annotations

from pathlib import Path

from mlpot.atomic_files import check_reports, write_whole
from mlpot.html.curve import curve_page
from mlpot.html.curves import curves_page
from mlpot.html.evaluation import evaluation_page
from mlpot.html.files import RunError
from mlpot.html.md import md_page
from mlpot.html.pareto import pareto_page
from mlpot.html.training import training_page

PAGES = {
    "curve.json": curve_page,
    "curves.json": curves_page,
    "pareto.json": pareto_page,
    "metrics.json": training_page,
    "evaluation.json": evaluation_page,
    "md.json": md_page,
}
"""The makers of pages by the file that a run writes last; a study writes its own from the start."""


def write_report(run: Path, output: Path | None = None) -> Path:
    """Write the page of a training, a study, an evaluation or a run of molecular dynamics, and tell where it is.

    Args:
        run: the folder that it left; paths in its recipe are seen from where the command runs.
        output: the page; report.html in the folder by default.

    Raises:
        FileNotFoundError: there is no such folder.
        RunError: there is no run in it, it has not finished, or its files are damaged.
        ValueError: as the readers of models, trajectories and recipes.
    """
    path = output or run / "report.html"
    if not run.is_dir():
        raise FileNotFoundError(f"There is no folder {run}. Give that of a training, an evaluation or an MD run.")
    check_reports(path)
    for name, make in PAGES.items():
        if (run / name).is_file():
            text = make(run)
            break
    else:
        raise RunError(_why_not(run))
    write_whole(path, text.encode())
    return path


def _why_not(run: Path) -> str:
    if (run / "splits.json").is_file():
        return (
            f"The training in {run} has not finished. Wait for it, or continue it: "
            f"mlpot train {run / 'recipe.yaml'} --resume"
        )
    if (run / "trajectory.h5").is_file():
        return f"The run in {run} has not ended. Wait for it, or continue it: mlpot md RECIPE --continue"
    if replicas := sorted(folder for folder in run.glob("replica_*") if (folder / "md.json").is_file()):
        return (
            f"{run} holds {len(replicas)} replicas, each a run of its own. Give the folder of one: {replicas[0]}"
        )
    return (
        f"{run} holds no run: there is no {', '.join(PAGES)} in it. Give the directory of a training, the "
        "output of mlpot evaluate --output, or the output of mlpot md."
    )
