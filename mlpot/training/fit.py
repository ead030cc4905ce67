"""Train by a recipe: read the data, fit a potential, write it with its errors and pictures."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from mlpot.equivariance import error_in, graphs_of
from mlpot.folder_lock import folder_lock
from mlpot.potential import Potential
from mlpot.signals import SignalledAtOnce, SignalledError, end_with_parent, stop_request
from mlpot.training import data_summary
from mlpot.training.before_and_after import JUDGED, compared, judge, table, worse
from mlpot.training.closing import solve_linear
from mlpot.training.expectation import Expectation
from mlpot.training.interruption import StopOnSignal, hand_on, lost_processes_told
from mlpot.training.loaders import Alone, Batches, free_memory
from mlpot.training.messages import Messages
from mlpot.training.module import HALVINGS, TrainingDivergedError, TrainingModule, diverged
from mlpot.training.neighbor_count import with_neighbor_count
from mlpot.training.one_order import OneOrder, kept_order
from mlpot.training.outputs import examples, to_rotate, write_outputs
from mlpot.training.parameter_groups import element_rows, told
from mlpot.training.rate_range import RateRange, rate_range
from mlpot.training.reach import warn_of_reach
from mlpot.training.recipe import Recipe
from mlpot.training.run_directory import (
    check_holds_run,
    data_of,
    epochs_done,
    last_checkpoint,
    prepare_directory,
    read_checkpoint,
)
from mlpot.training.schedule import (
    check_schedule,
    chosen_by,
    final_loss,
    loss_of,
    make_loss,
    make_module,
    solved_too,
    tell_of_end,
)
from mlpot.training.sets import batches_of, make_sets, to_device
from mlpot.training.splits import Baseline, Parts, learned_from, make_baseline, make_parts
from mlpot.training.start_references import check_energies
from mlpot.training.starting import (
    BEFORE,
    Source,
    baseline_of,
    completed,
    for_training,
    keep,
    keep_unseen,
    known_elements,
    open_source,
    prepared,
)
from mlpot.training.trainer import (
    BEST,
    LAST,
    announcements_off,
    check_device,
    make_trainer,
    matmul_precision,
)


@dataclass(frozen=True)
class TrainingResult:
    """What a training left in its directory; metrics are empty in all but the first process of several."""

    directory: Path
    potential: Potential
    metrics: dict[str, Any]

    @property
    def model(self) -> Path:
        """The file of the potential."""
        return self.directory / "model.safetensors"


def train(
    recipe: Recipe, *, resume: bool = False, overwrite: bool = False, callbacks: Sequence[Callback] = ()
) -> TrainingResult:
    """Train a potential; model.safetensors, metrics.json and pictures are in the recipe's directory afterwards.

    Args:
        recipe: what to do.
        resume: go on with the run in the directory, as if it had never stopped.
        overwrite: remove a run that is in the directory.
        callbacks: Lightning's, beside our own.

    Raises:
        RunDirectoryError: there is a run already, or none to resume.
        RecipeError: the run to resume was started with another recipe.
        StorageError: the directory cannot be written, or is full.
        LockedError: another process trains in the directory.
        ValueError: as `splits.make_parts`; DataError: as `data.h5md.Reader`.
        TrainingDivergedError: the loss is no longer finite.
        SignalledError: a signal asked to stop; the run is saved, and can be resumed.
    """
    with stop_request(at_once=True) as stop, ExitStack() as held:
        try:
            return _train(recipe, [*callbacks, StopOnSignal(stop)], held, resume=resume, overwrite=overwrite)
        except SignalledAtOnce:
            assert stop.signal is not None
            if hand_on(stop.signal, recipe.training.strategy):
                where = Path(recipe.training.directory) / "recipe.yaml"
                told = f"Stopped by {stop.signal.name} and saved. Continue with mlpot train {where} --resume"
                raise SignalledError(told, stop.signal) from None
            raise SignalledError(
                f"Stopped by {stop.signal.name} outside of the steps; nothing is lost. Use the same command, "
                f"with --resume if {recipe.training.directory} holds checkpoints of this run.",
                stop.signal,
            ) from None


def _train(
    recipe: Recipe, callbacks: Sequence[Callback], held: ExitStack, *, resume: bool, overwrite: bool
) -> TrainingResult:
    # Of the processes that a strategy, or SLURM, starts.
    is_first = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
    directory, tell = Path(recipe.training.directory), Messages(show=recipe.training.progress and is_first)
    check_device(recipe)
    if resume:
        check_holds_run(directory)
    source = open_source(recipe, directory, resume=resume)
    recipe = recipe if source is None else completed(recipe, source)
    room = 0.0 if recipe.data.stream is True else free_memory() / 4
    parts = make_parts(recipe.data, recipe.loss, known=known_elements(source), keep=room)
    if source is None:
        recipe = with_neighbor_count(recipe, parts.train, tell, directory if resume else None)
    start, potential, baseline = beginning(recipe, parts, source, tell)
    last = last_checkpoint(directory) if resume else None
    sets, done = make_sets(recipe, parts, potential.cutoff, in_windows=kept_order(last)), epochs_done(last)
    parts = replace(parts, examples=examples(parts.train), to_rotate=to_rotate(parts.validation, potential))
    parts.forget()  # what is needed of the frames is in the sets
    if not resume:
        check_schedule(recipe, len(sets["train"]))
    is_new = start is not None and source is not None and not source.is_kept
    before = judge(start, sets) if start is not None and is_new else {}
    callbacks = [*callbacks, Expectation(tell, recipe.training), OneOrder(sets["train"])]
    with announcements_off(), matmul_precision(recipe.training.precision):
        trainer = make_trainer(recipe, directory, callbacks, done=done)
        if trainer.local_rank > 0:
            end_with_parent()  # Lightning ends the parent with its children
        if trainer.is_global_zero:
            held.enter_context(folder_lock(directory))
            for batches in sets.values():
                batches.run = trainer
            content = data_of(parts, len(sets["train"]), trainer.world_size)
            name = prepare_directory(directory, recipe, content, tell, resume=resume, overwrite=overwrite)
            if start is not None and source is not None and is_new:
                keep(start, source, before, directory)
                tell("Errors before the first step:", *table(before))
        else:
            name = ""  # the first process saves
            tell.silence()
        if not (recipe.training.epochs or done):
            return finish_untrained(recipe, start, parts, sets, data_summary.facts(parts, baseline))
        module, trainer = fit(recipe, potential, sets, parts, trainer, callbacks, tell, name, resume=resume)
    if not trainer.is_global_zero:
        return TrainingResult(directory, potential, {})
    return finish(module, trainer, recipe, parts, sets, start, tell, data_summary.facts(parts, baseline))


def range_test(recipe: Recipe) -> RateRange:
    """The loss of a recipe's training while its learning rate grows; nothing is written.

    Raises:
        ValueError: as `train`.
    """
    tell = Messages(show=False)
    source = open_source(recipe, Path(), resume=False)
    recipe = recipe if source is None else completed(recipe, source)
    parts = make_parts(recipe.data, recipe.loss, known=known_elements(source))
    if source is None:
        recipe = with_neighbor_count(recipe, parts.train, tell, None)
    _, potential, _ = beginning(recipe, parts, source, tell)
    batches = batches_of(parts.train, recipe, potential.cutoff, seed=recipe.training.seed)
    return rate_range(potential, batches, make_loss(recipe.loss), recipe)


def beginning(
    recipe: Recipe, parts: Parts, source: Source | None, tell: Messages
) -> tuple[Potential | None, Potential, Baseline]:
    """The trained model before the first step, if there is one, the potential to train, and its references."""
    if source is None:
        baseline = make_baseline(learned_from(parts, recipe.data.fold), recipe.data.reference_energies)
        start, potential = None, initial_potential(recipe, baseline)
    else:
        start = source.model if source.is_kept else prepared(source, recipe, parts.train, tell)
        potential, baseline = for_training(start, recipe, tell), baseline_of(start)
    tell(*data_summary.told(parts, baseline))
    data_summary.tell_of_states(parts.train, tell)
    data_summary.tell_of_potentials(parts.train, tell)
    warn_of_reach(parts.train.sample(), potential.cutoff, tell)
    tell("Weights that are trained:", *told(potential.backbone, recipe.optimizer, element_rows(potential)))
    if recipe.loss.energy > 0:
        check_energies(parts.train, baseline.reference_energies)
    return start, potential, baseline


def fit(
    recipe: Recipe,
    potential: Potential,
    sets: dict[str, Batches],
    parts: Parts,
    trainer: Trainer,
    callbacks: Sequence[Callback],
    tell: Messages,
    name: str,
    *,
    resume: bool,
) -> tuple[TrainingModule, Trainer]:
    """Train to the end; a training that diverges goes back to its last good state, at half the learning rate.

    Raises:
        TrainingDivergedError: it diverged again and again, or there are several processes.
    """
    directory = Path(recipe.training.directory)
    fixed = [] if recipe.model.start is None else [z for z in potential.elements if z not in parts.train.elements]
    untrained, halvings = copy.deepcopy(potential.state_dict()), 0
    while True:
        for batches in sets.values():
            batches.run = trainer
        to_device(sets, trainer)
        module = make_module(recipe, potential, len(sets["train"]), fixed, halvings)
        module.run = name
        module.to_rotate = graphs_of(parts.to_rotate, potential.cutoff)
        last = str(directory / LAST) if resume and (directory / LAST).exists() else None
        try:
            with lost_processes_told(directory / "recipe.yaml"):
                trainer.fit(module, sets["train"], sets["validation"], ckpt_path=last, weights_only=True)
            return module, trainer
        except TrainingDivergedError as error:
            state = f"the state of {directory / LAST}" if (directory / LAST).exists() else "the start"
            if module.halvings >= HALVINGS or trainer.world_size > 1:
                raise diverged(error, state, module) from None
            halvings, resume = module.halvings + 1, True
            tell.warn(f"Diverged: {error}. Going back to {state}, at 1/{2**halvings} of the learning rate.")
            potential.load_state_dict(untrained)
            potential.train()  # it may have diverged in validation
            trainer = make_trainer(recipe, directory, callbacks)


def initial_potential(recipe: Recipe, start: Baseline) -> Potential:
    """An untrained potential; its weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        potential = Potential(
            recipe.model.backbone,
            recipe.model.arguments,
            reference_energies=start.reference_energies,
            energy_scale=start.scale,
            energy_shift=start.shift,
            repulsion=recipe.model.repulsion,
            cutoff=recipe.model.cutoff,
        )
    return potential.to(torch.float64 if recipe.training.precision == "float64" else torch.float32)


