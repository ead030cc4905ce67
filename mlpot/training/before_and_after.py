"""Errors of a model before and after a training that starts from it, on the same structures."""

from __future__ import annotations

from collections.abc import Mapping

from mlpot.potential import Potential
from mlpot.training.loaders import Batches
from mlpot.training.outputs import errors, predict_all

Errors = dict[str, float]
JUDGED = ("validation", "test")


def judge(potential: Potential, sets: Mapping[str, Batches]) -> dict[str, Errors]:
    """Errors of a frozen potential on the validation set and, if there is one, the test set."""
    found = {}
    for name in JUDGED:
        if name in sets:
            predicted, reference, _, n_atoms = predict_all(potential, sets[name])
            found[name] = errors(predicted, reference, n_atoms)
    return found


def table(before: Mapping[str, Errors], after: Mapping[str, Errors] | None = None) -> list[str]:
    """A line for each error: before the first step and, if that is known, after the last."""
    lines = [f"{'':44s}{'start':>12s}" + ("" if after is None else f"{'end':>12s}")]
    for name, found in before.items():
        for key in measured(found):
            quantity, _, unit = key.replace("_mae_", " MAE, ").replace("_rmse_", " RMSE, ").partition(", ")
            label = f"{name}: {quantity}, {unit.replace('_per_', '/').replace('A3', 'Å³').replace('/A', '/Å')}"
            end = "" if after is None else f"{after[name][key]:12.4g}"
            lines.append(f"{label:44s}{found[key]:12.4g}{end}")
    return lines


def worse(before: Mapping[str, Errors], after: Mapping[str, Errors]) -> list[str]:
    """The errors that are larger after the training than before."""
    return [
        f"{name} {key} {before[name][key]:.4g} -> {after[name][key]:.4g}"
        for name in before
        for key in measured(before[name])
        if "_mae_" in key and key != "energy_mae_meV" and after[name][key] > before[name][key]
    ]


def measured(found: Errors) -> list[str]:
    """The errors of a table of errors, without its counts."""
    return [key for key in found if "_mae_" in key or "_rmse_" in key]
