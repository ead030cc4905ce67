"""What a training learns from, told before its first step and kept with its results: labels used, references."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from mlpot.data.sources.report import MODEL
from mlpot.extrapolation import UNTOLD
from mlpot.training.messages import Messages
from mlpot.training.reference_energies import OF_SET, unseen_directions
from mlpot.training.splits import Baseline, Part, Parts

OTHER_COMPOSITIONS = (
    "energies of compositions that are no sum of those in the training set are not told by it: where such are to "
    "be compared, as for energies of adsorption or formation, add structures of each"
)


def told(parts: Parts, start: Baseline) -> list[str]:
    """Lines for the user: labels of each part, and where each reference energy is from."""
    lines = []
    for name, part in _named(parts).items():
        for path, n in part.labels_by_file().items():
            plane = n["stress_in_plane"]
            lines.append(
                f"{name}: {path}: {n['structures']} structures, {n['energy']} energies, {n['forces']} forces on "
                f"atoms, {n['stress']} stresses{f' ({plane} along periodic directions alone)' if plane else ''}"
            )
        for path, n_left in zip(part.data.paths, part.data.n_stress_left_out, strict=True):
            if n_left and name == "train":
                lines.append(f"{path}: {n_left} stresses left out: without a volume, or zero of slabs and wires")
    whole = parts.train.data
    if n_ions := int((whole.is_isolated & np.isfinite(whole.energy) & np.isnan(whole.reference)).sum()):
        lines.append(f"{whole.path}: {n_ions} isolated atoms with a charge, whose energies are no references")
    return (
        lines
        + _weights_told(parts.train)
        + [
            f"reference energy of {chemical_symbols[z]:2s} {energy:14.4f} eV, {start.sources[z]}"
            for z, energy in start.reference_energies.items()
        ]
        + ([OTHER_COMPOSITIONS] if _untold(parts.train, start) else [])
    )


def _weights_told(train: Part) -> list[str]:
    """Lines on the weights of the frames of each family; none where all frames count alike."""
    if train.weights is None:
        return []
    own, families = train.weights[train.indices], train.data.family[train.indices]
    lines = []
    for k in np.unique(families):
        of = own[families == k]
        name = "without a family" if k < 0 else f"of family {train.data.families[k]}"
        lines.append(f"weights in the loss: {len(of)} frames {name}: {of.min():.4g} to {of.max():.4g}")
    return lines


def _weight_facts(train: Part) -> dict[str, Any]:
    if train.weights is None:
        return {}
    own, families = train.weights[train.indices], train.data.family[train.indices]
    names = {int(k): train.data.families[k] if k >= 0 else "" for k in np.unique(families)}
    return {
        "loss_weights": {
            name: {"n_frames": int((families == k).sum()), "mean": float(own[families == k].mean())}
            for k, name in names.items()
        }
    }


def tell_of_states(part: Part, tell: Messages) -> None:
    """Warn of total charges and spins in the structures: potentials do not see them."""
    sample = part.sample()
    states = Counter(f"charge {frame.charge:g}, spin {frame.spin:g}" for frame in sample)
    if len(states) > 1 or any(np.isfinite(frame.charge) and frame.charge for frame in sample):
        told = "; ".join(f"{n} of {state}" for state, n in sorted(states.items())).replace("nan", "unknown")
        tell.warn(
            f"Structures carry a total charge or spin ({told}), which a potential of "
            "mlpot does not see: it learns the mean energy of equal structures in two states. Train on one state."
        )


def tell_of_potentials(part: Part, tell: Messages) -> None:
    """Warn of files whose labels a potential computed: what learns them repeats its errors."""
    for path, made in zip(part.data.paths, part.data.potentials, strict=True):
        if made:
            tell.warn(
                f"Labels of {path}, or some, are those of a potential ({MODEL} {made[:12]}), and what learns them "
                f"learns its errors. If a reference method was meant: mlpot data label {path} labeled.h5."
            )


def facts(parts: Parts, start: Baseline) -> dict[str, Any]:
    """The same for metrics.json and the card of the model."""
    return {
        "labels": parts.train.n_labels(),
        **_weight_facts(parts.train),
        "labels_by_file": {name: part.labels_by_file() for name, part in _named(parts).items()},
        "reference_energies": {
            chemical_symbols[z]: {"energy_eV": energy, "source": start.sources[z]}
            for z, energy in start.reference_energies.items()
        },
        **_untold(parts.train, start),
    }


def _untold(train: Part, start: Baseline) -> dict[str, Any]:
    """Sums of energies of bound elements that the compositions do not tell, if they are energies' only teachers.

    Energies of isolated atoms tell nothing of what binds them, and an earlier model may know more compositions.
    """
    data = train.data
    bound = train.indices[np.isfinite(data.energy[train.indices]) & ~data.is_isolated[train.indices]]
    if not len(bound) or not OF_SET.issuperset(start.sources.values()):
        return {}
    directions = unseen_directions(data.counts(bound, train.elements))
    symbols = [chemical_symbols[z] for z in train.elements]
    found = [dict(zip(symbols, direction.tolist(), strict=True)) for direction in directions]
    return {UNTOLD: found} if found else {}


def _named(parts: Parts) -> dict[str, Part]:
    test = {} if parts.test is None else {"test": parts.test}
    return {"train": parts.train, "validation": parts.validation, **test}
