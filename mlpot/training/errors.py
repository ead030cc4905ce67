"""Errors of a potential on a set, in the units in which they are quoted."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mlpot.forces import predict
from mlpot.graph import AtomGraph, Properties, collate_properties
from mlpot.potential import Potential


def predict_all(
    potential: Potential, batches: Iterable[tuple[AtomGraph, Properties]]
) -> tuple[Properties, Properties, Tensor]:
    """Predictions and labels of all batches, and the number of atoms of each structure, on the CPU."""
    predicted, reference, n_atoms = [], [], []
    for graph, labels in batches:
        graph = graph.to(potential.scale.device)
        predicted.append(predict(potential, graph).to("cpu"))
        reference.append(labels.to("cpu"))
        n_atoms.append(graph.batch.bincount(minlength=graph.n_graphs).cpu())
    return collate_properties(predicted), collate_properties(reference), torch.cat(n_atoms)


def errors(predicted: Properties, reference: Properties, n_atoms: Tensor) -> dict[str, float]:
    """MAE and RMSE in meV, meV/atom, meV/Å and meV/Å³, of the labels that are there."""
    quantities = {
        "energy_{}_meV": (predicted.energy, reference.energy),
        "energy_{}_meV_per_atom": (predicted.energy / n_atoms, reference.energy / n_atoms),
        "forces_{}_meV_per_A": (predicted.forces, reference.forces),
        "stress_{}_meV_per_A3": (predicted.stress, reference.stress),
    }
    table: dict[str, float] = {"n_structures": len(n_atoms)}
    for name, (value, label) in quantities.items():
        known = 1e3 * (value - label)[~label.isnan()]
        if len(known):
            table[name.format("mae")] = known.abs().mean().item()
            table[name.format("rmse")] = known.square().mean().sqrt().item()
    return table
