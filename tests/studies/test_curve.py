"""Is a curve of error against training frames made of nested sets, without a leak, and the same after a stop?"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from lightning.pytorch import Callback
from sets import crystals, free_atoms, small_recipe, write
from training_runs import PowerCutError, StopIn, no_pictures

from mlpot.cli.main import main
from mlpot.data.check.survey import survey
from mlpot.data.h5md import Reader
from mlpot.figures.curve import half_finished
from mlpot.folder_lock import LockedError, folder_lock
from mlpot.html.files import RunError
from mlpot.html.run import write_report
from mlpot.recipes import RecipeError
from mlpot.signals import SignalledError
from mlpot.studies import curve as module
from mlpot.studies.curve import curve
from mlpot.studies.curve_summary import aside_notes, cell_of, near_notes, summary
from mlpot.studies.subsets import check_elements_of, draw_pool, drawing_of
from mlpot.training.run_directory import RunDirectoryError

SIZES = (4, 12)
SEEDS = 2


@pytest.fixture(scope="module", autouse=True)
def _no_pictures_of_trainings() -> Iterator[None]:
    """Only those of the curve are looked at here."""
    with pytest.MonkeyPatch.context() as patch:
        no_pictures(patch)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a set that has isolated atoms, and a test set."""
    folder, frames = tmp_path_factory.mktemp("data"), crystals(26)
    write(folder / "set.h5", frames[:20] + free_atoms())
    write(folder / "test.h5", frames[20:])
    return folder


def overrides(data: Path) -> tuple[str, ...]:
    return f"data.test={data / 'test.h5'}", "training.epochs=2", "training.checkpoint_steps=2"


