"""Are networks compared on one split, within their minutes, and picked by validation errors, ties and costs?"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sets import crystals, free_atoms, write
from training_runs import PowerCutError, StopIn, no_pictures

from mlpot.cli.main import main
from mlpot.data.h5md import Reader
from mlpot.folder_lock import LockedError, folder_lock
from mlpot.html.run import write_report
from mlpot.recipes import RecipeError, load_recipe
from mlpot.studies import pareto as module
from mlpot.studies.curve_summary import cell_of
from mlpot.studies.pareto import pareto
from mlpot.studies.pareto_plan import Question
from mlpot.studies.pareto_summary import Budget, Judged, Row, choice, front_of, same, summary
from mlpot.studies.pareto_table import told
from mlpot.training.epoch_time import EpochTime
from mlpot.training.recipe import Recipe
from mlpot.training.run_directory import RunDirectoryError

BACKBONES, MINUTES = ("deepsets", "schnet"), (0.05, 0.1)
SMALL = (
    "model.arguments.n_features=8", "model.arguments.cutoff=4.0", "training.checkpoint_steps=2",
    "optimizer.ema_decay=0.9",
)  # fmt: skip
ERROR = "forces_mae_meV_per_A"


@pytest.fixture(scope="module", autouse=True)
def _steady_clock() -> Iterator[None]:
    """An epoch takes a second, whatever the machine does; no pictures of single trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "measure_epoch", lambda recipe, enough: EpochTime(1.0, 0.5, 1.0))
        no_pictures(patch)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with isolated atoms."""
    return write(tmp_path_factory.mktemp("data") / "set.h5", crystals(30) + free_atoms())


def question(data: Path, directory: Path, **changes: Any) -> Question:
    """A small one."""
    asked = Question(str(data), None, directory, BACKBONES, MINUTES, 1, SMALL, by="random", progress=False)
    return replace(asked, **changes)


@pytest.fixture(scope="module")
def compared(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A comparison that is never changed, and its directory."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    return directory, pareto(question(data, directory))


def positions(path: str | Path) -> set[bytes]:
    with Reader(path) as reader:
        return {a.positions.tobytes() + a.cell.array.tobytes() for a in reader.frames() if len(a) > 1}


def test_all_networks_have_one_split_and_a_schedule_that_fits_their_minutes(
    compared: tuple[Path, dict[str, Any]],
) -> None:
    directory, found = compared
    files = {name: found["sets"]["pool"][name] for name in ("train", "validation")} | {
        "test": found["sets"]["test"]
    }
    train, validation, test = (positions(path) for path in files.values())
    assert (len(train), len(validation), len(test)) == (24, 3, 3)
    assert not train & validation
    assert not (train | validation) & test
    for p in found["points"]:
        recipe = load_recipe(Recipe, directory / p["directory"] / "recipe.yaml")
        assert recipe.data.model_dump(include=set(files)) == files
        assert recipe.training.epochs == p["epochs"] == {0.05: 2, 0.1: 5}[p["minutes"]]  # after half a second
        assert recipe.optimizer.schedule == "cosine"
        assert recipe.training.max_minutes is None
    assert [(p["backbone"], p["minutes"]) for p in found["points"]] == [(b, m) for b in BACKBONES for m in MINUTES]


def test_what_was_found_is_in_the_files(compared: tuple[Path, dict[str, Any]]) -> None:
    directory, found = compared
    assert found["complete"]
    assert json.loads((directory / "pareto.json").read_text()) == found
    assert (directory / "pareto.png").stat().st_size > 5000
    with (directory / "pareto.csv").open() as file:
        lines = list(csv.DictReader(file))
    for p, row, line in zip(found["points"], found["rows"], lines, strict=True):
        metrics = json.loads((directory / p["directory"] / "metrics.json").read_text())
        for part in ("validation", "test"):
            assert p[part] == metrics[part]
            assert row[part][ERROR]["mean"] == metrics[part][ERROR]
            assert float(line[f"{part}_{ERROR}"]) == metrics[part][ERROR]
        assert row["n_weights"] == metrics["n_weights"]
        assert row["minutes_taken"] == pytest.approx((0.5 + metrics["seconds"]) / 60)
        assert row["microseconds_per_atom_step"] == found["in_use"][row["backbone"]]["microseconds"] > 0
        assert line["front"] == str(row["front"])
    pick = found["budget"]["pick"]
    row = next(r for r in found["rows"] if all(r[k] == pick[k] for k in pick))
    assert row["front"] or found["budget"]["ties"]
    assert f"take {pick['backbone']} trained for {pick['minutes']:g} min" in found["budget"]["told"]
    assert [c["minutes"] for c in found["choices"]] == list(MINUTES)


def test_a_resumed_comparison_is_an_unstopped_one(
    data: Path, compared: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    asked = question(data, tmp_path / "run", backbones=BACKBONES[:1])
    with pytest.raises(PowerCutError):
        pareto(asked, callbacks=[StopIn(1, step=7)])
    half = json.loads((tmp_path / "run" / "pareto.json").read_text())
    assert (half["complete"], half["finished"]) == (False, 1)
    assert "Half-finished: 1 of 2" in half["notes"][0]
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "half-finished, 1 of 2 trainings" in page
    model = tmp_path / "run" / half["points"][0]["directory"] / "model.safetensors"
    written, in_use = model.stat().st_mtime_ns, half["in_use"]
    found = pareto(asked, resume=True)
    assert model.stat().st_mtime_ns == written  # what had finished is not trained again
    assert found["in_use"] == in_use  # nor measured again
    clock = {"seconds", "minutes_taken"}
    for mine, whole in zip(found["points"], compared[1]["points"], strict=False):
        assert {k: v for k, v in mine.items() if k not in clock} == {
            k: v for k, v in whole.items() if k not in clock
        }


def test_the_page_of_a_whole_one_has_choice_table_and_picture(
    compared: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    directory, found = compared
    text = write_report(directory, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "half-finished" not in text
    assert found["budget"]["told"] in text
    assert text.count("data:image/svg+xml") == 2
    for row in found["rows"]:
        assert cell_of(row["test"][ERROR]) in text
    assert "model:\n  backbone: schnet\n" in text  # a recipe that a command takes
    choices = [{"told": "take ace"}, {"told": "take schnet"}]
    assert told({"budget": {"told": "take schnet"}, "choices": choices}) == ["take schnet", "take ace"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"backbones": ("schnett",)}, "schnet"),
        ({"backbones": ("schnet", "schnet")}, "and each once"),
        ({"minutes": (2.0, 1.0)}, "do not ascend"),
        ({"minutes": (0.0, 1.0)}, "do not ascend"),
        ({"n_seeds": 0}, "at least 1"),
        ({"overrides": ("training.epochs=5",)}, "set by the comparison itself"),
        ({"overrides": ("model.backbone=egnn",)}, "set by the comparison itself"),
        ({"overrides": ("model.arguments.n_layers=5",)}, "no argument 'n_layers'"),
        ({"overrides": ("loss.weights={surface: 2.0}",)}, "no training structure is of such a family"),
        ({"data": "nowhere.h5"}, "nowhere.h5"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(
    changes: dict[str, Any], says: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        pareto(replace(question(data, tmp_path / "run"), **changes))
    assert not (tmp_path / "run").exists()


def test_times_too_short_for_an_epoch_are_shown_and_the_others_trained(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that was measured was thrown away where one network had no time for an epoch in the shortest minutes."""
    measured = []

    def measure(recipe: Recipe, enough: float) -> EpochTime:
        measured.append(recipe.model.backbone)
        return EpochTime(1.0 if recipe.model.backbone == "deepsets" else 4.0, 0.5, 1.0)

    monkeypatch.setattr(module, "measure_epoch", measure)
    asked = question(data, tmp_path / "run", minutes=(0.01,))
    with pytest.raises(
        RecipeError, match=r"0\.01 min is shorter than one epoch .* from 0\.028 min on, and --resume"
    ):
        pareto(asked)
    assert not json.loads((tmp_path / "run" / "pareto.json").read_text())["complete"]
    found = pareto(replace(asked, minutes=(0.05,)), resume=True)
    assert measured == list(BACKBONES)
    states = {(p["backbone"], p["minutes"]): p["state"] for p in found["points"]}
    assert states == {
        ("deepsets", 0.01): "not done",
        ("deepsets", 0.05): "finished",
        ("schnet", 0.01): "not done",
        ("schnet", 0.05): "not done",
    }
    assert found["complete"]
    assert (found["finished"], found["trainings"]) == (1, 1)
    assert "schnet for 0.05 min (an epoch takes 0.067 min, and 0.5 s before)" in " ".join(found["notes"])
    assert found["budget"]["pick"] == {"backbone": "deepsets", "minutes": 0.05}
    assert "half-finished" not in write_report(tmp_path / "run").read_text(encoding="utf-8")


