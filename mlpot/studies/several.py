"""What all studies share: a directory of many trainings, each in one of its own, which goes on after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlpot.atomic_files import storing, write_whole
from mlpot.folder_lock import folder_lock
from mlpot.signals import SignalledError
from mlpot.training import committee
from mlpot.training.messages import Messages
from mlpot.training.module import TrainingDivergedError
from mlpot.training.recipe import Recipe
from mlpot.training.run_directory import RunDirectoryError, has_begun, has_finished
from mlpot.training.splits import paths_of
from mlpot.training.trainer import Callbacks

DATA, REASON = "data", "failed.txt"
ASIDE = ".overwritten"
"""Folder of a study that is overwritten: gone once the new one has begun."""
FINISHED, FAILED, NOT_DONE = "finished", "failed", "not done"
"""States of a training that a study does not wait for; `NOT_DONE`: its time is too short for it."""
METRICS = "best_epoch", "seconds", "n_weights", "halvings", "repeated_structures", "validation", "test"
"""What a study says of a training that has finished."""
MAY_CHANGE = {
    "data": {"train", "validation", "test", "workers"},  # of which the content is compared
    "training": {"directory", "progress", "checkpoint_minutes", "checkpoint_steps", "accelerator"},
}
"""Keys of a recipe that may differ when a study goes on."""


@dataclass(frozen=True)
class Study:
    """A kind of study."""

    name: str  # in messages
    file: str  # what it writes first, and after each training
    folders: str  # a pattern of those of the trainings
    where: str  # what says the directory

    @contextmanager
    def opened(
        self, directory: Path, *, resume: bool, overwrite: bool, reads: Iterable[str | Path] = ()
    ) -> Iterator[None]:
        """Lock a directory for this process, and leave nothing there if a new study is refused before it begins.

        Args:
            directory: of the study.
            resume: go on with what is there.
            overwrite: remove a study that is there.
            reads: files and folders that the new study is made from, none of which may be removed so.

        Raises:
            RunDirectoryError: there is a study or another run already, or none to resume, or one to remove from
                which the new one would be made.
            LockedError: another process has it; StorageError: it cannot be written.
        """
        with folder_lock(directory):
            self._settle(directory)
            self.check(directory, resume=resume, overwrite=overwrite)
            if not resume and (directory / self.file).is_file():
                self._check_kept(directory, reads)
                self._put_aside(directory)
            try:
                yield
            finally:
                if not (directory / self.file).is_file():
                    self._clear(directory)
                self._settle(directory)

    def check(self, directory: Path, *, resume: bool, overwrite: bool) -> None:
        """Raise RunDirectoryError unless the study may be in the directory."""
        there = (directory / self.file).is_file()
        if resume and not there:
            raise RunDirectoryError(f"{directory} holds no {self.name} to resume. Start it without resuming.")
        if not there and (has_begun(directory) or any(directory.glob("*.json"))):
            raise RunDirectoryError(f"{directory} holds another run. Give another {self.where}.")
        if not there and (directory / DATA).exists():  # which is not ours, or of a start that was killed
            raise RunDirectoryError(
                f"{directory} has a folder {DATA} already, where the {self.name} would put its sets. Give another "
                f"{self.where}, or remove that folder."
            )
        if there and not (resume or overwrite):
            raise RunDirectoryError(
                f"{directory} holds a {self.name} already. Resume it, overwrite it, or give another {self.where}."
            )

    def check_there(self, directory: Path) -> None:
        """Raise RunDirectoryError unless a directory holds a study, of which something is to be made."""
        if not (directory / self.file).is_file():
            raise RunDirectoryError(
                f"{directory} holds no {self.name}: it has no {self.file}. Give the folder in which mlpot "
                f"{self.file.removesuffix('.json')} wrote one."
            )

    def _check_kept(self, directory: Path, reads: Iterable[str | Path]) -> None:
        """Raise RunDirectoryError where something that is read would be removed with the study."""
        removed = [folder.resolve() for folder in self._removed(directory)]
        for path in map(Path, reads):
            whole = path.resolve()
            if whole == directory.resolve() or any(whole.is_relative_to(folder) for folder in removed):
                raise RunDirectoryError(
                    f"{path} would be removed with the {self.name} in {directory}, and the new one is made from "
                    f"it. Give another {self.where}, or copy it elsewhere."
                )

    def _removed(self, directory: Path) -> list[Path]:
        """The folders that go with a study."""
        return [f for f in [directory / DATA, *directory.glob(self.folders)] if f.is_dir()]

    def _put_aside(self, directory: Path) -> None:
        """Move a study that shall be overwritten away, so that it comes back if the new one is refused."""
        with storing(directory, 0):
            (directory / ASIDE).mkdir()
            for path in [*self._removed(directory), directory / self.file]:
                path.rename(directory / ASIDE / path.name)

    def _settle(self, directory: Path) -> None:
        """Remove what was put aside if a new study has begun; if none has, put it back.

        A kill at any time leaves what the next start settles: the file of a study is the last that is put aside or
        removed there, and the first that is put back.
        """
        file, aside = directory / self.file, directory / ASIDE
        if not aside.is_dir():
            return
        folders, kept = [path for path in aside.iterdir() if path.name != self.file], aside / self.file
        if kept.is_file() and file.is_file():
            with storing(directory, 0):
                for folder in folders:
                    shutil.rmtree(folder)
                kept.unlink()
        else:
            if kept.is_file():
                self._clear(directory)
            with storing(directory, 0):
                for path in [*([kept] if kept.is_file() else []), *folders]:
                    path.rename(directory / path.name)
        with storing(directory, 0):
            aside.rmdir()

    def _clear(self, directory: Path) -> None:
        with storing(directory, 0):
            (directory / self.file).unlink(missing_ok=True)
            for folder in self._removed(directory):
                shutil.rmtree(folder)

    def write(self, directory: Path, content: Mapping[str, Any]) -> None:
        """Write the file of the study."""
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        write_whole(directory / self.file, f"{text}\n".encode())
        self._settle(directory)

    @contextmanager
    def before(self, directory: Path) -> Iterator[dict[str, Any]]:
        """What the file says of a study that goes on, for a block that takes it apart.

        Raises:
            RunDirectoryError: the file is damaged, or lacks what the block asks it for.
        """
        path = directory / self.file
        try:
            yield json.loads(path.read_text(encoding="utf-8"))
        except RunDirectoryError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            lacking = f"has no entry {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
            raise RunDirectoryError(
                f"{path} is damaged: {lacking}. Restore it, or start the {self.name} anew with --overwrite."
            ) from error


def files_of(recipe: Recipe) -> list[str]:
    """The files that a recipe reads."""
    data, start = recipe.data, recipe.model.start
    given = (data.train, [] if isinstance(data.validation, int | float) else data.validation, data.test or [])
    return [*(path for files in given for path in paths_of(files)), *([] if start is None else [start])]


def changed_keys(earlier: Recipe, now: Recipe) -> list[str]:
    """The keys of a recipe that may not change when a study goes on, and did."""
    before, after = (r.model_dump(mode="json", exclude=MAY_CHANGE) for r in (earlier, now))
    return [f"{s}.{k}" for s, fields in after.items() for k, v in fields.items() if v != before[s][k]]


def state_of(directory: Path) -> str:
    """How far the training in a directory is."""
    if (directory / REASON).is_file():
        return FAILED
    if has_finished(directory):
        return FINISHED
    return "begun" if has_begun(directory) else "waiting"


def facts_of(recipe: Recipe) -> dict[str, Any]:
    """State, directory and epochs of one training, why it failed, or some entries of its metrics."""
    directory = Path(recipe.training.directory)
    state = state_of(directory)
    facts = {"state": state, "directory": directory.name, "epochs": recipe.training.epochs}
    if state == FAILED:
        facts["reason"] = (directory / REASON).read_text(encoding="utf-8").strip()
    if state == FINISHED:
        metrics = json.loads((directory / "metrics.json").read_text(encoding="utf-8"))
        facts |= {key: metrics[key] for key in METRICS if key in metrics}
    return facts


def train_each(
    recipes: Mapping[str, Recipe],
    after: Callable[[], object],
    tell: Messages,
    *,
    resume: bool,
    callbacks: Callbacks,
) -> None:
    """Train one after the other what has neither finished nor failed.

    Args:
        recipes: by what each is, in words.
        after: called after each training.
        tell: where it is said.
        resume: go on from checkpoints.
        callbacks: Lightning's, of every training.

    Raises:
        As `committee.train`, but for a training that diverges: the reason is kept in its directory.
    """
    for k, (what, recipe) in enumerate(recipes.items()):
        directory = Path(recipe.training.directory)
        if state_of(directory) in (FINISHED, FAILED):
            continue
        tell(f"Training {k + 1} of {len(recipes)}: {what}; log: {directory}/train.log")
        try:
            committee.train(recipe, resume=resume and has_begun(directory), callbacks=callbacks)
        except TrainingDivergedError as error:
            write_whole(directory / REASON, f"{error}\n".encode())
        except SignalledError as error:  # which names the command of a single training
            told = f"Stopped in {directory}, and saved. Go on by the same command with --resume."
            raise SignalledError(told, error.exit_code - 128) from None
        after()


def of_failures(points: Sequence[Mapping[str, Any]], called: Callable[[Mapping[str, Any]], str]) -> list[str]:
    """That some trainings are still to be done, and which ones failed."""
    states = [p["state"] for p in points if p["state"] != NOT_DONE]
    wanted, left = len(states), sum(state not in (FINISHED, FAILED) for state in states)
    notes = [f"Half-finished: {left} of {wanted} trainings are still to be done."] if left else []
    return notes + [f"{called(p)}: {p['reason']}" for p in points if p["state"] == FAILED]
