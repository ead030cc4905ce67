"""Does `mlpot.train` do what `mlpot train` does, to the last bit, by a file or a dictionary?"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from sets import crystals, small_recipe, write
from training_runs import assert_same_training
from typer.testing import CliRunner

import mlpot
from mlpot.cli.main import app
from mlpot.recipes import RecipeError
from mlpot.training.run_directory import RunDirectoryError


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of one, in the directory of whose run the command has trained."""
    folder = tmp_path_factory.mktemp("by_command")
    asked = small_recipe(write(folder / "set.h5", crystals()), folder / "run", "training.epochs=3")
    (folder / "my.yaml").write_text(yaml.safe_dump(asked.model_dump(mode="json")))
    command = ["train", str(folder / "my.yaml"), "training.epochs=2", "optimizer.learning_rate=1e-3"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return folder / "my.yaml"


@pytest.mark.parametrize("given", ["file and values", "dictionary and words"])
def test_python_trains_what_the_command_trains(given: str, recipe: Path, tmp_path: Path) -> None:
    if given == "file and values":
        values = {"training.epochs": 2, "optimizer.learning_rate": 1e-3, "training.directory": tmp_path / "run"}
        found = mlpot.train(recipe, values)
    else:
        asked = yaml.safe_load(recipe.read_text())
        asked["training"] |= {"epochs": 2, "directory": tmp_path / "run"}
        found = mlpot.train(asked, ["optimizer.learning_rate=1e-3"])
        assert yaml.safe_load(recipe.read_text())["training"]["epochs"] == 3
    assert found.directory == tmp_path / "run"
    assert found.model == tmp_path / "run" / "model.safetensors"
    assert found.metrics["epochs"] == 2
    assert found.potential.is_frozen
    assert_same_training(recipe.parent / "run", found.directory)


def test_python_is_told_of_mistakes_as_the_command_is(recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"unknown key 'training\.epoch'. Did you mean 'epochs'"):
        mlpot.train(recipe, {"training.epoch": 3})
    with pytest.raises(RunDirectoryError, match="holds a run already"):
        mlpot.train(recipe, {"training.epochs": 2})


def test_python_reads_structures_with_their_labels(recipe: Path) -> None:
    every = mlpot.read(recipe.parent / "set.h5")
    assert len(every) == len(crystals())
    (last,) = mlpot.read(recipe.parent / "set.h5", "-1")
    assert last.get_potential_energy() == every[-1].get_potential_energy()
    assert (last.get_forces() == every[-1].get_forces()).all()