def test_too_few_structures_are_refused(tmp_path: Path) -> None:
    few = write(tmp_path / "few.h5", crystals(12))
    with pytest.raises(RecipeError, match=r"12 structures .* at least 20"):
        pareto(question(few, tmp_path / "run"))


def test_another_comparison_is_not_gone_on_with(
    data: Path, compared: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(compared[0], tmp_path / "run")
    asked = question(data, tmp_path / "run")
    with pytest.raises(RunDirectoryError, match="holds a comparison already"):
        pareto(asked)
    with pytest.raises(RecipeError, match="--split-seed"):
        pareto(replace(asked, seed=1), resume=True)
    with pytest.raises(RecipeError, match=r"optimizer\.learning_rate of deepsets"):
        pareto(replace(asked, overrides=(*SMALL, "optimizer.learning_rate=0.1")), resume=True)
    fewer = write(tmp_path / "fewer.h5", crystals(28))
    with pytest.raises(RunDirectoryError, match="data changed"):
        pareto(replace(asked, data=str(fewer)), resume=True)
    with pytest.raises(RunDirectoryError, match="no comparison to resume"):
        pareto(question(data, tmp_path / "new"), resume=True)
    with folder_lock(tmp_path / "run"), pytest.raises(LockedError, match="in use by process"):
        pareto(asked, resume=True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    with pytest.raises(RecipeError, match=r"here are 77: .* Set OMP_NUM_THREADS="):
        pareto(asked, resume=True)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[:100], "is damaged"),
        (lambda text: text.replace('"drawing"', '"draw"'), "no entry 'drawing'"),
        (lambda text: text.replace('"n_validation"', '"n"'), "n_validation"),
    ],
)
def test_a_damaged_file_is_told(
    damage: Any, says: str, data: Path, compared: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "pareto.json").write_text(damage((compared[0] / "pareto.json").read_text()))
    with pytest.raises(RunDirectoryError, match=r"pareto\.json is damaged") as told:
        pareto(question(data, directory), resume=True)
    assert says in str(told.value) or says == "n_validation"


