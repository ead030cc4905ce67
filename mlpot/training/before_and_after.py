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


def table(found: Mapping[str, Errors]) -> list[str]:
    """A line for each error, with a column for each set; "-" where a set has none of these labels."""
    keys = dict.fromkeys(key for errors_of_set in found.values() for key in measured(errors_of_set))
    lines = [f"{'':28s}" + "".join(f"{name:>12s}" for name in found)]
    for key in keys:
        shown = (f"{of_set[key]:12.4g}" if key in of_set else f"{'-':>12s}" for of_set in found.values())
        lines.append(f"{_label(key):28s}" + "".join(shown))
    return lines


def compared(before: Mapping[str, Errors], after: Mapping[str, Errors]) -> list[str]:
    """A line for each error of each set, before the first step and after the last."""
    lines = [f"{'':44s}{'start':>12s}{'end':>12s}"]
    for name, found in before.items():
        lines += [
            f"{f'{name}: {_label(key)}':44s}{found[key]:12.4g}{after[name][key]:12.4g}" for key in measured(found)
        ]
    return lines


def _label(key: str) -> str:
    """The key of an error in words, such as forces MAE, meV/Å."""
    quantity, _, unit = key.replace("_mae_", " MAE, ").replace("_rmse_", " RMSE, ").partition(", ")
    return f"{quantity}, {unit.replace('_per_', '/').replace('A3', 'Å³').replace('/A', '/Å')}"


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
