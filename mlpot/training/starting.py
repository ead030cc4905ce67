"""Starting from a trained model: what is kept, what is added for new elements, and which keys contradict it.

Constants come from the model, and so do weights; rows of weights that belong to an element are kept for elements
that the model knows. The directory of the run holds the potential from before the first step, so that a continued
run does not need the file of the model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray

from mlpot.data.check.survey import Ints
from mlpot.forces import predict
from mlpot.model_file import hash_of, load_potential, read_header, save_potential
from mlpot.models import AVERAGED, BACKBONES, COMMITTEE
from mlpot.models.backbone import Backbone
from mlpot.potential import Potential
from mlpot.recipes import RecipeError
from mlpot.terms.core_repulsion import CoreRepulsion
from mlpot.training.backbone_arguments import checked_arguments
from mlpot.training.in_memory import flatten
from mlpot.training.loaders import MemoryBatches
from mlpot.training.messages import Messages
from mlpot.training.outputs import training_limits
from mlpot.training.parameter_groups import element_rows, matching
from mlpot.training.recipe import ModelSection, Recipe
from mlpot.training.reference_energies import force_scales
from mlpot.training.splits import Baseline, Part, forces_by_atom
from mlpot.training.start_references import Reference, fitted_changes, known_references
from mlpot.training.trainer import FOLDER

START = f"{FOLDER}/start.safetensors"
BEFORE = "before the first step"  # in the card of that file
MADE_OF_OTHERS = {
    COMMITTEE: "a committee, and a training starts from one network, such as that in member_0 of its folder",
    AVERAGED: "averaged over rotated copies, and a training starts from the potential that it was made from",
}
MOST_FITTED = 2000  # structures suffice to fit reference energies
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Source:
    """A trained model from which a training starts, and its file."""

    path: str
    model: Potential  # frozen
    sha256: str  # of its weights
    is_kept: bool  # it is the run's own copy

    @property
    def arguments(self) -> dict[str, Any]:
        """All of the backbone's, defaults spelt out."""
        return checked_arguments(self.model.backbone_name, self.model.arguments)


def known_elements(source: Source | None) -> tuple[int, ...]:
    """Elements that a training knows before it sees its data."""
    return () if source is None else source.model.elements


def open_source(recipe: Recipe, directory: Path, *, resume: bool) -> Source | None:
    """The model from which a recipe starts, if it starts from one; a continued run has its own copy.

    Raises:
        FileNotFoundError, ModelFileError: as `model_file.load_potential`.
        RecipeError: its network is made of others, and not trained itself.
    """
    if recipe.model.start is None:
        return None
    is_kept = resume and (directory / START).exists()
    path = str(directory / START) if is_kept else recipe.model.start
    model = load_potential(path)
    if model.backbone_name not in BACKBONES:
        raise RecipeError(
            f"{path} is {MADE_OF_OTHERS[model.backbone_name]}. Give that as model.start, and make the same of the "
            "result if you wish."
        )
    return Source(path, model, hash_of(model.state_dict()), is_kept)


def completed(recipe: Recipe, source: Source) -> Recipe:
    """The recipe with the model's own backbone and constants.

    Raises:
        RecipeError: the recipe asks for others.
    """
    asked, header = recipe.model, source.model
    own = {"backbone": header.backbone_name, "repulsion": header.repulsion is not None}
    wrong = {f"model.{k}": (getattr(asked, k), v) for k, v in own.items() if k in asked.model_fields_set}
    arguments = source.arguments
    if asked.arguments:
        given = checked_arguments(header.backbone_name, asked.arguments)
        wrong |= {f"model.arguments.{k}": (given[k], arguments[k]) for k in asked.arguments}
    if asked.cutoff is not None:
        wrong["model.cutoff"] = asked.cutoff, header.cutoff
    wrong = {name: pair for name, pair in wrong.items() if pair[0] != pair[1]}
    if wrong:
        told = ", ".join(f"{name}={a} (the model has {b})" for name, (a, b) in wrong.items())
        raise RecipeError(
            f"The recipe contradicts the model that it starts from, {source.path}: {told}. Leave these keys out, "
            "as a model keeps its own (model.arguments={} leaves out all arguments), or leave out model.start."
        )
    model = ModelSection.model_validate(asked.model_dump() | own | {"arguments": arguments})
    return recipe.model_copy(update={"model": model})


