"""Does one process at a time train in a folder, and is nothing left of one that was refused?"""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch import Callback
from sets import crystals, small_recipe, write

from mlpot.folder_lock import LockedError, folder_lock
from mlpot.training.committee import train

pytestmark = pytest.mark.usefixtures("_no_pictures")


class TrainsBeside(Callback):
    """A second training in the same folder, in the middle of the first."""

    def __init__(self, recipe: object, resume: bool):
        self.recipe, self.resume = recipe, resume
        self.told = ""

    def on_train_batch_end(self, *_: object) -> None:
        if not self.told:
            with pytest.raises(LockedError) as refused:
                train(self.recipe, resume=self.resume, overwrite=not self.resume)  # type: ignore[arg-type]
            self.told = str(refused.value)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("n_members", [1, 2])
def test_two_trainings_do_not_write_into_one_folder(n_members: int, resume: bool, tmp_path: Path) -> None:
    data = write(tmp_path / "set.h5", crystals())
    recipe = small_recipe(
        data, tmp_path / "run", "training.epochs=1", f"training.committee={n_members}", "model.backbone=schnet"
    )
    beside = TrainsBeside(recipe, resume)
    result = train(recipe, callbacks=[beside])
    assert "is in use by process" in beside.told
    assert result.model.exists()
    assert not list(tmp_path.rglob(".lock"))


def test_a_folder_that_was_made_for_a_refused_run_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), folder_lock(tmp_path / "run"):
        raise ValueError("refused")
    assert not (tmp_path / "run").exists()
