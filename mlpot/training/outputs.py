"""The files that a training writes: the model with its card, its errors, its pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from mlpot.atomic_files import beside_results, write_whole
from mlpot.data.h5md import Frame
from mlpot.equivariance import CARD, rotation_facts
from mlpot.error_table import MILLI, error_of, in_periodic_axes
from mlpot.extrapolation import Domain, domain_of
from mlpot.figures.parity import Compared, compare, plot_parity, write_compared
from mlpot.figures.training import logs_of, plot_learning_curve
from mlpot.forces import predict
from mlpot.graph import AtomGraph, Properties, collate_properties, edge_vectors
from mlpot.kernels.reductions import sum_at_centers
from mlpot.model_file import save_potential
from mlpot.potential import Potential
from mlpot.stages.radial import PolynomialEnvelope
from mlpot.terms.core_repulsion import TrainingLimits
from mlpot.training.loaders import Batches
from mlpot.training.recipe import Recipe
from mlpot.training.splits import Part, Parts

Batch = tuple[AtomGraph, Properties]
Predicted = tuple[Properties, Properties, Tensor, Tensor]  # what `predict_all` gives back
MOST_EXAMPLES = 4
MOST_ROTATED, MOST_ROTATED_ATOMS = 8, 2000


def write_outputs(
    directory: Path,
    potential: Potential,
    recipe: Recipe,
    parts: Parts,
    sets: dict[str, Batches],
    facts: dict[str, Any],
    start: Potential | None = None,
    validated: Predicted | None = None,
) -> dict[str, Any]:
    """Evaluate a frozen potential on validation and test sets, write everything, and give back the metrics.

    Args:
        sets: "train", "validation" and, if there is one, "test".
        facts: more entries of the metrics.
        start: the potential before the first step, if that was a trained one.
        validated: predictions of the validation set by what judges it, `facts["validation_set_of"]`, if that is
            not the potential.
    """
    limits = training_limits(sets["train"], potential.cutoff)
    untrained = start is not None and not facts["epochs"]  # then it is the start, whatever the data are
    if recipe.model.core_repulsion and not untrained:  # validation structures too are seen as in training
        everywhere = training_limits(chain(sets["train"], sets["validation"]), potential.cutoff)
        potential.add_core_repulsion(everywhere, start)  # before it is evaluated
    metrics = dict(facts)
    for name in [n for n in ("validation", "test") if n in sets]:
        if name == "validation" and validated is not None:
            of, judged = f"{name} set, {facts['validation_set_of']}", validated
        else:
            of, judged = f"{name} set", predict_all(potential, sets[name])
        predicted, reference, numbers, n_atoms = judged
        metrics[name] = errors(predicted, reference, n_atoms)
        compared = compare(predicted, reference, numbers, n_atoms, of=of)
    about_rotations = rotation_facts(potential, parts.to_rotate)
    if about_rotations is not None:
        metrics[CARD] = {key: value for key, value in about_rotations.items() if key != "structures"}
    card = card_of(recipe, parts, limits, metrics)
    if about_rotations is not None:
        card[CARD] = about_rotations
    if start is not None:
        card["start"] = facts["start"]
        card["ranges"] = ranges_of_both(card["ranges"], facts["start"].get("ranges"))
    if not untrained or potential.domain is None:
        potential.domain = _domain(potential, sets["train"], parts.train.elements, start)
    save_potential(potential, directory / "model.safetensors", card)
    write_whole(directory / "metrics.json", f"{json.dumps(metrics, indent=2)}\n".encode())
    _draw(directory, compared, recipe.model.backbone)
    return metrics


def _draw(directory: Path, compared: Compared, backbone: str) -> None:
    """The pictures, and what pages make them of: last, as a training is not lost with them."""
    with beside_results(directory / "parity.json"):
        write_compared(compared, directory / "parity.json")
    with beside_results(directory / "parity.png"):
        plot_parity(compared, directory / "parity.png", title=f"{backbone}, {compared.of}")
    with beside_results(directory / "learning_curve.png"):
        plot_learning_curve(logs_of(directory), directory / "learning_curve.png", title=backbone)


def _domain(potential: Potential, train: Batches, elements: list[int], start: Potential | None) -> Domain:
    """That of the training structures; of elements without any, that of the earlier training."""
    graphs = (graph.to(potential.energy_scale.device) for graph, _ in train)
    domain = domain_of(potential.atom_features, potential.element_index, len(potential.elements), graphs)
    if start is not None and start.domain is not None:
        unseen = {z: k for k, z in enumerate(start.elements) if z not in elements}
        keep_domain(domain, start.domain, {potential.elements.index(z): k for z, k in unseen.items()})
    return domain


def card_of(recipe: Recipe, parts: Parts, limits: TrainingLimits, metrics: dict[str, Any]) -> dict[str, Any]:
    """What a model's file says of its training."""
    return {
        "training_set": parts.train.data.path,
        "training_set_hash": parts.train_hash,
        "labels": parts.train.n_labels(),
        "ranges": ranges(parts.train, limits),
        "examples": parts.examples,
        "metrics": metrics,
        "recipe": recipe.model_dump(mode="json"),
    }


