"""The directory of a training: its files, and whether the run in it may be continued."""

from __future__ import annotations

import json
import secrets
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
import yaml

from mlpot.atomic_files import storing, write_whole
from mlpot.figures.training import LOGS
from mlpot.recipes import RecipeError, load_recipe
from mlpot.training.messages import LOG, Messages
from mlpot.training.module import relative_rate
from mlpot.training.recipe import Recipe
from mlpot.training.splits import Parts
from mlpot.training.trainer import BEST, FOLDER, LAST

MAY_CHANGE = {
    "data": {"train", "validation", "test", "workers", "check", "allow_duplicates"},
    "model": {"start"},  # of which the run has a copy
    "training": {
        *("epochs", "max_minutes", "patience", "solve", "checkpoint_minutes", "checkpoint_steps", "progress"),
        *(
            "directory",
            "accelerator",
            "devices",
            "strategy",
            "nodes",
            "committee",
            "member_arguments",
            "members_at_once",
        ),
    },
}
"""Keys that may differ in a resumed run. Frames are compared by content, the number of processes separately."""
MODEL = "model.safetensors"
PROPAGATOR = "checkpoint.ckpt"  # what only a run of propagators has, beside a recipe, a model and metrics


class RunDirectoryError(ValueError):
    """The directory holds a run where there should be none, or none where there should be one."""


def data_of(parts: Parts, steps: int, processes: int) -> dict[str, Any]:
    """What splits.json says: which frames train and validate, by content, in how many steps and processes."""
    validation = parts.validation.data
    return {
        "training_set_hash": parts.train_hash,
        "validation_set_hash": validation.hash,
        "train": parts.train.indices.tolist(),
        "validation": parts.validation.indices.tolist(),
        "validation_set": validation.path,
        "steps_per_epoch": steps,
        "processes": processes,
    }


def prepare_directory(
    directory: Path, recipe: Recipe, content: dict[str, Any], tell: Messages, *, resume: bool, overwrite: bool
) -> str:
    """Check and fill the directory of a run, recipe.yaml and splits.json, and give back the name of the run.

    Args:
        directory: of the run.
        recipe: of the run.
        content: that of `data_of`.
        tell: where a change of the schedule is said.
        resume: go on with what is there.
        overwrite: remove what is there.

    Raises:
        RunDirectoryError: there is a run already, or none to resume, or one on other data.
        RecipeError: the recipe of the run to resume was another.
    """
    check_holds_no_propagator(directory)
    name = secrets.token_hex(8)
    if resume:
        name = check_same_run(directory, recipe, content, tell) or name
    else:
        if any((directory / there).exists() for there in (FOLDER, MODEL)) and not overwrite:
            raise RunDirectoryError(
                f"{directory} holds a run already. Resume it, overwrite it, or give another training.directory."
            )
        for folder in (FOLDER, LOGS):
            shutil.rmtree(directory / folder, ignore_errors=True)
    with storing(directory, 0):
        directory.mkdir(parents=True, exist_ok=True)
        if not resume:
            (directory / LOG).unlink(missing_ok=True)
        (directory / "metrics.json").unlink(missing_ok=True)  # what is left last says that a run has finished
    write_beginning(directory, recipe, content | {"run": name})
    tell.write_to(directory)
    return name


def check_holds_no_propagator(directory: Path) -> None:
    """Raise RunDirectoryError for the run of a propagator, which has files of the same names."""
    if (directory / PROPAGATOR).exists() and not (directory / "splits.json").exists():
        raise RunDirectoryError(
            f"{directory} holds the training of a propagator. Give another training.directory, or remove it."
        )