def prepared(source: Source, recipe: Recipe, train: Part, tell: Messages) -> Potential:
    """The potential before the first step, frozen: the model, with references as asked and new elements.

    Args:
        source: the model.
        recipe: completed.
        train: the training part.
        tell: it is given each constant, and the source of each reference energy.

    Raises:
        RecipeError: references contradict each other, or cannot be fitted.
        StrangeEnergiesError: energies are out of any chemical range.
    """
    old, asked = source.model, recipe.model.start_references
    own = dict(zip(old.elements, old.reference.tolist(), strict=True))
    added = [z for z in train.elements if z not in own]
    dtype = torch.float64 if recipe.training.precision == "float64" else torch.float32
    tell(f"Starting from {source.path}:", *constants(source, recipe, added, dtype))
    given, isolated = recipe.data.reference_energies, train.data.isolated_atoms()
    references = known_references(own, train.elements, asked, given, isolated)
    missing = [z for z in sorted({*own, *added}) if z not in references]
    potential = _with_elements(source, recipe, train, {z: r.value for z, r in references.items()}, dtype)
    labeled = _sample(train)
    if missing and not len(labeled):
        raise RecipeError(
            f"There are no energies to fit the reference energies of {_symbols(missing)} to. Give them by "
            "data.reference_energies."
        )
    if (unknown := sorted({*missing, *added})) and len(labeled):
        counts = train.data.counts(labeled, unknown)
        left = _left_over(potential, train, labeled)
        change, free = fitted_changes(counts, left, train.data.n_atoms[labeled], unknown)
        for z in unknown:
            constant = potential.reference if z in missing else potential.energy_shift
            constant[potential.elements.index(z)] += change[z]
        references |= {
            z: Reference(potential.reference[potential.elements.index(z)].item(), _fit_told(z, free))
            for z in missing
        }
    sources = {chemical_symbols[z]: references[z].source for z in potential.elements}
    potential.header = {"card": {BEFORE: {"sources": sources}}}
    _warn_of_frozen_rows(potential, recipe, added, tell)
    if unseen := [z for z in own if z not in train.elements]:
        tell(f"  elements without new data, whose own weights stay as they are: {_symbols(unseen)}")
    return potential.freeze()


def _warn_of_frozen_rows(potential: Potential, recipe: Recipe, added: list[int], tell: Messages) -> None:
    """Say where weights of new elements stay as they were drawn, with all else that is frozen."""
    if not (added and recipe.model.freeze):
        return
    chosen = matching(recipe.model.freeze, list(dict(potential.backbone.named_parameters())), "model.freeze")
    if frozen := [name for name in element_rows(potential) if name in chosen]:
        tell.warn(
            f"model.freeze keeps the weights that belong to {_symbols(added)} as they are drawn, in "
            f"{', '.join(frozen)}: what was never trained is frozen. Leave these out of model.freeze."
        )


def for_training(start: Potential, recipe: Recipe, tell: Messages) -> Potential:
    """A copy whose weights may change, but for those that are frozen; without what a training adds at its end."""
    potential = copy.deepcopy(start)
    potential.core_repulsion, potential.domain, potential.header = None, None, {}
    potential.train().requires_grad_(True)
    if recipe.model.freeze:
        tell(freeze(potential.backbone, recipe.model.freeze))
    return potential


def keep(start: Potential, source: Source, errors: Mapping[str, Any], directory: Path) -> None:
    """Store the potential before the first step in the directory of the run, with what is known of it."""
    origin = {
        "model": source.path,
        "weights_sha256": source.sha256,
        "training_set_hash": source.model.header.get("card", {}).get("training_set_hash"),
        "ranges": source.model.header.get("card", {}).get("ranges"),
        "errors": errors,
        "sources": start.header["card"][BEFORE]["sources"],
    }
    (directory / START).parent.mkdir(exist_ok=True)
    save_potential(start, directory / START, {BEFORE: origin})
    start.header = read_header(directory / START)


def keep_unseen(potential: Potential, start: Potential, elements: list[int]) -> None:
    """Restore the weights of elements without new data, and freeze the potential again."""
    former, weights = start.backbone.state_dict(), potential.backbone.state_dict()
    for name, places in element_rows(potential).items():
        for z in (z for z in places if z not in elements):
            weights[name][places[z]] = former[name][places[z]]
    potential.freeze()


def baseline_of(start: Potential) -> Baseline:
    """The references of a potential before the first step, and where each is from."""
    sources = start.header["card"][BEFORE]["sources"]
    by_element = [
        dict(zip(start.elements, values.tolist(), strict=True))
        for values in (start.reference, start.energy_scale, start.energy_shift)
    ]
    references, scales, shifts = by_element
    return Baseline(references, {z: sources[chemical_symbols[z]] for z in start.elements}, scales, shifts)


def _fit_told(z: int, free: list[int]) -> str:
    if z in free:
        return f"fitted, by the least change: compositions do not tell {_symbols(free)} apart"
    return "fitted to what the model leaves of the energies"