def keep_domain(domain: Domain, former: Domain, rows: dict[int, int]) -> None:
    """Copy the rows of elements without new data from the domain of the earlier training."""
    for new, old in ((domain.mean, former.mean), (domain.measure, former.measure)):
        for place, row in rows.items():
            new[place] = old[row].to(new.device, new.dtype)


def predict_all(potential: Potential, batches: Iterable[Batch]) -> Predicted:
    """Predictions and labels of all batches, atomic numbers, and the number of atoms of each, on the CPU.

    Stresses of slabs and wires are in their own axes (`in_periodic_axes`).
    """
    predicted: list[Properties] = []
    reference: list[Properties] = []
    numbers, n_atoms = [], []
    for graph, labels in batches:
        graph = graph.to(potential.energy_scale.device)
        out = predict(potential, graph)
        for found, kept in ((out, predicted), (labels.to(graph.positions.device), reference)):
            own = in_periodic_axes(found.stress, graph.cell, graph.pbc)
            kept.append(Properties(found.energy, found.forces, own).to("cpu"))
        numbers.append(graph.numbers.cpu())
        n_atoms.append(graph.batch.bincount(minlength=graph.n_graphs).cpu())
    return collate_properties(predicted), collate_properties(reference), torch.cat(numbers), torch.cat(n_atoms)


def errors(predicted: Properties, reference: Properties, n_atoms: Tensor) -> dict[str, float]:
    """MAE and RMSE in meV, meV/atom, meV/Å and meV/Å³, of the labels that are there, and how many were left out.

    Structures without energy, atoms without forces and structures without stress are left out.
    """
    quantities = {
        "energy_{}_meV": (predicted.energy, reference.energy),
        "energy_{}_meV_per_atom": (predicted.energy / n_atoms, reference.energy / n_atoms),
        "forces_{}_meV_per_A": (predicted.forces, reference.forces),
        "stress_{}_meV_per_A3": (predicted.stress, reference.stress),
    }
    table: dict[str, float] = {"n_structures": len(n_atoms)}
    for name, (value, label) in quantities.items():
        known = ~label.isnan()
        if known.any():
            error = error_of(MILLI * (value - label)[known])
            table[name.format("mae")], table[name.format("rmse")] = error.mae, error.rmse
        if not name.endswith("meV"):
            lacking = ~known if known.dim() == 1 else ~known.flatten(1).any(dim=1)
            table[f"{name.partition('_')[0]}_left_out"] = int(lacking.sum())
    return table


def ranges(train: Part, limits: TrainingLimits) -> dict[str, Any]:
    """The ranges of the training structures, outside of which a potential extrapolates."""
    data, frames = train.data, train.indices
    per_atom = (data.energy / data.n_atoms)[frames]
    per_atom = per_atom[np.isfinite(per_atom)]
    sizes = data.n_atoms[frames]
    return {
        "energy_per_atom_eV": [float(per_atom.min()), float(per_atom.max())] if len(per_atom) else None,
        "largest_force_component_eV_per_A": float(data.largest_force[frames].max()),
        "n_atoms": [int(sizes.min()), int(sizes.max())],
        "nearest_distance_A": {
            "-".join(chemical_symbols[z] for z in pair): round(d, 4) for pair, d in limits.distance.items()
        },
        "fewest_neighbors": {chemical_symbols[z]: round(n, 4) for z, n in limits.coordination.items()},
    }


