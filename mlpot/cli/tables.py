"""Tables of errors and of checks on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from mlpot.cli.data import console, new_table

if TYPE_CHECKING:
    from mlpot.certificate.verify import Certificate
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
        names = {n: told for n, told in names.items() if any(n in e for e in evaluation.by_group.values())}
        table = new_table("MAE by group", "", *names.values())
        for group, errors in evaluation.by_group.items():
            table.add_row(group, *(f"{errors[name].mae:.4g}" if name in errors else "" for name in names))
        console.print(table)
    if evaluation.outside:
        console.print(evaluation.outside, markup=False, soft_wrap=True)


def _print_errors(title: str, errors: dict[str, Error]) -> None:
    if errors:
        table = new_table(title, "", "MAE", "RMSE", "bias", "worst", "numbers")
        for name, e in errors.items():
            table.add_row(name, *(f"{x:.4g}" for x in (e.mae, e.rmse, e.bias, e.worst)), str(e.n))
        console.print(table)


def print_study(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table of many trainings."""
    table = new_table(title, *head)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_certificate(certificate: Certificate) -> None:
    """What `mlpot verify` found."""
    table = new_table(
        f"{certificate.subject}, {certificate.precision}", "", "check", "figure", "bar", "what, where"
    )
    for column in (table.columns[1], table.columns[4]):  # words
        column.justify, column.overflow = "left", "fold"
    for c in certificate.checks:
        mark = "[green]pass[/]" if c.passed else "[red]FAIL[/]"
        told = escape(" ".join(filter(None, (f"{c.what}, {c.where}".strip(", "), c.note and f"({c.note})"))))
        table.add_row(f"{c.id} {mark}", c.name, f"{c.figure:.2g}", f"{c.bar:.2g}", told)
    console.print(table)
    for id, why in certificate.not_applicable.items():
        console.print(f"{id} does not apply: {why}", markup=False, soft_wrap=True)
    for why in dict.fromkeys(certificate.not_run.values()):
        what = ", ".join(id for id, reason in certificate.not_run.items() if reason == why)
        console.print(f"Not run here: {what}: {why}", markup=False, soft_wrap=True)
    n = sum(c.passed for c in certificate.checks)
    verdict = "passed" if certificate.passed else "NOT passed"
    console.print(
        f"{verdict}: {n} of {len(certificate.checks)} checks, {certificate.seconds:.0f} s", highlight=False
    )
