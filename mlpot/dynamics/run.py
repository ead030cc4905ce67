"""A run of molecular dynamics, from a recipe to its files."""

from __future__ import annotations

import hashlib
import json
import platform
import socket
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.symbols import Symbols
from numpy.typing import NDArray

from mlpot.calculator import MLPotCalculator
from mlpot.data.errors import DataError
from mlpot.data.sources.read import named_elements, read_structure
from mlpot.dynamics.checkpoints import Checkpoint, CheckpointError, Checkpoints
from mlpot.dynamics.recipe import REPLICA, MDRecipe
from mlpot.dynamics.simulation import Simulation
from mlpot.dynamics.start import starting_atoms
from mlpot.dynamics.states import identical, identity
from mlpot.dynamics.summary import End, MDSummary, draw, summary_of, write_report
from mlpot.folder_lock import folder_lock
from mlpot.forces import computed_by
from mlpot.model_file import hash_of_file
from mlpot.signals import BlowUpError, StoppedError, stop_request
from mlpot.version import __version__

PHYSICS = (
    "ensemble",
    "timestep_fs",
    "temperature_K",
    "temperature_end_K",
    "pressure_GPa",
    "thermostat_fs",
    "barostat_fs",
    "write_every",
    "log_every",
    "dtype",
)
"""Keys of a recipe that a run keeps when it is continued."""
BEGINNING = ("frame", "repeat", "velocities", "seed")
"""Keys by which a run began, and which say nothing of how it goes on."""


def run_md(
    recipe: MDRecipe, *, resume: bool = False, progress: Callable[[int, int | None], None] | None = None
) -> MDSummary:
    """Run molecular dynamics and write trajectory.h5, log.csv, md.json and md.png into the output folder.

    Args:
        recipe: what to run.
        resume: go on from the checkpoint in the output folder, if there is one.
        progress: told the steps done and their number, as often as the log is written.

    Raises:
        StartError: the run cannot begin from this structure.
        FileExistsError: the folder holds an earlier run.
        LockedError: another process writes into the folder.
        CheckpointError: the run in the folder is another one, or cannot be continued.
        StorageError: the folder cannot be written, or is full.
        StoppedError: a guard (BlowUpError), a signal or the clock ended the run; it is saved.
        ValueError, FileNotFoundError: as the functions that read the model and the structure.
    """
    with folder_lock(recipe.output), stop_request() as stop:
        began, stopped = time.perf_counter(), None
        with _prepared(recipe, resume) as simulation:
            (recipe.output / "md.json").unlink(missing_ok=True)  # written last, as it says that the run has ended
            simulation.tell = progress
            try:
                simulation.run(stop)
            except StoppedError as error:
                stopped = error
        end = _end(simulation, time.perf_counter() - began, stopped)
        summary = summary_of(recipe, simulation.atoms, end, simulation.warnings)
        write_report(recipe, summary, simulation.card)
        draw(recipe, summary)
    if stopped is not None:
        raise stopped
    return summary


def _computed_in(calculator: MLPotCalculator) -> str:
    potential = calculator.potential
    how = f"{potential.dtype} on {calculator.device}, by {computed_by(potential)}"
    return how.removeprefix("torch.")


def _prepared(recipe: MDRecipe, resume: bool) -> Simulation:
    checkpoints = Checkpoints(recipe.output)
    newest = checkpoints.newest if resume else None
    if newest is None:
        check_free(recipe, [recipe.output])
    calculator = MLPotCalculator(
        recipe.model,
        device=recipe.device,
        dtype=recipe.dtype,
        cuda_graph=recipe.cuda_graph,
        extrapolation_grade=None,  # the guards look at it
    )
    rng = np.random.default_rng(recipe.seed)
    terms = terms_of(recipe)
    if newest is None:
        atoms = starting_atoms(recipe, calculator, rng)
        terms["run"] = run_hash(recipe, terms, [atoms])
        checkpoints.clear()
    else:
        check_terms(newest, terms)
        terms["run"] = newest.facts["terms"].get("run")
        atoms = identical(newest.arrays)
        check_structure(recipe, atoms.numbers)
        atoms.calc = calculator
    ranges = calculator.potential.header.get("card", {}).get("ranges", {})
    card = provenance(recipe, calculator, terms)
    return Simulation(recipe, atoms, rng, checkpoints, card=card, ranges=ranges, terms=terms)


def check_free(recipe: MDRecipe, folders: Sequence[Path]) -> None:
    """Raise FileExistsError for trajectories of an earlier run, or of a batch, where a new one would begin.

    Those that a run may overwrite are the ones that it writes anew: others would look like parts of it, and what
    continues them would be gone.

    Args:
        recipe: of the new run.
        folders: of its trajectories.
    """
    name = "trajectory.h5"
    there = [*sorted(recipe.output.glob(f"{REPLICA}*/{name}")), *recipe.output.glob(name)]
    if there and not recipe.overwrite:
        raise FileExistsError(
            f"{there[0]} exists. Choose another output, overwrite it, or continue it: --continue."
        )
    if left := [path for path in there if path.parent not in folders]:
        raise FileExistsError(
            f"{left[0]} is of an earlier run, which the new one would not overwrite: {recipe.output} would hold "
            "both. Remove it, or choose another output."
        )