def write_beginning(directory: Path, recipe: Recipe, content: dict[str, Any]) -> None:
    """Write what says that a run was begun in a directory: splits.json, then recipe.yaml."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_whole(directory / "splits.json", f"{json.dumps(content)}\n".encode())
    write_whole(directory / "recipe.yaml", text.encode())


def has_begun(directory: Path) -> bool:
    """Whether a directory holds a run, if only its beginning."""
    return (directory / "recipe.yaml").is_file()


def has_finished(directory: Path) -> bool:
    """Whether the run in a directory has written all; metrics go when it goes on, and come after the model."""
    return all((directory / name).is_file() for name in ("metrics.json", MODEL))


def check_same_run(directory: Path, recipe: Recipe, content: dict[str, Any], tell: Messages) -> str | None:
    """Raise unless the directory holds a run of the same recipe on the same data, if only its beginning.

    Returns:
        The name of the run; earlier versions gave it none.
    """
    check_holds_run(directory)
    name = _name_of_run(directory)
    earlier = check_same_recipe(directory, recipe)
    _check_same_data(directory, content)
    _tell_of_schedule(earlier, recipe, content["steps_per_epoch"], tell)
    return name


def check_same_recipe(directory: Path, recipe: Recipe) -> Recipe:
    """The recipe of the run in a directory; raise RecipeError if this one differs in what may not change."""
    earlier = load_recipe(Recipe, directory / "recipe.yaml")
    before, now = (r.model_dump(exclude=MAY_CHANGE) for r in (earlier, recipe))
    changed = [f"{s}.{k}" for s, fields in now.items() for k, v in fields.items() if v != before[s][k]]
    if isinstance(recipe.data.validation, int | float) is not isinstance(earlier.data.validation, int | float):
        changed.append("data.validation")
    if (recipe.model.start is None) is not (earlier.model.start is None):
        changed.append("model.start")
    if changed:
        may = ", ".join(f"{section}.{key}" for section, keys in MAY_CHANGE.items() for key in sorted(keys))
        raise RecipeError(
            f"The run in {directory} was started with other values of {', '.join(changed)}. Resume it with "
            f"{directory / 'recipe.yaml'}, or start a run in another directory. What may change: {may}."
        )
    return earlier


def _name_of_run(directory: Path) -> str | None:
    """The name of the run in a directory, once its newest checkpoint is known to be whole and of that run."""
    name: str | None = _beginning(directory).get("run")
    last = last_checkpoint(directory)
    if last is None:  # the run was killed before its first checkpoint, and begins again
        return name
    # The best one is needed at the end; it is there since the first epoch was done.
    read = {LAST: last} | ({BEST: read_checkpoint(directory / BEST)} if epochs_done(last) else {})
    for file, checkpoint in read.items():
        if checkpoint.get("mlpot", {}).get("run", name) != name:
            raise RunDirectoryError(
                f"{directory / file} is of another run than {directory / 'splits.json'}. Put the run's own "
                "checkpoint there, or start a new run."
            )
    return name


def _beginning(directory: Path) -> dict[str, Any]:
    """What splits.json says of the run in a directory.

    Raises:
        RunDirectoryError: it is missing or damaged.
    """
    path = directory / "splits.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # of UTF-8 and of JSON
        found, why = None, str(error)
    else:
        why = "it holds no table"
    if not isinstance(found, dict):
        raise RunDirectoryError(
            f"{path}, which says by what frames the run is trained, is damaged or missing: {why}. Put a copy of "
            "it there, or start the run anew."
        )
    return found


def check_holds_run(directory: Path) -> None:
    """Raise RunDirectoryError unless a run was begun in the directory."""
    if not has_begun(directory):
        raise RunDirectoryError(
            f"{directory} holds no run to resume. Start it without resuming, or, if its folder was moved, give "
            "training.directory as it is called now."
        )


def moved_to(recipe: Recipe, path: Path) -> Path | None:
    """The folder in which a recipe lies, if that is a run's and the directory that the recipe names holds none."""
    here = path.parent
    named = Path(recipe.training.directory)
    if path.name == "recipe.yaml" and (here / "splits.json").is_file() and not (named / "recipe.yaml").is_file():
        return here
    return None


def _check_same_data(directory: Path, content: dict[str, Any]) -> None:
    before = _beginning(directory)
    if before.get("processes", content["processes"]) != content["processes"]:
        raise RunDirectoryError(
            f"The run in {directory} was started in {before['processes']} processes, this one has "
            f"{content['processes']}: batches and steps would be others. Resume it with as many "
            "(training.devices, training.nodes), or start a new run."
        )
    # Of runs of earlier versions only the path of a validation set is known.
    by = "validation_set_hash" if "validation_set_hash" in before else "validation_set"
    if any(before.get(key) != content[key] for key in ("training_set_hash", "train", "validation", by)):
        raise RunDirectoryError(
            f"The data changed since the run in {directory} was started. Restore them, or start a new run."
        )


def _tell_of_schedule(earlier: Recipe, recipe: Recipe, steps: int, tell: Messages) -> None:
    """Tell how the learning rate jumps where the cosine is drawn anew, or that no epoch is left to do."""
    last = last_checkpoint(Path(recipe.training.directory))
    done = epochs_done(last)
    if recipe.training.epochs < done:
        tell.warn(
            f"training.epochs is {recipe.training.epochs}, and {done} were done before: none is done any more, "
            f"and the potential is that of the {done}."
        )
        return
    epochs = earlier.training.epochs, recipe.training.epochs
    if epochs[0] == epochs[1] or recipe.optimizer.schedule != "cosine" or last is None:
        return
    done = last["global_step"]
    before, after = (
        recipe.optimizer.learning_rate * relative_rate(recipe.optimizer, done, steps * n) for n in epochs
    )
    tell.warn(
        f"training.epochs is {epochs[1]} and was {epochs[0]}: the cosine of the learning rate is drawn anew over "
        f"{epochs[1]} epochs, and the rate goes from {before:.2g} to {after:.2g} here. To go on without such a "
        "jump, train with optimizer.schedule=none or plateau, or start a new run."
    )


def last_checkpoint(directory: Path) -> dict[str, Any] | None:
    """The newest checkpoint of the run in a directory; None before there is one."""
    return read_checkpoint(directory / LAST) if (directory / LAST).exists() else None


def epochs_done(checkpoint: dict[str, Any] | None) -> int:
    """Epochs that a run has done, with their validation."""
    if checkpoint is None:
        return 0
    return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A training checkpoint, read without running anything that it may hold, whatever the environment says.

    Raises:
        RunDirectoryError: damaged, or made of more than numbers, text and tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch reads numbers of a part whose checksum is wrong
            if (part := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of {part} in it is wrong")
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch, zip and unpickling fail in many ways
        reason = (str(error) or repr(error)).splitlines()[0].rstrip(".")
        best = path.with_name(Path(BEST).name)
        replaces = path.name == Path(LAST).name and best.is_file()
        way = f"Copy {best} to {path} to go on from the best epoch, or start" if replaces else "Start"
        raise RunDirectoryError(
            f"{path} is damaged, or holds more than numbers and tensors: {reason}. {way} the run anew."
        ) from None
