"""A batch of runs, from one recipe to a folder for each."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms

from mlpot.calculator import MLPotCalculator
from mlpot.data.sources.read import Source, named_elements
from mlpot.data.sources.reading import Reading
from mlpot.dynamics.batch import check_potential
from mlpot.dynamics.checkpoints import Checkpoints
from mlpot.dynamics.recipe import REPLICA, MDRecipe
from mlpot.dynamics.replicas import Replica, Replicas
from mlpot.dynamics.run import check_free, check_structure, check_terms, provenance, run_hash, terms_of
from mlpot.dynamics.start import StartError, started, warn_of_others
from mlpot.dynamics.summary import End, MDSummary, summary_of, write_report
from mlpot.folder_lock import folder_lock
from mlpot.signals import BlowUpError, StoppedError, stop_request

FILES = 3  # that a replica has open
OTHERS = 64  # files that a process has open besides


def run_replicas(
    recipe: MDRecipe, *, resume: bool = False, progress: Callable[[int, int | None], None] | None = None
) -> list[MDSummary]:
    """Run replicas in one batch; each has a folder in the output folder, with the files of a run but md.png.

    Replica k is, to the last bit, the run of the same recipe alone with its structure and the seed plus k.

    Args:
        recipe: with `replicas` or `frame: all`.
        resume, progress: as for `run_md`.

    Raises:
        BlowUpError: after the end of the others, if guards stopped replicas.
        StartError: a replica cannot begin, or all together cannot.
        As `run_md`.
    """
    with folder_lock(recipe.output), stop_request() as stop:
        began, ended = time.perf_counter(), None
        with _prepared(recipe, resume) as batch:
            for k in batch.running:  # written last, as it says that the run has ended
                (batch.replicas[k].recipe.output / "md.json").unlink(missing_ok=True)
            batch.tell = progress
            try:
                batch.run(stop)
            except StoppedError as error:
                ended = error
        summaries = _reported(batch, time.perf_counter() - began, ended)
    if ended is not None:
        raise ended
    stopped = [k for k, replica in enumerate(batch.replicas) if replica.stopped is not None]
    if stopped:
        raise BlowUpError(
            f"Guards stopped {len(stopped)} of {len(batch.replicas)} replicas, numbers "
            f"{', '.join(map(str, stopped))}; the others ran to their end. The first: "
            f"{batch.replicas[stopped[0]].stopped}"
        )
    return summaries


def _prepared(recipe: MDRecipe, resume: bool) -> Replicas:
    checkpoints = Checkpoints(recipe.output)
    newest = checkpoints.newest if resume else None
    calculator = MLPotCalculator(
        recipe.model,
        device=recipe.device,
        dtype=recipe.dtype,
        cuda_graph=recipe.cuda_graph,
        extrapolation_grade=None,  # the guards look at it
    )
    check_potential(calculator.potential)
    terms = terms_of(recipe) | {"replicas": recipe.replicas, "frame": recipe.frame}
    if newest is None:
        structures = _structures(recipe)
        recipes = _alone(recipe, len(structures))
        check_free(recipe, [own.output for own in recipes])
        atoms = [structures[k // recipe.replicas].copy() for k in range(len(recipes))]
    else:
        check_terms(newest, terms)
        if recipe.frame != "all":
            check_structure(recipe, newest.arrays["0/numbers"])
        recipes = _alone(recipe, len(newest.facts["replicas"]) // recipe.replicas)
        atoms = [Atoms()] * len(recipes)  # those of the checkpoint take their places
    _check_open_files(len(recipes))
    rngs = [np.random.default_rng(own.seed) for own in recipes]
    if newest is None:
        each = enumerate(zip(atoms, recipes, rngs, strict=True))
        atoms = [_started(k, one, own, calculator, rng) for k, (one, own, rng) in each]
        terms["run"] = run_hash(recipe, terms, atoms)
    else:
        terms["run"] = newest.facts["terms"].get("run")
    card = provenance(recipe, calculator, terms)
    replicas = [
        Replica(own, one, rng, card | {"recipe": own.model_dump_json(), "seed": str(own.seed)})
        for own, one, rng in zip(recipes, atoms, rngs, strict=True)
    ]
    if newest is None:
        checkpoints.clear()
    ranges = calculator.potential.header.get("card", {}).get("ranges", {})
    return Replicas(recipe, replicas, checkpoints, calculator.potential, ranges=ranges, terms=terms)


def _structures(recipe: MDRecipe) -> list[Atoms]:
    """The structures of a recipe, of each of which there are replicas."""
    index = ":" if recipe.frame == "all" else str(recipe.frame)
    elements = named_elements(recipe.elements, None)
    found = list(Source(recipe.structure, Reading(index=index, labels=False, elements=elements)).frames())
    warn_of_others(recipe, elements)
    if not found:
        raise StartError(f"{recipe.structure} has no structure {index}. Give a frame that is there.")
    return found


def _started(
    k: int, atoms: Atoms, recipe: MDRecipe, calculator: MLPotCalculator, rng: np.random.Generator
) -> Atoms:
    try:
        return started(atoms, recipe, calculator, rng)
    except StartError as error:
        raise StartError(f"Replica {k} (structure {recipe.one_frame} of {recipe.structure}): {error}") from error


def _alone(recipe: MDRecipe, n_structures: int) -> list[MDRecipe]:
    """The recipe of each replica, as it would run alone."""
    n = n_structures * recipe.replicas
    width = len(str(n - 1))
    changes: list[dict[str, Any]] = [
        {
            "replicas": 1,
            "frame": k // recipe.replicas if recipe.frame == "all" else recipe.frame,
            "seed": recipe.seed + k,
            "output": recipe.output / f"{REPLICA}{k:0{width}d}",
        }
        for k in range(n)
    ]
    return [recipe.model_copy(update=change) for change in changes]


def _check_open_files(n_replicas: int) -> None:
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = FILES * n_replicas + OTHERS
    if needed > allowed:
        raise StartError(
            f"{n_replicas} replicas have {needed} files open, and a process may have {allowed} here. Run fewer at "
            f"once, or raise the limit: ulimit -n {needed}."
        )


def _reported(batch: Replicas, wall_s: float, ended: StoppedError | None) -> list[MDSummary]:
    """Summaries, and md.json of each replica."""
    summaries = []
    for replica in batch.replicas:
        stage, step = replica.ended or (batch.progress.stage, batch.progress.step)
        reason = replica.stopped or (None if ended is None else str(ended))
        end = End(
            stage=batch.plan[stage],
            stage_began_ps=batch.time_fs(stage, 0) / 1e3,
            n_degrees=replica.n_degrees or 0,
            steps=batch.step_in(stage, step),
            time_ps=batch.time_fs(stage, step) / 1e3,
            steps_per_s=(batch.step - batch.first) / wall_s,
            wall_s=wall_s,
            stopped=reason,
            blown_up=replica.stopped is not None,
        )
        summary = summary_of(replica.recipe, replica.atoms, end, replica.warnings)
        summaries.append(summary)
        if not (replica.stopped and (replica.recipe.output / "md.json").exists()):
            write_report(replica.recipe, summary, replica.card)
    return summaries