def _symbols(numbers: Iterable[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in numbers)


def _with_elements(
    source: Source, recipe: Recipe, train: Part, references: Mapping[int, float], dtype: torch.dtype
) -> Potential:
    """The model with new elements; the core repulsion is the model's own where both elements are."""
    old = source.model
    own = {z: k for k, z in enumerate(old.elements)}
    elements = sorted({*own, *train.elements})
    reference = dict(zip(old.elements, old.reference.tolist(), strict=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        new = Potential(
            old.backbone_name,
            source.arguments,
            reference_energies={z: references.get(z, reference.get(z, 0.0)) for z in elements},
            energy_scale=force_scales(*forces_by_atom(train), elements),
            repulsion=False if old.repulsion is None else old.repulsion.form,
            cutoff=old.cutoff,
        ).to(torch.promote_types(dtype, old.dtype))
    for z, k in own.items():
        place = new.elements.index(z)
        new.energy_scale[place], new.energy_shift[place] = old.energy_scale[k], old.energy_shift[k]
    weights = dict(new.backbone.state_dict())
    rows = element_rows(old), element_rows(new)
    for name, weight in new.backbone.widened(old.backbone.state_dict(), old.elements).items():
        assert weight.shape[name in rows[0] :] == weights[name].shape[name in rows[0] :], f"{name} is not widened"
        if name not in rows[0]:
            weights[name] = weight
            continue
        for z in old.elements:
            weights[name][rows[1][name][z]] = weight[rows[0][name][z]]
    new.backbone.load_state_dict(weights)
    if recipe.model.core_repulsion and old.core_repulsion is not None:
        limits = training_limits(MemoryBatches(flatten(train.sample(), old.cutoff), 64), old.cutoff)
        new.core_repulsion = CoreRepulsion.of(new.elements, limits, old.cutoff)
        new.core_repulsion.keep(old.core_repulsion, new.elements, old.elements, None)
    if old.domain is not None and new.elements == old.elements:
        new.domain = old.domain
    return new.to(dtype)


def _sample(train: Part) -> Ints:
    """Evenly chosen frames with an energy."""
    labeled = train.indices[np.isfinite(train.data.energy[train.indices])]
    return labeled[:: max(1, len(labeled) // MOST_FITTED)]


def _left_over(potential: Potential, train: Part, frames: Ints) -> Floats:
    """Label − prediction of the energies of frames, eV."""
    part = Part(train.data, frames)
    batches = MemoryBatches(flatten(part.frames(), potential.cutoff, frames), 32)
    judge = copy.deepcopy(potential).freeze()
    left = [labels.energy - predict(judge, graph).energy for graph, labels in batches]
    return torch.cat(left).numpy()


def constants(source: Source, recipe: Recipe, added: list[int], dtype: torch.dtype) -> list[str]:
    """A line for each constant of the model: kept, added or replaced."""
    old = source.model
    new = f"; of new elements ({', '.join(chemical_symbols[z] for z in added)}) from the data" if added else ""
    rows = f"kept; rows of new elements drawn by training.seed={recipe.training.seed}" if added else "kept"
    zbl = "on" if old.repulsion is not None else "off"
    lines = {f"model.arguments.{name}": f"{value} kept" for name, value in source.arguments.items()}
    lines |= {"scales": f"kept{new}", "shifts": f"kept{new}", "weights": rows, "ZBL repulsion": f"{zbl}, kept"}
    lines["normalization by neighbors"] = "a constant of the backbone, kept"
    lines["core repulsion"] = core_repulsion_told(old, recipe)
    kept = "kept" if dtype == old.dtype else f"replaced, was {old.dtype}".replace("torch.", "")
    lines["precision"] = f"{dtype} {kept}".replace("torch.", "")
    return [f"  {name}: {value}" for name, value in lines.items()]


def core_repulsion_told(old: Potential, recipe: Recipe) -> str:
    """What is done with the core repulsion, in words."""
    if not recipe.model.core_repulsion:
        return (
            "left out (model.core_repulsion=false)" if old.core_repulsion is not None else "none, as in the model"
        )
    if old.core_repulsion is None:
        return "added from the data, the model has none"
    return "kept, and moved inwards where atoms of the data come closer or are lonelier"


def freeze(backbone: Backbone, patterns: list[str]) -> str:
    """Keep weights from being trained, by name, and say how many.

    Raises:
        RecipeError: a pattern matches nothing, or all is frozen.
    """
    names = [name for name, _ in backbone.named_parameters()]
    chosen = matching(patterns, names, "model.freeze")
    for name, weight in backbone.named_parameters():
        weight.requires_grad_(name not in chosen)
    total = sum(p.numel() for p in backbone.parameters())
    trained = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    if not trained:
        raise RecipeError("model.freeze matches every weight, so there is nothing to train. Freeze fewer.")
    return (
        f"  frozen: {len(chosen)} of {len(names)} arrays of weights ({total - trained} numbers), trained: "
        f"{len(names) - len(chosen)} ({trained} numbers)"
    )