@pytest.fixture(scope="module")
def drawn(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A curve that is never changed, and its directory."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, curve(small_recipe(data / "set.h5", directory, *overrides(data)), SIZES, SEEDS, target=1.0)


def positions(path: str | Path) -> set[bytes]:
    with Reader(path) as reader:
        return {atoms.positions.tobytes() + atoms.cell.array.tobytes() for atoms in reader.frames()}


def test_smaller_sets_are_parts_of_larger_ones_and_none_is_judged_by_its_own(
    data: Path, drawn: tuple[Path, dict[str, Any]]
) -> None:
    directory, found = drawn
    with Reader(data / "set.h5") as reader:
        isolated = {a.positions.tobytes() + a.cell.array.tobytes() for a in reader.frames() if len(a) == 1}
    judges = positions(found["pool"]["validation"]) | positions(data / "test.h5")
    assert len(judges) == found["pool"]["n_validation"] + 6
    largest = []
    for seed in range(SEEDS):
        sets = [positions(directory / "data" / f"train_{n}_seed_{seed}.h5") for n in SIZES]
        for n, mine in zip(SIZES, sets, strict=True):
            assert isolated <= mine
            assert len(mine - isolated) == n
            assert not mine & judges
        assert sets[0] < sets[1]
        largest.append(sets[0])
    assert largest[0] != largest[1]  # each seed draws its own
    for p in found["points"]:
        stored = json.loads((directory / p["directory"] / "splits.json").read_text())
        assert stored["validation_set"] == found["pool"]["validation"]


def test_all_trainings_have_as_many_steps_and_are_in_the_files(drawn: tuple[Path, dict[str, Any]]) -> None:
    directory, found = drawn
    assert found["complete"]
    assert len(found["points"]) == len(SIZES) * SEEDS
    assert [p["steps_or_frames"] for p in found["points"]] == [8, 8, 8, 8]
    assert json.loads((directory / "curve.json").read_text()) == found
    assert (directory / "curve.png").stat().st_size > 5000
    for p in found["points"]:
        metrics = json.loads((directory / p["directory"] / "metrics.json").read_text())
        assert p["test"] == metrics["test"]
        assert (directory / p["directory"] / "model.safetensors").exists()
    law = found["laws"]["forces_mae_meV_per_A"]
    errors = np.array([p["test"]["forces_mae_meV_per_A"] for p in found["points"]]).reshape(len(SIZES), SEEDS)
    assert law["slope"] == pytest.approx(np.polyfit(np.log(SIZES), np.log(errors).mean(axis=1), 1)[0])
    assert "extrapolation" in found["target"]["told"] or "do not reach" in found["target"]["told"]


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """All but what the clock says."""
    points = [{k: v for k, v in p.items() if k != "seconds"} for p in found["points"]]
    return {k: v for k, v in found.items() if k not in ("recipe", "pool")} | {"points": points}


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the curve too."""
    monkeypatch.setattr(module, "plot_curve", lambda *arguments, **settings: None)


@pytest.mark.usefixtures("without_pictures")
def test_a_resumed_curve_is_an_unstopped_one(
    data: Path, drawn: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    number = 2
    shutil.copytree(drawn[0], tmp_path, dirs_exist_ok=True)
    for p in drawn[1]["points"][number:]:  # as if it had been killed before these
        shutil.rmtree(tmp_path / p["directory"])
    recipe = small_recipe(data / "set.h5", tmp_path, *overrides(data))
    with pytest.raises(PowerCutError):
        curve(recipe, SIZES, SEEDS, target=1.0, resume=True, callbacks=[StopIn(0, step=5)])
    half = json.loads((tmp_path / "curve.json").read_text())
    assert not half["complete"]
    assert half["finished"] == number
    assert "Half-finished" in half["notes"][0]
    models = [tmp_path / p["directory"] / "model.safetensors" for p in half["points"][:number]]
    written = [path.stat().st_mtime_ns for path in models]
    found = curve(recipe, SIZES, SEEDS, target=1.0, resume=True)
    assert [path.stat().st_mtime_ns for path in models] == written  # what had finished is not trained again
    assert figures(found) == figures(drawn[1])


class StopAtOnce(Callback):
    """Does what a signal does."""

    def on_train_batch_end(self, *_: object) -> None:
        raise SignalledError("Continue with mlpot train", 15)


def test_a_curve_that_a_signal_stops_names_its_own_command(data: Path, tmp_path: Path) -> None:
    recipe = small_recipe(data / "set.h5", tmp_path, *overrides(data))
    with pytest.raises(SignalledError, match="by the same command with --resume") as stopped:
        curve(recipe, SIZES, 1, callbacks=[StopAtOnce()])
    assert stopped.value.exit_code == 143


@pytest.mark.usefixtures("without_pictures")
def test_a_curve_grows_by_sizes_and_seeds(data: Path, drawn: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(drawn[0], tmp_path, dirs_exist_ok=True)
    found = curve(small_recipe(data / "set.h5", tmp_path, *overrides(data)), (8,), SEEDS, resume=True)
    assert found["sizes"] == [4, 8, 12]
    known = {p["directory"]: p["test"] for p in found["points"]}
    assert all(known[p["directory"]] == p["test"] for p in drawn[1]["points"])


@pytest.mark.parametrize(
    ("sizes", "more", "says"),
    [
        ((4, 40), (), "structures are left for training"),
        ((4,), (), "at least two sizes"),
        ((6, 4), (), "do not ascend"),
        ((4, 4), (), "do not ascend"),
        ((0, 4), (), "do not ascend"),
        ((4, 6), ("data.test=null",), "needs a test set"),
        ((4, 6), ("training.max_minutes=1",), "max_minutes=null"),
        ((4, 6), ("training.devices=2", "training.strategy=ddp"), "one process"),
        ((4, 6), ("optimizer.warmup_steps=100",), "warmup_steps"),
        ((4, 6), ("data.validation=20",), "leaves none"),
        ((4, 6), ("loss.weights={surface: 2.0}",), "no training structure is of such a family"),
    ],
)
def test_what_makes_no_curve_is_refused_before_anything_is_trained(
    sizes: tuple[int, ...], more: tuple[str, ...], says: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says):
        curve(small_recipe(data / "set.h5", tmp_path, *overrides(data), *more), sizes, 1)
    assert not list(tmp_path.iterdir())  # nor is anything left there


def test_a_folder_of_the_user_is_not_taken(data: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.h5").write_bytes(b"precious")
    with pytest.raises(RunDirectoryError, match="has a folder data already"):
        curve(small_recipe(data / "set.h5", tmp_path, *overrides(data)), SIZES, 1, overwrite=True)
    assert (tmp_path / "data" / "mine.h5").read_bytes() == b"precious"


def test_two_processes_do_not_write_one_curve(
    data: Path, drawn: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(drawn[0], tmp_path, dirs_exist_ok=True)
    recipe = small_recipe(data / "set.h5", tmp_path, *overrides(data))
    with folder_lock(tmp_path), pytest.raises(LockedError, match="in use by process"):
        curve(recipe, SIZES, SEEDS, resume=True)
    with folder_lock(tmp_path), pytest.raises(LockedError, match="in use by process"):
        curve(recipe, SIZES, SEEDS, overwrite=True)
    assert json.loads((tmp_path / "curve.json").read_text()) == drawn[1]


@pytest.mark.parametrize("entry", ["pool", "budget", "recipe", "drawing", "points"])
def test_a_damaged_curve_is_told(
    entry: str, data: Path, drawn: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "curve.json"
    path.write_text(json.dumps({key: value for key, value in drawn[1].items() if key != entry}))
    if entry != "points":  # which are not read when it goes on
        with pytest.raises(RunDirectoryError, match=rf"curve\.json is damaged: has no entry '{entry}'"):
            curve(small_recipe(data / "set.h5", tmp_path, *overrides(data)), SIZES, SEEDS, resume=True)
    with pytest.raises(RunError, match=rf"curve\.json is damaged, it has no {entry}"):
        write_report(tmp_path)
    path.write_text(path.read_text()[:-100])
    with pytest.raises(RunDirectoryError, match=r"curve\.json is damaged"):
        curve(small_recipe(data / "set.h5", tmp_path, *overrides(data)), SIZES, SEEDS, resume=True)


def test_a_test_set_that_is_trained_on_is_refused(data: Path, tmp_path: Path) -> None:
    leaking = write(tmp_path / "test.h5", crystals(3))
    recipe = small_recipe(data / "set.h5", tmp_path / "run", *overrides(data), f"data.test={leaking}")
    with pytest.raises(ValueError, match="of the test structures are in the"):
        curve(recipe, (4, 16), 1)


@pytest.mark.parametrize(("smallest", "lacking"), [(1, True), (3, False)])
def test_a_size_that_has_no_atom_of_an_element_that_is_judged_is_refused(
    tmp_path: Path, smallest: int, lacking: bool
) -> None:
    """A set begins with structures of all elements; of one that is too small for them this is said."""
    kinds = [bulk(name, "fcc", a=4.0, cubic=True) for name in ("Cu", "Ag", "Au")]
    for k, atoms in enumerate(frames := [kind.copy() for kind in kinds for _ in range(4)]):
        atoms.rattle(0.02, seed=k)
    everything = str(write(tmp_path / "set.h5", frames))
    if lacking:
        with pytest.raises(RecipeError, match=r"--sizes from 1 on: .* have no .* Begin with 3, which"):
            check_elements_of(survey(everything), survey(everything), smallest, 0)
    else:
        check_elements_of(survey(everything), survey(everything), smallest, 0)
    copper = str(write(tmp_path / "copper.h5", frames[:4]))
    check_elements_of(survey(copper), survey(everything), 1, 0)  # what the set has not got is no matter of sizes


def test_another_curve_is_not_gone_on_with(data: Path, drawn: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(drawn[0], tmp_path, dirs_exist_ok=True)
    recipe = small_recipe(data / "set.h5", tmp_path, *overrides(data))
    with pytest.raises(RunDirectoryError, match="holds a curve already"):
        curve(recipe, SIZES, SEEDS)
    with pytest.raises(RecipeError, match="--block"):
        curve(recipe, SIZES, SEEDS, block=2, resume=True)
    other = small_recipe(data / "set.h5", tmp_path, *overrides(data), "optimizer.learning_rate=0.1")
    with pytest.raises(RecipeError, match=r"optimizer\.learning_rate"):
        curve(other, SIZES, SEEDS, resume=True)
    fewer = write(tmp_path / "fewer.h5", crystals(18))
    with pytest.raises(RunDirectoryError, match="data changed"):
        curve(small_recipe(fewer, tmp_path, *overrides(data)), SIZES, SEEDS, resume=True)
    with pytest.raises(RunDirectoryError, match="no curve to resume"):
        curve(small_recipe(data / "set.h5", tmp_path / "new", *overrides(data)), SIZES, SEEDS, resume=True)
    with pytest.raises(RunDirectoryError, match="another run"):
        curve(small_recipe(data / "set.h5", tmp_path / "frames_4_seed_0", *overrides(data)), SIZES, SEEDS)


def test_the_page_of_a_half_finished_curve_says_so(drawn: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    found = json.loads(json.dumps(drawn[1]))
    last = found["points"][-1]
    for key in ("test", "validation", "seconds", "best_epoch"):
        del last[key]
    last["state"] = "begun"
    found |= summary(found["points"], 1.0)
    (tmp_path / "curve.json").write_text(json.dumps(found))
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "half-finished, 3 of 4 trainings" in text
    assert "not known yet" in text
    assert found["laws"] == {}
    shutil.copy(drawn[0] / "curve.json", tmp_path)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "complete" in text
    assert "half-finished" not in text
    assert f"slope {drawn[1]['laws']['forces_mae_meV_per_A']['slope']:.2f}" in text


def test_a_seed_with_a_failed_training_counts_in_no_slope() -> None:
    points = [
        {"size": n, "seed": s, "state": "finished", "test": {"forces_mae_meV_per_A": (1 + s) * n**-0.5}}
        for n in (10, 20, 40)
        for s in range(3)
    ]
    points[4] = {"size": 20, "seed": 1, "state": "failed", "reason": "The loss is nan."}
    found = summary(points, 0.1)
    law = found["laws"]["forces_mae_meV_per_A"]
    assert law["seeds"] == 2
    assert law["slope"] == pytest.approx(-0.5)
    assert not found["complete"]
    assert "The loss is nan." in found["notes"][0]
    assert half_finished(found | {"points": points}) == "8 of 9 trainings, 1 failed"
    points[0]["state"] = "waiting"
    assert half_finished(summary(points, 0.1) | {"points": points}) == "half-finished, 7 of 9 trainings"
    assert "extrapolation" in found["target"]["told"]


def test_the_command_tells_errors_slopes_and_frames(
    data: Path,
    drawn: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(drawn[0], tmp_path / "run")
    recipe = small_recipe(data / "set.h5", tmp_path / "run", *overrides(data))
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe.model_dump(mode="json")))
    sizes = ",".join(map(str, SIZES))
    arguments = [
        str(tmp_path / "recipe.yaml"),
        "--sizes",
        sizes,
        "--seeds",
        str(SEEDS),
        "--target",
        "1",
        "--resume",
    ]
    monkeypatch.setattr(sys, "argv", ["mlpot", "curve", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    told = " ".join(capsys.readouterr().out.split())
    law = drawn[1]["laws"]["forces_mae_meV_per_A"]
    assert f"forces MAE: slope {law['slope']:.2f} ± {law['standard_error']:.2f}" in told
    assert drawn[1]["target"]["told"] in told
    assert cell_of(drawn[1]["rows"][0]["forces_mae_meV_per_A"]) in told
    monkeypatch.setattr(sys, "argv", ["mlpot", "curve", arguments[0], "--sizes", "4,x"])
    with pytest.raises(SystemExit, match="no list of whole numbers"):
        main()


def test_keys_without_effect_are_told(data: Path, tmp_path: Path) -> None:
    own = "data.validation=0.2", "data.fold=1", "training.committee=2", "training.own_validation=true"
    recipe = small_recipe(data / "set.h5", tmp_path, *own)
    found = [note.partition("so ")[2].partition(" has")[0] for note in aside_notes(recipe)]
    assert found == ["training.own_validation", "data.fold"]
    assert not aside_notes(small_recipe(data / "set.h5", tmp_path))


def test_structures_that_nearly_are_trained_on_are_counted(data: Path, tmp_path: Path) -> None:
    near = crystals(22)  # of which 20 are in the set
    for atoms in near:
        atoms.positions[0] += 1e-3
    test = write(tmp_path / "test.h5", near)
    section = small_recipe(data / "set.h5", tmp_path, f"data.test={test}").data
    pool = draw_pool(section, drawing_of(section, "random", None), tmp_path / "data")
    assert pool.near == {"validation": 0, "test": pool.n_structures}
    assert f"{pool.n_structures} of the test structures lie within" in near_notes(pool.near)[0]
