"""Members of a committee that each leave out other validation frames, and what such frames say of them.

A. Krogh and J. Vedelsby, Adv. Neural Inf. Process. Syst. 7, 231 (1995): members that learn from different parts of
a set err less alike, and no frame is lost to validation. The mean of all has learned from every frame, so that no
validation error of it exists: what is reported is that of each member on the frames that it left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mlpot.graph import collate_properties
from mlpot.potential import Potential
from mlpot.training.loaders import Alone, free_memory
from mlpot.training.outputs import Predicted, predict_all
from mlpot.training.recipe import Recipe
from mlpot.training.sets import EVALUATION, batches_of
from mlpot.training.splits import Parts, make_parts, split, structures, union, weighted

VALIDATED_BY = "each structure by members that left it out"


def parts_of_folds(recipes: Sequence[Recipe]) -> list[Parts]:
    """The parts of each member's data, whose files are read once."""
    first = make_parts(
        recipes[0].data, recipes[0].loss, keep=0.0 if recipes[0].data.stream is True else free_memory() / 4
    )
    folds, whole = [first], structures(first.train.data)
    for recipe in recipes[1:]:
        data = recipe.data
        assert isinstance(data.validation, int | float)
        parts = split(whole, data.validation, data.seed, data.fold or 0)
        train, validation = weighted(*parts, recipe.loss.weights)
        folds.append(replace(first, train=train, validation=validation))
    return folds


def joined(folds: Sequence[Parts]) -> Parts:
    """The parts of the whole committee: it trains on what any member trains on, and validates likewise."""
    train, validation = union([fold.train for fold in folds]), union([fold.validation for fold in folds])
    return replace(folds[0], train=train, validation=validation)


def predicted_by_members(
    members: Sequence[Potential], recipes: Sequence[Recipe], folds: Sequence[Parts], cutoff: float
) -> Predicted:
    """What each member says of the frames that it left out, one after another.

    Args:
        members: the potentials, with their outer terms.
        recipes, folds: of each member.
        cutoff: of the neighbor lists, Å; that of the members.
    """
    kept = []
    for member, recipe, fold in zip(members, recipes, folds, strict=True):
        batches = batches_of(fold.validation, recipe, cutoff, EVALUATION)
        batches.run = Alone()
        kept.append(predict_all(member, batches))
    predicted, reference, numbers, n_atoms = zip(*kept, strict=True)
    return collate_properties(predicted), collate_properties(reference), torch.cat(numbers), torch.cat(n_atoms)
