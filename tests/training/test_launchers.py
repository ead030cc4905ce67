"""Is MPI asked for other processes of a training only where it launched this one?"""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.fabric.plugins.environments import MPIEnvironment
from sets import small_recipe

from mlpot.training.trainer import MPI_LAUNCHED, make_trainer


def test_a_training_that_mpi_did_not_launch_does_not_start_mpi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where MPI cannot start, as on many login nodes, it ends the process."""
    asked = []
    monkeypatch.setattr(MPIEnvironment, "detect", lambda: bool(asked.append(1)))
    for name in MPI_LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    recipe = small_recipe(tmp_path / "a.h5", tmp_path, "training.accelerator=cpu")
    make_trainer(recipe, tmp_path, [])
    assert not asked
    monkeypatch.setenv("PMI_SIZE", "2")
    make_trainer(recipe, tmp_path, [])
    assert asked