def finish(
    module: TrainingModule,
    trainer: Trainer,
    recipe: Recipe,
    parts: Parts,
    sets: dict[str, Batches],
    start: Potential | None,
    tell: Messages,
    learned_from: dict[str, Any],
) -> TrainingResult:
    """Take the weights of the best epoch, solve for the linear ones, and write all outputs."""
    directory = Path(recipe.training.directory)
    best, last = read_checkpoint(directory / BEST), read_checkpoint(directory / LAST)
    module.load_state_dict(best["state_dict"])
    potential = module.potential.to(trainer.strategy.root_device).freeze()
    facts = {
        "backbone": recipe.model.backbone,
        "n_weights": sum(p.numel() for p in potential.parameters()),
        "epochs": last["epoch"] + 1,
        "best_epoch": best["epoch"] + 1,
        "chosen_by": chosen_by(best, recipe),
        "seconds": last["mlpot"]["seconds"],
        "seed": recipe.training.seed,
        "halvings": module.halvings,
        "device": str(trainer.strategy.root_device),
        "processes": trainer.world_size,
        **learned_from,
        "repeated_structures": parts.repeated(),
    }
    tell_of_end(facts["chosen_by"], last["epoch"], recipe, tell)
    for batches in sets.values():
        batches.run = Alone()
    if recipe.training.solve and not recipe.model.freeze:  # the solve would change weights that are frozen
        facts["closing_solve"] = solved = solve_linear(potential, recipe, sets, parts, tell)
        if solved is not None and solved["accepted"]:
            loss = loss_of(potential, sets["validation"], final_loss(recipe))
            facts["chosen_by"] = solved_too(facts["chosen_by"], loss, tell)
    if start is not None:
        keep_unseen(potential, start, parts.train.elements)
        facts["start"] = start.header["card"][BEFORE]
    metrics = write_outputs(directory, potential, recipe, parts, sets, facts, start)
    if parts.to_rotate:
        tell(f"In {len(parts.to_rotate)} validation structures {error_in(metrics)}")
    if start is None:
        tell("Errors of the potential:", *table({name: metrics[name] for name in JUDGED if name in metrics}))
    else:
        tell("Errors before the first step, and of the potential:", *compared(facts["start"]["errors"], metrics))
        if lost := worse(facts["start"]["errors"], metrics):
            tell.warn(f"Worse than the model from which this training started: {'; '.join(lost)}.")
    return TrainingResult(directory, potential, metrics)


def finish_untrained(
    recipe: Recipe,
    start: Potential | None,
    parts: Parts,
    sets: dict[str, Batches],
    learned_from: dict[str, Any],
) -> TrainingResult:
    """Write the model from which a training of zero epochs started."""
    assert start is not None
    directory = Path(recipe.training.directory)
    facts = {
        "backbone": recipe.model.backbone,
        "n_weights": sum(p.numel() for p in start.parameters()),
        "epochs": 0,
        "best_epoch": 0,
        "seconds": 0.0,
        "seed": recipe.training.seed,
        "device": "cpu",
        "processes": 1,
        **learned_from,
        "repeated_structures": parts.repeated(),
        "start": start.header["card"][BEFORE],
    }
    return TrainingResult(directory, start, write_outputs(directory, start, recipe, parts, sets, facts, start))