def ranges_of_both(own: dict[str, Any], former: Mapping[str, Any] | None) -> dict[str, Any]:
    """Ranges of a training and of that from which it started, as its weights and core repulsion are of both.

    Energies are those of the training alone, since reference energies may be others.
    """
    both = dict(own)
    for key in ("nearest_distance_A", "fewest_neighbors"):
        before = (former or {}).get(key) or {}
        both[key] = {
            name: min(own[key].get(name, np.inf), before.get(name, np.inf)) for name in {**before, **own[key]}
        }
    key = "largest_force_component_eV_per_A"
    both[key] = max(own[key], (former or {}).get(key) or 0.0)
    sizes = [*own["n_atoms"], *((former or {}).get("n_atoms") or [])]
    both["n_atoms"] = [min(sizes), max(sizes)]
    return both


def examples(train: Part) -> list[dict[str, Any]]:
    """A few small structures with small forces that together hold every element, for the certificate.

    Of molecules, slabs and crystals each kind has its own, JSON-able, positions to 1e-6 Å.
    """
    chosen: list[Frame] = []
    held: dict[tuple[bool, ...], set[int]] = {}
    for frame in sorted(train.sample(), key=lambda f: (len(f.numbers), np.nanmax(np.abs(f.forces), initial=0.0))):
        here = held.setdefault(tuple(frame.pbc.tolist()), set())
        if len(chosen) < MOST_EXAMPLES and not set(frame.numbers.tolist()) <= here:
            here |= set(frame.numbers.tolist())
            chosen.append(frame)
    return [_for_a_card(frame) | {"positions": frame.positions.round(6).tolist()} for frame in chosen]


def to_rotate(validation: Part, potential: Potential) -> list[dict[str, Any]]:
    """A few validation structures, evenly spread, whose rotated copies tell how much of rotations is learned.

    None for a network that rotates with its structures by construction.
    """
    if potential.backbone.equivariant:
        return []
    matter = validation.indices[validation.data.n_atoms[validation.indices] > 1]
    chosen: list[dict[str, Any]] = []
    n_atoms = 0
    for frame in validation.data.frames(matter[:: -(-len(matter) // MOST_ROTATED) or 1]):
        n_atoms += len(frame.numbers)
        if chosen and n_atoms > MOST_ROTATED_ATOMS:
            break
        chosen.append(_for_a_card(frame))
    return chosen


def _for_a_card(frame: Frame) -> dict[str, Any]:
    return {key: getattr(frame, key).tolist() for key in ("numbers", "positions", "cell", "pbc")}


def training_limits(batches: Iterable[Batch], cutoff: float) -> TrainingLimits:
    """The shortest distances and lowest coordinations in batches of structures, within a cutoff in Å."""
    n = len(chemical_symbols)
    nearest = torch.full((n * n,), torch.inf, dtype=torch.float64)
    fewest, envelope = nearest[:n].clone(), PolynomialEnvelope(cutoff)
    for graph, _ in batches:
        graph = graph.to("cpu")
        z_i, z_j = (graph.numbers[k] for k in (graph.edges.center, graph.edges.neighbor))
        pair = torch.minimum(z_i, z_j) * n + torch.maximum(z_i, z_j)
        d = edge_vectors(graph).norm(dim=-1)
        nearest.scatter_reduce_(0, pair, d, "amin")
        coordination, bonded = sum_at_centers(envelope(d), graph.edges), graph.edges.row_ptr.diff() > 0
        fewest.scatter_reduce_(0, graph.numbers[bonded], coordination[bonded], "amin")
    pairs, elements = (x.isfinite().nonzero().flatten().tolist() for x in (nearest, fewest))
    return TrainingLimits(
        distance={(pair // n, pair % n): nearest[pair].item() for pair in pairs},
        coordination={z: fewest[z].item() for z in elements},
    )
