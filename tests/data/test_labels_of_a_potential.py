"""Labels that a potential computed are told from those of a reference method, wherever they go."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mlpot.data import h5md
from mlpot.data.check.survey import survey
from mlpot.data.label import label
from mlpot.data.merge import merge
from mlpot.data.sources.convert import convert
from mlpot.data.sources.read import Source
from mlpot.data.split import split
from mlpot.model_file import save_potential
from mlpot.potential import Potential
from mlpot.predictions.files import predict_file
from mlpot.training.data_summary import tell_of_potentials
from mlpot.training.messages import Messages
from mlpot.training.splits import Part


@pytest.fixture
def predicted(tmp_path: Path) -> Path:
    """Six waters with the predictions of a potential, in a folder with `model` and `reference.h5`."""
    arguments = {"n_features": 4, "n_radial": 4}
    save_potential(Potential("schnet", arguments, reference_energies={1: 0.0, 8: 0.0}), tmp_path / "model")
    rng = np.random.default_rng(0)
    waters = [molecule("H2O") for _ in range(6)]
    for k, water in enumerate(waters):
        water.positions += rng.normal(0, 0.05, (3, 3))
        water.calc = SinglePointCalculator(water, energy=-14.0 - k, forces=np.zeros((3, 3)))
    h5md.write(tmp_path / "reference.h5", waters, card={})
    predict_file(tmp_path / "model", tmp_path / "reference.h5", tmp_path / "predicted.h5")
    return tmp_path / "predicted.h5"


def told(path: Path) -> str:
    source = Source(path)
    assert list(source.frames())
    return " ".join(source.report.lines())


def test_predictions_are_told_by_the_hash_of_the_model_in_all_that_is_made_of_them(predicted: Path) -> None:
    folder = predicted.parent
    model = hashlib.sha256((folder / "model").read_bytes()).hexdigest()
    convert(predicted, folder / "converted.h5")
    split(folder / "converted.h5", [0.5, 0.5], by="random")
    sources = [Source(folder / "reference.h5"), Source(predicted)]
    merge(sources, folder / "merged.h5", references="keep", conflicts="keep")
    for name in ("predicted", "converted", "converted-train", "merged"):
        assert Source(folder / f"{name}.h5").card["model sha256"] == model
        assert f"those of a potential (model sha256 {model[:12]}), and not of a reference" in told(
            folder / f"{name}.h5"
        )
    assert "potential (" not in told(folder / "reference.h5")


def test_labels_of_a_method_take_the_place_of_predictions(predicted: Path) -> None:
    pytest.importorskip("tblite", reason="GFN2-xTB labels the structures")
    label(predicted, predicted.parent / "labeled.h5", calculator="tblite")
    assert "model sha256" not in Source(predicted.parent / "labeled.h5").card
    assert "potential (" not in told(predicted.parent / "labeled.h5")


def test_a_training_warns_of_labels_that_a_potential_computed(predicted: Path) -> None:
    told_of: dict[str, list[str]] = {}
    for path in (predicted, predicted.parent / "reference.h5"):
        part = Part(survey(path), np.arange(6))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tell_of_potentials(part, Messages(show=False))
        told_of[path.name] = [str(w.message) for w in caught]
    assert [len(lines) for lines in told_of.values()] == [1, 0]
    assert "learns its errors" in told_of["predicted.h5"][0]