def terms_of(recipe: MDRecipe) -> dict[str, Any]:
    """What stays as it is when a run is continued."""
    began = recipe.model_dump(mode="json", include=set(BEGINNING))
    return {
        "model": hash_of_file(recipe.model),
        "plan": [_physics(stage) for stage in recipe.plan()],
        "began": began,
    }


def _physics(stage: MDRecipe) -> dict[str, Any]:
    return {key: getattr(stage, key) for key in PHYSICS} | {"n_steps": stage.n_steps}


def check_terms(checkpoint: Checkpoint, terms: dict[str, Any]) -> None:
    """Raise CheckpointError unless a continued run has the same model and, up to its state, the same plan."""
    facts, before = checkpoint.facts, checkpoint.facts["terms"]
    if terms["model"] != before["model"]:
        raise CheckpointError("The run was begun with another model. Give that one, or begin a new run.")
    for key in ("replicas", "frame"):
        alone = {"replicas": 1, "frame": 0}[key]
        old, new = before.get(key, alone), terms.get(key, alone)
        if old != new:
            raise CheckpointError(f"The run was begun with {key} = {old}, not {new}. Continue it as it was.")
    for key, old in before.get("began", {}).items():
        if terms["began"][key] != old:
            raise CheckpointError(
                f"The run was begun with {key} = {old}, and {key} = {terms['began'][key]} cannot change that now. "
                "Continue it as it was, or begin a new one in another output."
            )
    now = facts["stage"]
    if len(terms["plan"]) <= now:
        raise CheckpointError(f"The run is in stage {now + 1} of {len(before['plan'])}, the recipe has fewer.")
    for k, (old, new) in enumerate(zip(before["plan"], terms["plan"][: now + 1], strict=False)):
        may_grow = k == now and new["temperature_end_K"] is None and new["n_steps"] >= facts["step"]
        for key in old:
            if new[key] != old[key] and not (key == "n_steps" and may_grow):
                raise CheckpointError(
                    f"The run was begun with {key} = {old[key]}, not {new[key]}. Continue it as it was, or begin "
                    "a new one from its last frame with velocities: file."
                )


def check_structure(recipe: MDRecipe, numbers: NDArray[np.integer]) -> None:
    """Raise CheckpointError if the structure of a recipe, where it is still there, has other atoms than a run."""
    try:
        atoms = read_structure(recipe.structure, recipe.one_frame, named_elements(recipe.elements, None))
    except (OSError, DataError):
        return  # a run that goes on does not need it
    if not np.array_equal(np.tile(atoms.numbers, int(np.prod(recipe.repeat))), numbers):
        was, now = (Symbols(z).get_chemical_formula() for z in (numbers, atoms.numbers))
        raise CheckpointError(
            f"The run in {recipe.output} is of {was}, and {recipe.structure} has {now}, perhaps in another order. "
            "Continue it with the structure that it began with, or begin a new one in another output."
        )


def run_hash(recipe: MDRecipe, terms: dict[str, Any], atoms: Sequence[Atoms]) -> str:
    """SHA-256 of everything that determines a run, which tells its trajectory from that of another.

    Args:
        recipe: of the run.
        terms: of the run, with the hash of its model.
        atoms: as they begin, of each replica.
    """
    content = hashlib.sha256((recipe.model_dump_json() + json.dumps(terms, sort_keys=True)).encode())
    for one in atoms:
        begun = {"positions": one.positions, "momenta": one.get_momenta(), "cell": one.cell.array}
        for array in (identity(one) | begun).values():
            content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()


def provenance(recipe: MDRecipe, calculator: MLPotCalculator, terms: dict[str, Any]) -> dict[str, str]:
    """The card of a trajectory: how it was made; `terms` are those of the run."""
    packages = {name: version(name) for name in ("torch", "numpy", "ase", "h5py")}
    return {
        "made with": f"mlpot {__version__}",
        "recipe": recipe.model_dump_json(),
        "model sha256": terms["model"],
        **({"run sha256": terms["run"]} if terms["run"] else {}),  # that of a checkpoint of before is not known
        "versions": ", ".join(f"{n} {v}" for n, v in {**packages, "python": platform.python_version()}.items()),
        "computed in": _computed_in(calculator),
        "seed": str(recipe.seed),
        "host": socket.gethostname(),
    }


def _end(simulation: Simulation, wall_s: float, stopped: StoppedError | None) -> End:
    progress = simulation.progress
    return End(
        stage=simulation.plan[progress.stage],
        stage_began_ps=simulation.stage_began_ps,
        n_degrees=progress.n_degrees,
        steps=simulation.step,
        time_ps=simulation.time_fs(progress.stage, progress.step) / 1e3,
        steps_per_s=(simulation.step - simulation.first) / wall_s,
        wall_s=wall_s,
        stopped=None if stopped is None else str(stopped),
        blown_up=isinstance(stopped, BlowUpError),
    )
