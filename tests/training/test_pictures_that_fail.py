"""Does a picture for which there is no place leave a training and an evaluation their results?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sets import crystals, small_recipe, write

from mlpot.atomic_files import PictureWarning
from mlpot.evaluate import evaluate
from mlpot.model_file import load_potential
from mlpot.training.fit import train
from mlpot.training.run_directory import has_finished


@pytest.mark.usefixtures("_pictures")
def test_results_are_written_before_pictures_and_not_lost_with_them(tmp_path: Path) -> None:
    write(tmp_path / "set.h5", crystals())
    run, judged = tmp_path / "run", tmp_path / "judged"
    for place in (run / "parity.png", run / "learning_curve.png", judged / "parity.png"):
        place.mkdir(parents=True)  # where no file can be written
    with pytest.warns(PictureWarning) as told:
        found = train(small_recipe(tmp_path / "set.h5", run, "training.epochs=1"))
    names = [name for name in ("parity.png", "learning_curve.png") if any(name in str(w.message) for w in told)]
    assert names == ["parity.png", "learning_curve.png"]
    assert all("\n" not in str(w.message) for w in told)
    assert has_finished(run)
    assert json.loads((run / "metrics.json").read_text()) == json.loads(json.dumps(found.metrics))
    model = load_potential(run / "model.safetensors")
    with pytest.warns(PictureWarning, match="no new .*parity.png, and all else is written"):
        evaluate(model, tmp_path / "set.h5", output=judged)
    assert json.loads((judged / "evaluation.json").read_text())["n_frames"] == 16