def test_the_command_says_the_total_the_table_and_the_choice(
    data: Path,
    compared: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(compared[0], tmp_path / "run")
    arguments = [str(data), *SMALL, "--minutes", "0.05,0.1", "--backbones", "deepsets,schnet", "--by", "random"]
    arguments += ["--output", str(tmp_path / "run"), "--resume"]
    monkeypatch.setattr(sys, "argv", ["mlpot", "pareto", *arguments, "--budget", "minutes=0.07"])
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    told = " ".join(capsys.readouterr().out.split())
    assert (
        "4 trainings of deepsets, schnet for 0.05,0.1 minutes: 0.3 minutes in all, less what has finished" in told
    )
    assert "For 0.07 min of training: take" in told
    for row in compared[1]["rows"]:
        assert cell_of(row["validation"][ERROR]) in told
    monkeypatch.setattr(sys, "argv", ["mlpot", "pareto", *arguments, "--budget", "euros=5"])
    with pytest.raises(SystemExit, match="there is no euros"):
        main()


def row(backbone: str, minutes: float, error: float, microseconds: float, *, scatter: float = 0.1) -> Row:
    """A finished one of a hundred structures, whose errors scatter around a mean."""
    noise = np.random.default_rng(len(backbone)).normal(scale=scatter, size=100)
    judged = Judged(error + noise - noise.mean(), np.ones(100))
    point = {"backbone": backbone, "minutes": minutes, "state": "finished", "directory": f"{backbone}_{minutes}"}
    return Row(backbone, minutes, (point,), (judged,), microseconds)


ROWS = [
    row("cheap", 1, 30.0, 1.0),
    row("cheap", 5, 25.0, 1.0),
    row("costly", 1, 28.0, 10.0),
    row("costly", 5, 10.0, 10.0),
    row("costlier", 5, 9.99, 20.0),
    row("useless", 5, 31.0, 30.0),
]


@pytest.mark.parametrize(
    ("budget", "picked"),
    [
        (Budget(), ("costly", 5)),  # the costlier one ties with it
        (Budget(minutes=5), ("costly", 5)),
        (Budget(minutes=2), ("costly", 1)),
        (Budget(microseconds=5), ("cheap", 5)),
        (Budget(minutes=2, microseconds=5), ("cheap", 1)),
    ],
)
def test_the_lowest_error_within_the_budget_is_picked_and_of_ties_the_cheapest(
    budget: Budget, picked: tuple[str, float]
) -> None:
    found = choice(ROWS, budget, "meV/Å")
    assert found["pick"] == {"backbone": picked[0], "minutes": picked[1]}
    assert f"take {picked[0]} trained for {picked[1]} min" in found["told"]
    if picked == ("costly", 5):
        assert "costlier trained for 5 min ties with it (-0.01 ±" in found["told"]
        assert "2 times as much in use" in found["told"]
    assert not same(ROWS[0], ROWS[1])


def test_no_answer_is_made_up_for_a_budget_that_nothing_meets() -> None:
    assert "The cheapest is cheap trained for 1 min" in choice(ROWS, Budget(microseconds=0.5), "meV/Å")["told"]
    assert "so little time" in choice(ROWS, Budget(minutes=0.5), "meV/Å")["told"]
    waiting = replace(ROWS[0], judged=(), points=({"state": "waiting"},))
    assert "nothing has finished" in choice([waiting], Budget(), "meV/Å")["told"]
    with pytest.raises(RecipeError, match="above 0"):
        Budget(minutes=-1)


def test_the_front_has_what_nothing_else_beats_in_error_time_and_cost() -> None:
    front = {(r.backbone, r.minutes) for r in front_of(ROWS)}
    assert front == {("cheap", 1), ("cheap", 5), ("costly", 1), ("costly", 5), ("costlier", 5)}


def test_scatter_between_seeds_makes_a_tie() -> None:
    a, b = row("one", 1, 10.0, 1.0), row("other", 1, 10.4, 1.0)
    assert not same(a, b)
    two = [Judged(a.judged[0].errors + shift, a.judged[0].weights) for shift in (-1.0, 1.0)]
    assert same(replace(a, judged=tuple(two), points=a.points * 2), b)


def test_errors_of_one_structure_tell_no_network_from_another() -> None:
    """Where a single validation structure has forces; it was a division by zero after all trainings."""
    rows = [
        Row(name, 1.0, [{}], (Judged(np.array([error]), np.array([9.0])),), 2.0)
        for name, error in (("schnet", 20.0), ("ace", 5.0))
    ]
    assert same(*rows)
    assert "ties with it (+15 ± inf meV/Å)" in choice(rows, Budget(), "meV/Å")["told"]


def test_a_failed_training_is_told_and_not_picked() -> None:
    points = [{**r.points[0], "epochs": 1} for r in ROWS[:2]]
    for p in points:
        p |= {"minutes_taken": p["minutes"], "n_weights": 3, "validation": {ERROR: 30.0}, "test": {ERROR: 30.0}}
    points[1] = {**points[1], "state": "failed", "reason": "The loss is nan."}
    rows = [replace(ROWS[0], points=(points[0],)), replace(ROWS[1], points=(points[1],), judged=())]
    found = summary(points, rows, Budget(), ERROR)
    assert not found["complete"]
    assert found["budget"]["pick"]["minutes"] == 1
    assert "The loss is nan." in found["notes"][0]
