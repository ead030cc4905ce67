"""Train one network, or several of which the potential is the mean: what other code calls to train."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from mlpot.atomic_files import storing
from mlpot.folder_lock import folder_lock
from mlpot.model_file import load_potential
from mlpot.models import COMMITTEE
from mlpot.models.committee import Committee, member_states
from mlpot.models.layers import check_arguments
from mlpot.models.networks import NETWORKS
from mlpot.potential import Potential
from mlpot.recipes import RecipeError, load_recipe
from mlpot.training import data_summary, fit
from mlpot.training.backbone_arguments import checked_arguments
from mlpot.training.before_and_after import table
from mlpot.training.fit import TrainingResult, initial_potential
from mlpot.training.folds import VALIDATED_BY, joined, parts_of_folds, predicted_by_members
from mlpot.training.loaders import Alone
from mlpot.training.member_process import train_members
from mlpot.training.messages import Messages
from mlpot.training.neighbor_count import with_count_of
from mlpot.training.outputs import examples, write_outputs
from mlpot.training.recipe import Recipe
from mlpot.training.run_directory import (
    MODEL,
    RunDirectoryError,
    check_holds_no_propagator,
    check_holds_run,
    check_same_recipe,
    has_begun,
    has_finished,
    write_beginning,
)
from mlpot.training.sets import make_sets
from mlpot.training.splits import Baseline, learned_from, make_baseline
from mlpot.training.trainer import FOLDER, check_device

MEMBER = "member_"
MEMBER_FACTS = "seed", "epochs", "best_epoch", "halvings", "seconds", "closing_solve", "validation", "test"


def train(
    recipe: Recipe, *, resume: bool = False, overwrite: bool = False, callbacks: Sequence[Callback] = ()
) -> TrainingResult:
    """As `fit.train`, of as many networks as `training.committee` says, each in a directory of its own.

    A member that has finished is not trained again when the run goes on, so that a larger committee may be asked
    for then.

    Raises:
        RecipeError: a committee cannot be trained so.
        Else as `fit.train`.
    """
    directory, n = Path(recipe.training.directory), recipe.training.committee
    if n == 1:
        for key in ("member_arguments", "own_validation"):
            if getattr(recipe.training, key):
                raise RecipeError(f"training.{key} is of a committee: give training.committee too.")
        if not overwrite and (directory / f"{MEMBER}0").exists():
            raise RunDirectoryError(f"{directory} holds a committee. Give another training.directory.")
        return fit.train(recipe, resume=resume, overwrite=overwrite, callbacks=callbacks)
    _check(recipe, callbacks)
    tell = Messages(show=recipe.training.progress)
    with folder_lock(directory):
        _prepare(directory, recipe, resume=resume, overwrite=overwrite)
        if recipe.training.members_at_once > 1:
            members = {k: member_recipe(recipe, k) for k in range(n)}
            missing = {k: member for k, member in members.items() if _finished(member) is None}
            train_members(missing, recipe.training.members_at_once, tell, resume=resume)
        began, results = time.monotonic(), []
        for k in range(n):
            tell(f"Member {k + 1} of {n}")
            member = member_recipe(recipe, k, time.monotonic() - began)
            results.append(_finished(member) or _train_member(member, resume=resume, callbacks=callbacks))
        return _finish(recipe, results, tell)


def member_recipe(recipe: Recipe, k: int, seconds: float = 0.0) -> Recipe:
    """That of member `k`, which may take its share of the minutes that are left after so many seconds."""
    training = recipe.training
    own: dict[str, Any] = {
        "committee": 1,
        "members_at_once": 1,
        "seed": training.seed + k,
        "directory": str(Path(training.directory) / f"{MEMBER}{k}"),
    }
    model, data = recipe.model, recipe.data
    if training.own_validation:
        data = data.model_copy(update={"fold": k})
        own["own_validation"] = False
    if training.member_arguments:
        arguments = [_own_arguments(recipe, member) for member in range(training.committee)]
        cutoffs = {float(one["cutoff"]) for one in arguments}
        largest = max(cutoffs | {model.cutoff or 0.0}) if len(cutoffs) > 1 else model.cutoff
        model = model.model_copy(update={"arguments": arguments[k], "cutoff": largest})
        own["member_arguments"] = []
    if training.max_minutes is not None:
        left = max(training.max_minutes - seconds / 60, 0.01)
        at_once = training.members_at_once
        to_come = training.committee - k if at_once == 1 else math.ceil(training.committee / at_once)
        own["max_minutes"] = left / to_come
    return recipe.model_copy(update={"training": training.model_copy(update=own), "model": model, "data": data})


def _own_arguments(recipe: Recipe, k: int) -> dict[str, Any]:
    """All arguments of member `k`."""
    own = recipe.training.member_arguments[k]
    try:
        check_arguments(own)
        return checked_arguments(recipe.model.backbone, recipe.model.arguments | own)
    except ValueError as error:
        raise RecipeError(f"training.member_arguments, number {k + 1}: {error}") from None


def _check(recipe: Recipe, callbacks: Sequence[Callback]) -> None:
    check_device(recipe)
    if recipe.model.backbone not in NETWORKS:
        raise RecipeError(
            f"training.committee: {recipe.model.backbone} is no list of stages, of which committees are made. "
            f"Choose one of {', '.join(NETWORKS)}."
        )
    if recipe.model.start is not None:
        raise RecipeError(
            "training.committee with model.start: all members would start from one network, and hardly differ. "
            "Train each from a model of its own, or one network without a committee."
        )
    check_one_process(recipe, "training.committee")
    if recipe.training.own_validation and not isinstance(recipe.data.validation, int | float):
        raise RecipeError(
            "training.own_validation: each member validates by frames of data.train that it leaves out, and "
            "data.validation is a file. Give a number or a fraction of frames, or leave out own_validation."
        )
    if recipe.training.own_validation and recipe.data.fold is not None:
        raise RecipeError("training.own_validation gives each member its data.fold: leave data.fold out.")
    if callbacks and recipe.training.members_at_once > 1:
        raise ValueError("callbacks do not reach other processes: leave out training.members_at_once.")
    own, n = recipe.training.member_arguments, recipe.training.committee
    if own and len(own) != n:
        raise RecipeError(
            f"training.member_arguments are of {len(own)} members, and training.committee is {n}: give as many."
        )
    arguments = [_own_arguments(recipe, k) for k in range(len(own))]
    try:
        with torch.random.fork_rng(devices=[]):
            Committee(
                elements=(1,),
                member=recipe.model.backbone,
                arguments=recipe.model.arguments,
                n_members=n,
                member_arguments=arguments or None,
            )
    except ValueError as error:  # here, and not when all members are trained
        raise RecipeError(f"training.committee: {error}.") from None


def check_one_process(recipe: Recipe, what: str) -> None:
    """Raise RecipeError where several processes would train what is several trainings."""
    training = recipe.training
    if training.strategy != "auto" or training.nodes > 1 or training.devices not in (1, "auto"):
        raise RecipeError(
            f"{what} with several devices: its networks are trained one after another by one process. Leave "
            "out training.devices, training.strategy and training.nodes."
        )


def _prepare(directory: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    """Make the directory hold the recipe, and no run that is not to go on.

    Raises:
        RunDirectoryError: there is a run already, or none to resume; RecipeError: it was another recipe's.
    """
    check_holds_no_propagator(directory)
    members = sorted(directory.glob(f"{MEMBER}*"))
    if resume:
        check_holds_run(directory)
        if load_recipe(Recipe, directory / "recipe.yaml").training.committee == 1:
            raise RecipeError(f"The run in {directory} is of one network; give another training.directory.")
        check_same_recipe(directory, recipe)
    elif (members or any((directory / there).exists() for there in (FOLDER, MODEL))) and not overwrite:
        raise RunDirectoryError(
            f"{directory} holds a run already. Resume it, overwrite it, or give another training.directory."
        )
    else:
        for folder in [directory / FOLDER, *members]:
            shutil.rmtree(folder, ignore_errors=True)
    with storing(directory, 0):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "metrics.json").unlink(missing_ok=True)
    write_beginning(directory, recipe, {"committee": recipe.training.committee})


def _train_member(recipe: Recipe, *, resume: bool, callbacks: Sequence[Callback]) -> TrainingResult:
    """Train one member, from its checkpoint if the run goes on and it has begun."""
    begun = resume and has_begun(Path(recipe.training.directory))
    return fit.train(recipe, resume=begun, callbacks=callbacks)


def _finished(recipe: Recipe) -> TrainingResult | None:
    """What a member left that was trained to its end by the same recipe; None where it was not."""
    directory = Path(recipe.training.directory)
    if not has_finished(directory):
        return None
    earlier = load_recipe(Recipe, directory / "recipe.yaml")
    before, now = (
        r.model_dump(exclude={"training": {"directory", "progress", "max_minutes"}})
        for r in (earlier, with_count_of(recipe, earlier))
    )
    if before != now:
        return None
    metrics = json.loads((directory / "metrics.json").read_text(encoding="utf-8"))
    return TrainingResult(directory, load_potential(directory / "model.safetensors"), metrics)


def _finish(recipe: Recipe, results: Sequence[TrainingResult], tell: Messages) -> TrainingResult:
    """Write the mean of the members and its errors, as `fit.finish` does for one network."""
    directory, members = Path(recipe.training.directory), [result.potential for result in results]
    own = recipe.training.own_validation
    recipes = [member_recipe(recipe, k) for k in range(len(members))] if own else [recipe]
    folds = parts_of_folds(recipes)
    parts = joined(folds)
    baseline = make_baseline(learned_from(folds[0], recipes[0].data.fold), recipe.data.reference_energies)
    potential = mean_of(members, recipe, baseline).to(next(members[0].parameters()).device)
    validated = predicted_by_members(members, recipes, folds, potential.cutoff) if own else None
    sets = make_sets(recipe, parts, potential.cutoff)
    parts = replace(parts, examples=examples(parts.train))
    parts.forget()
    for batches in sets.values():
        batches.run = Alone()
    metrics = [result.metrics for result in results]
    facts = {
        "backbone": f"committee of {len(members)} {recipe.model.backbone}",
        "n_weights": sum(p.numel() for p in potential.parameters()),
        **{key: max(m[key] for m in metrics) for key in ("epochs", "best_epoch", "halvings")},
        "seconds": sum(m["seconds"] for m in metrics),
        "seed": recipe.training.seed,
        "device": metrics[0]["device"],
        "processes": 1,
        **data_summary.facts(parts, baseline),
        "repeated_structures": parts.repeated() | {"validation": max(f.repeated()["validation"] for f in folds)},
        **({"validation_set_of": VALIDATED_BY} if own else {}),
        "members": [{key: m[key] for key in MEMBER_FACTS if key in m} for m in metrics],
    }
    errors = write_outputs(directory, potential, recipe, parts, sets, facts, validated=validated)
    tell(f"Root mean square errors on {'validation structures of each' if own else 'validation structures'}:")
    tell(*_table(errors, "all" if own else "their mean"))
    if "test" in errors:
        tell("Errors of the potential:", *table({"test": errors["test"]}))
    return TrainingResult(directory, potential, errors)


def mean_of(members: Sequence[Potential], recipe: Recipe, baseline: Baseline) -> Potential:
    """The potential whose network is the committee of those of others.

    Args:
        members: trained by one recipe but for the seed.
        recipe: of the committee.
        baseline: of its training set.

    Raises:
        RunDirectoryError: a member has other reference energies or scales: it was trained on other data.
    """
    first = members[0]
    arguments: dict[str, Any] = {
        "member": first.backbone_name,
        "arguments": first.arguments,
        "n_members": len(members),
    }
    if any(member.arguments != first.arguments for member in members):
        arguments["member_arguments"] = [
            {key: value for key, value in member.arguments.items() if value != first.arguments[key]}
            for member in members
        ]
    model = recipe.model.model_copy(update={"backbone": COMMITTEE, "arguments": arguments})
    mean = initial_potential(recipe.model_copy(update={"model": model}), baseline)
    for k, member in enumerate(members):
        for name in ("reference", "energy_scale", "energy_shift"):
            if not torch.equal(mean.get_buffer(name), member.get_buffer(name).cpu()):
                raise RunDirectoryError(
                    f"{MEMBER}{k} of {recipe.training.directory} was trained on other data: its {name} differs. "
                    "Train all anew with --overwrite, or give another training.directory."
                )
    mean.backbone.load_state_dict(member_states([member.backbone.state_dict() for member in members]))
    return mean.freeze()


def _table(metrics: dict[str, Any], last: str) -> list[str]:
    rows = [*((f"member {k + 1}", m) for k, m in enumerate(metrics["members"])), (last, metrics)]
    shown = (("energy_rmse_meV_per_atom", "meV/atom"), ("forces_rmse_meV_per_A", "meV/Å"))
    return [
        f"  {name:12}" + "".join(f"{m['validation'][key]:10.2f} {u}" for key, u in shown if key in m["validation"])
        for name, m in rows
    ]
