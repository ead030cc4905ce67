"""Tables of errors on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlpot.cli.data import console, new_table

if TYPE_CHECKING:
    from mlpot.error_table import Error
    from mlpot.evaluate import Evaluation


def print_evaluation(evaluation: Evaluation, names: dict[str, str]) -> None:
    """What `mlpot evaluate` found, by the names of its rows."""
    missing = ", ".join(f"{n} {what}" for what, n in evaluation.missing.items() if n) or "none"
    console.print(f"{evaluation.n_frames} structures, {evaluation.n_atoms} atoms; missing labels: {missing}")
    _print_errors("Errors", {names[name]: error for name, error in evaluation.overall.items()})
    _print_errors("Forces by element, meV/Å", evaluation.forces_by_element)
    _print_errors("Forces, meV/Å, by reference |F| in eV/Å", evaluation.forces_by_magnitude)
    if evaluation.by_group:
        table = new_table("MAE by group", *names.values())
        for group, errors in evaluation.by_group.items():
            table.add_row(group, *(f"{errors[name].mae:.4g}" if name in errors else "" for name in names))
        console.print(table)


def _print_errors(title: str, errors: dict[str, Error]) -> None:
    if errors:
        table = new_table(title, "MAE", "RMSE", "bias", "worst", "numbers")
        for name, e in errors.items():
            table.add_row(name, *(f"{x:.4g}" for x in (e.mae, e.rmse, e.bias, e.worst)), str(e.n))
        console.print(table)
