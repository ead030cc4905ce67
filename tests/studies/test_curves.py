"""Do curves beside each other tell a slope from a factor, and does an average of rotated copies err as it must?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sets import crystals, small_recipe, write
from training_runs import no_pictures

from mlpot.cli.main import main
from mlpot.figures.svg import plain_logarithmic
from mlpot.html.run import write_report
from mlpot.recipes import RecipeError
from mlpot.studies.averaged_curve import average_curve
from mlpot.studies.curve import curve
from mlpot.studies.curves import compare, head_and_rows
from mlpot.studies.power_law import fit
from mlpot.training.run_directory import RunDirectoryError

SIZES = (10, 20, 40, 80)
LUCK = np.exp(
    np.random.default_rng(3).normal(scale=0.2, size=(3, len(SIZES)))
)  # of the frames that all curves have
DRAWING = {
    "by": "block",
    "block": None,
    "seed": 0,
    "train_hash": "a",
    "validation": 4,
    "validation_hash": None,
    "test_hash": "b",
}
FORCES = "forces_mae_meV_per_A"


def written(
    folder: Path,
    slope: float,
    factor: float,
    *,
    seeds: int = 3,
    finished: int = 3,
    members: int = 1,
    **drawing: Any,
) -> Path:
    """The directory of a curve whose errors are a power of the size times the luck of each subset."""
    points = [
        {"size": n, "seed": k, "state": "waiting", "directory": f"frames_{n}_seed_{k}", "epochs": 1}
        | (
            {"state": "finished", "seconds": 1.0, "test": {FORCES: factor * n**slope * LUCK[k, i]}}
            if k < finished
            else {}
        )
        for i, n in enumerate(SIZES)
        for k in range(seeds)
    ]
    content = {"sizes": list(SIZES), "seeds": seeds, "backbone": "schnet", "budget": 10, "pool": {}}
    content |= {"points": points, "drawing": DRAWING | drawing, "complete": finished == seeds}
    content |= {"finished": finished * len(SIZES), "trainings": len(points)}
    content |= {"recipe": {"training": {"seed": 0, "committee": members}}}
    folder.mkdir()
    (folder / "curve.json").write_text(json.dumps(content))
    return folder


def test_the_luck_of_shared_frames_is_in_no_ratio(tmp_path: Path) -> None:
    first = written(tmp_path / "distances", -0.4, 100.0)
    found = compare([first, written(tmp_path / "vectors", -0.4, 50.0), written(tmp_path / "tensors", -0.7, 50.0)])
    plain, vectors, tensors = found["rows"]
    assert found["against"] == "distances"
    assert "ratio" not in plain
    law = fit(SIZES, 100.0 * np.array(SIZES) ** -0.4 * LUCK)
    assert plain["law"]["slope"] == pytest.approx(law.slope)
    assert plain["law"]["standard_error"] > 0.01
    assert vectors["ratio"]["factor"] == pytest.approx(0.5)
    assert vectors["ratio"]["slope"]["slope"] == pytest.approx(0, abs=1e-12)
    assert tensors["ratio"]["slope"]["slope"] == pytest.approx(-0.3)
    assert tensors["ratio"]["slope"]["standard_error"] < 1e-9 < plain["law"]["standard_error"]
    middle = np.exp(np.log(SIZES).mean())
    assert tensors["ratio"]["size"] == pytest.approx(middle)
    assert tensors["ratio"]["factor"] == pytest.approx(0.5 * middle**-0.3)
    head, rows = head_and_rows(found)
    assert all(len(row) == len(head) for row in rows)


def test_a_half_finished_curve_is_compared_where_all_have_finished(tmp_path: Path) -> None:
    folders = [written(tmp_path / "a", -0.5, 1.0), written(tmp_path / "b", -0.5, 2.0, finished=2)]
    found = compare(folders)
    assert found["seeds"] == [0, 1]
    assert not found["complete"]
    assert found["notes"] == [
        "Half-finished: b.",
        "Compared are the seeds of which every curve has all sizes: 0, 1.",
    ]
    with pytest.raises(RecipeError, match="0 seeds in common"):
        compare([folders[0], written(tmp_path / "c", -0.5, 1.0, finished=0)])


def test_curves_of_other_data_are_not_compared(tmp_path: Path) -> None:
    folders = [written(tmp_path / "a", -0.5, 1.0), written(tmp_path / "b", -0.5, 1.0, test_hash="c")]
    with pytest.raises(RecipeError, match="test_hash"):
        compare(folders)
    with pytest.raises(RecipeError, match="--against c"):
        compare(folders, against="c")
    for no_error in (0.0, -3.0, np.inf, np.nan):
        with pytest.raises(RecipeError, match=f"--target {no_error:g} is no error"):
            compare([tmp_path / "a", tmp_path / "c"], target=no_error)
    with pytest.raises(RecipeError, match="two or more"):
        compare(folders[:1])
    (tmp_path / "empty").mkdir()
    for absent in ("empty", "nowhere"):
        with pytest.raises(RunDirectoryError, match=r"holds no curve: it has no curve\.json\. Give the folder"):
            compare([folders[0], tmp_path / absent])


def test_the_command_draws_and_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(written(tmp_path / name, -0.5, factor)) for name, factor in (("a", 1.0), ("b", 0.25))]
    monkeypatch.setattr(sys, "argv", ["mlpot", "curves", *folders, "--target", "0.1", "-o", str(tmp_path / "out")])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    told = " ".join(capsys.readouterr().out.split())
    assert "errors 0.250 ± 0.000" in told
    assert "b: Forces MAE of 0.1 meV/Å: about" in told
    assert (tmp_path / "out" / "curves.png").stat().st_size > 5000
    assert json.loads((tmp_path / "out" / "curves.json").read_text())["complete"]
    page = write_report(tmp_path / "out").read_text()
    assert "complete" in page
    assert "b: slope +0.00 ± 0.00" in page
    assert page.count("<img") == 3


@pytest.mark.parametrize(("seeds", "is_told"), [(1, False), (3, True)])
def test_other_frames_of_a_seed_are_told(tmp_path: Path, seeds: int, is_told: bool) -> None:
    """A committee takes several seeds for each of the curve, so that its second one draws other frames."""
    folders = [
        written(tmp_path / name, -0.4, 100.0, seeds=seeds, finished=seeds, members=members)
        for name, members in (("alone", 1), ("committee", 4))
    ]
    told = "committee was trained on other frames than alone"
    assert any(told in note for note in compare(folders)["notes"]) is is_told


def test_errors_on_both_sides_of_a_power_of_ten_have_numbers_on_both() -> None:
    figure = Figure()
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    axes.plot([1, 2], [65, 185])
    axes.set(yscale="log", ylim=(65, 185))
    plain_logarithmic(axes.yaxis)
    canvas.draw()
    written = {label.get_text() for label in axes.get_yticklabels(which="both")}
    assert {"70", "100", "150"} <= written


def _lost_and_trained_anew(
    folder: Path, alone: dict[str, Any], found: dict[str, Any], settings: dict[str, Any]
) -> None:
    """A model that is deleted stops no other; one trained anew is averaged anew; another test set is refused."""
    small, large = (folder / "curve" / point["directory"] for point in alone["points"])
    kept, moved = folder / "curve" / "curve.json", large / "moved"
    (large / "model.safetensors").rename(moved)
    part = average_curve(folder / "curve", folder / "of_one", **settings)
    assert [point["state"] for point in part["points"]] == ["finished", "waiting"]
    assert any(note.startswith(f"{large.name}: no model.safetensors") for note in part["notes"])
    assert average_curve(folder / "curve", folder / "averaged", resume=True, **settings) == found
    moved.rename(large / "model.safetensors")
    whole = average_curve(folder / "curve", folder / "of_one", resume=True, **settings)
    assert [point["test"] for point in whole["points"]] == [point["test"] for point in found["points"]]

    text, models = kept.read_text(), [folder / "of_one" / of.name / "model.safetensors" for of in (small, large)]
    other, before = json.loads(text), [model.stat().st_mtime_ns for model in models]
    other["points"][0]["seconds"] += 1.0
    kept.write_text(json.dumps(other))
    average_curve(folder / "curve", folder / "of_one", resume=True, **settings)
    assert [model.stat().st_mtime_ns == time for model, time in zip(models, before, strict=True)] == [False, True]
    kept.write_text(text)
    test = folder / "test.h5"
    content = test.read_bytes()
    test.unlink()
    write(test, crystals(20)[18:])
    with pytest.raises(RunDirectoryError, match=r"test set .* changed since the curve"):
        average_curve(folder / "curve", folder / "of_one", resume=True, **settings)
    test.write_bytes(content)


def test_averages_of_a_network_that_is_equivariant_err_as_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_pictures(monkeypatch)
    frames = crystals(22)
    write(tmp_path / "set.h5", frames[:18])
    test = write(tmp_path / "test.h5", frames[18:])
    recipe = small_recipe(tmp_path / "set.h5", tmp_path / "curve", f"data.test={test}", "training.epochs=1")
    alone = curve(recipe, (4, 8), 1)
    settings = {"over": "octahedral", "reflections": False, "n_rotations": 60, "seed": 1}
    found = average_curve(tmp_path / "curve", tmp_path / "averaged", **settings)
    assert found["complete"]
    for point, average in zip(alone["points"], found["points"], strict=True):
        assert average["test"] == pytest.approx(point["test"], rel=1e-4)
        assert average["copies"] == 24
    models = list((tmp_path / "averaged").glob("*/model.safetensors"))
    times = [path.stat().st_mtime_ns for path in models]
    assert average_curve(tmp_path / "curve", tmp_path / "averaged", resume=True, **settings) == found
    assert [path.stat().st_mtime_ns for path in models] == times
    _lost_and_trained_anew(tmp_path, alone, found, settings)
    mirrored = average_curve(tmp_path / "curve", tmp_path / "mirrored", **settings | {"reflections": True})
    assert "Mirror images have one energy." in mirrored["notes"]
    with pytest.raises(RecipeError, match="other values of over"):
        average_curve(tmp_path / "curve", tmp_path / "averaged", resume=True, **settings | {"over": "icosahedral"})
    with pytest.raises(RunDirectoryError, match="would be removed with the curve"):
        average_curve(tmp_path / "curve", tmp_path / "curve", overwrite=True, **settings)
    assert len(list((tmp_path / "curve").glob("*/model.safetensors"))) == 2
    with pytest.raises(RunDirectoryError, match="holds no curve: it has"):
        average_curve(tmp_path / "nowhere", tmp_path / "averaged", overwrite=True, **settings)
    assert "Rotated copies had one energy already: averaging over rotations changes nothing." in found["notes"]
    with pytest.raises(RunDirectoryError, match="mlpot average --resume"):
        curve(
            small_recipe(tmp_path / "set.h5", tmp_path / "averaged", f"data.test={test}"), (4, 12), 1, resume=True
        )
