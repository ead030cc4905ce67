"""Does a page tell of its run, whole, in one file, asking for nothing, whatever users named their things?"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from md_runs import md_recipe, prepared
from sets import crystals, free_atoms, small_recipe, write

from mlpot.calculator import MLPotCalculator
from mlpot.cli.main import main
from mlpot.data.sources.read import read_structure
from mlpot.dynamics.run import run_md
from mlpot.evaluate import evaluate
from mlpot.html.data import data_cards, example_frames
from mlpot.html.files import RunError
from mlpot.html.page import Html, page, tag
from mlpot.html.run import write_report
from mlpot.html.view import MOST_ATOMS, SCRIPT, few, view
from mlpot.model_file import read_header
from mlpot.signals import BlowUpError
from mlpot.training.fit import train

HOSTILE = "</script><script>alert(1)</script>"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "microsoft-edge")
RUNS = ("training", "evaluation<b>", "md", "stopped")
WORDS = re.compile(r"<(?:script|style)[ >].*?</(?:script|style)>|<[^>]*>", re.DOTALL)


def failing_late() -> Callable[..., None]:
    """In place of `MLPotCalculator.calculate`: from the twentieth time on, there is no energy."""
    calculate, calls = MLPotCalculator.calculate, itertools.count()

    def failing(self: MLPotCalculator, *arguments: Any) -> None:
        calculate(self, *arguments)
        if next(calls) > 20:
            self.results["energy"] = np.nan

    return failing


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A training, an evaluation, and runs of molecular dynamics that ended, and that a guard stopped."""
    with prepared(tmp_path_factory.mktemp("runs")) as folder:
        frames = crystals()
        for k, atoms in enumerate(frames):
            atoms.info["group"] = f"$group{k % 2}{HOSTILE}"
        data = write(folder / "set.h5", frames + free_atoms())
        train(small_recipe(data, folder / "training", "training.epochs=2", backbone="schnet"))
        model = folder / "training/model.safetensors"
        evaluate(model, data, output=folder / "evaluation<b>")
        run_md(md_recipe(folder, output=folder / "md", repeat=(2, 2, 2)))  # a cell in which g(r) can be told
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MLPotCalculator, "calculate", failing_late())
            with pytest.raises(BlowUpError):
                run_md(md_recipe(folder, output=folder / "stopped"))
        yield folder


@pytest.fixture(scope="module")
def pages(runs: Path) -> dict[str, str]:
    """Of each run its page."""
    (runs / "training/errors").mkdir()
    shutil.copy(runs / "evaluation<b>/evaluation.json", runs / "training/errors")
    return {run: write_report(runs / run).read_text(encoding="utf-8") for run in RUNS}


def words(text: str) -> str:
    """What a reader sees."""
    return WORDS.sub(" ", text)


@pytest.mark.parametrize("run", RUNS)
def test_a_page_loads_nothing_and_is_small(run: str, pages: dict[str, str]) -> None:
    text = pages[run]
    loads = re.findall(r"""(?:src|href|srcset|poster|data)\s*=\s*["']?([^"'\s>]+)|url\(([^)]*)\)""", text)
    assert all(a.startswith(("data:image/", "#")) for a, _ in loads)
    assert "://" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert len(text) < 3e6
    assert text.count("<img") == len(re.findall(r'<img [^>]*alt="[^"]+"', text)) > 1


@pytest.mark.parametrize("run", RUNS)
def test_names_that_users_chose_stay_text(run: str, pages: dict[str, str]) -> None:
    text = pages[run]
    assert "<script>alert" not in text
    assert "evaluation<b>" not in text
    if run == "evaluation<b>":
        assert "&lt;script&gt;alert" in text
        assert text.count("<script") == text.count("</script>") == 2


def test_a_training_is_told_from_data_to_errors(runs: Path, pages: dict[str, str]) -> None:
    text = pages["training"]
    metrics = json.loads((runs / "training/metrics.json").read_text())
    told = words(text)
    assert f"{metrics['validation']['forces_mae_meV_per_A']:.3g}" in told
    assert "There was no test set" in told
    assert "level of theory" in told
    assert f"structures, {metrics['labels']['energy']} energies," in told
    assert "cpu, 1 process" in told
    assert "--attach" in told
    for alt in (
        "Loss by epoch",
        "forces on Cu",
        "forces on Au",
        "Errors of forces against forces",
        "Energies of the set",
    ):
        assert alt in text
    assert 'class="view"' in text


def test_a_set_that_changed_or_is_gone_is_said_to_be(runs: Path, tmp_path: Path) -> None:
    card = read_header(runs / "training/model.safetensors")["card"]
    other = write(tmp_path / "set.h5", crystals(3))
    assert "has changed since" in "".join(data_cards([other], card["training_set_hash"]))
    other.write_bytes(other.read_bytes()[:1000])
    assert "cannot be read" in "".join(data_cards([other], card["training_set_hash"]))
    gone = data_cards([tmp_path / "gone.h5"], card["training_set_hash"])
    assert "is not found from this folder" in "".join(gone)
    assert "example 0 of the training set" in view(example_frames(card))


def test_an_evaluation_shows_its_worst_structures(runs: Path, pages: dict[str, str]) -> None:
    folder, text = runs / "evaluation<b>", pages["evaluation<b>"]
    found = json.loads((folder / "evaluation.json").read_text())
    for element, error in found["forces_by_element"].items():
        assert re.search(rf"{element}\s+{error['mae']:.3g}", words(text))
    scene = json.loads(re.search(r'<script type="application/json">(.*?)</script>', text)[1])  # type: ignore[index]
    assert len(scene["frames"]) == 8
    worst = int(scene["frames"][0]["words"].split()[1].strip(","))
    assert scene["frames"][0]["numbers"] == read_structure(runs / "set.h5", worst).numbers.tolist()
    assert "Evaluation errors" in pages["training"]


def test_dynamics_are_told_with_their_distributions(pages: dict[str, str]) -> None:
    text = pages["md"]
    assert "Temperature, K against time" in text
    assert "radial distribution g(r) against distance, Å" in text
    assert "Run longer" in words(text)  # of distributions that so short a run cannot tell
    assert "stopped early" not in text


def test_what_stopped_a_run_comes_first(runs: Path, pages: dict[str, str]) -> None:
    text = pages["stopped"]
    reason = json.loads((runs / "stopped/md.json").read_text())["summary"]["stopped"]
    told = words(text)
    assert "stopped early" in told[: told.index("Along the run")]
    assert reason[:30] in told[: told.index("Along the run")]
    assert "the bad frame" in text


def test_where_there_is_no_finished_run_it_says_what_to_do(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_report(tmp_path / "nowhere")
    for k in range(2):
        (tmp_path / f"replicas/replica_{k}").mkdir(parents=True)
        (tmp_path / f"replicas/replica_{k}/md.json").write_text("{}")
    (tmp_path / "moves").mkdir()
    (tmp_path / "moves/metrics.json").write_text('{"free_flight_time": 1.0}')
    with pytest.raises(RunError, match=r"holds a propagator.*mlpot propagate judge"):
        write_report(tmp_path / "moves")
    with pytest.raises(RunError, match=r"holds 2 replicas.*replica_0$"):
        write_report(tmp_path / "replicas")
    with pytest.raises(RunError, match="holds no run"):
        write_report(tmp_path)
    for run, name, told in (("training", "metrics.json", "--resume"), ("md", "md.json", "--continue")):
        shutil.copytree(runs / run, tmp_path / run)
        (tmp_path / run / name).unlink()
        with pytest.raises(RunError, match=told):
            write_report(tmp_path / run)
        (tmp_path / run / name).write_text("{")
        with pytest.raises(RunError, match="damaged"):
            write_report(tmp_path / run)


def test_the_command_writes_where_it_is_told(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["mlpot", "report", str(runs / "stopped"), "-o", str(tmp_path / "page.html")])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    assert "page.html" in capsys.readouterr().out
    assert "<canvas" in (tmp_path / "page.html").read_text()


def test_a_view_has_the_bonds_that_chemistry_has() -> None:
    scene = scene_of(view([("ethanol", molecule("CH3CH2OH"))]))
    bonds = np.reshape(scene["frames"][0]["bonds"], (-1, 2))
    assert len(bonds) == 8
    assert scene["frames"][0]["cell"] is None
    salt = scene_of(view([("salt", bulk("NaCl", "rocksalt", 5.64, cubic=True))]))["frames"][0]
    assert {frozenset(salt["numbers"][k] for k in pair) for pair in np.reshape(salt["bonds"], (-1, 2))} == {
        frozenset((11, 17))
    }


def scene_of(figure: str) -> dict[str, list[dict[str, list[int]]]]:
    found = re.search(r'json">(.*?)</script>', figure)
    assert found
    return json.loads(found[1])  # type: ignore[no-any-return]


def test_long_runs_and_large_structures_are_thinned() -> None:
    assert few(3, 9) == [0, 1, 2]
    many = few(100_000, 9)
    assert (many[0], many[-1]) == (0, 99_999)
    assert len(few(100_000, 1000)) * 1000 <= MOST_ATOMS
    assert few(5, 10 * MOST_ATOMS) == [0]
    assert "too many" in view([("all", Atoms(f"H{MOST_ATOMS + 1}"))])


# --- in a browser ---

PROBE = """
const found = [];
window.addEventListener("error", (event) => found.push(event.message));
const canvas = document.querySelector("canvas");
canvas.setPointerCapture = () => {}; // which only a pointer of flesh and blood can have
const look = () => canvas.toDataURL();
const point = (kind, clientX, clientY) =>
  canvas.dispatchEvent(new PointerEvent(kind, { pointerId: 1, clientX, clientY }));
const looks = [look()];
point("pointerdown", 100, 100), point("pointermove", 160, 130), point("pointerup", 160, 130), looks.push(look());
canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" })), looks.push(look());
canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "+" })), looks.push(look());
const slider = document.querySelector("input");
(slider.value = 1), slider.dispatchEvent(new Event("input")), looks.push(look());
const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
const painted = pixels.filter((x, k) => k % 4 === 3 && x > 0).length;
document.title = JSON.stringify({ distinct: new Set(looks).size, looks: looks.length, painted, found });
"""


@pytest.fixture(scope="module")
def browser() -> str:
    """A browser that runs without a screen."""
    there = next(filter(None, map(shutil.which, BROWSERS)), None)
    if there is None:
        pytest.skip(f"no browser is installed (one of {', '.join(BROWSERS)}), so that no page was opened")
    return there


def opened(browser: str, path: Path) -> tuple[str, list[str]]:
    """The page as the browser made it, and what it had to complain of."""
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    profile = f"--user-data-dir={path.parent / 'profile'}"
    done = subprocess.run(
        [*words, profile, "--virtual-time-budget=2000", path.as_uri()],
        capture_output=True, text=True, check=True, env={**os.environ, "HOME": str(path.parent)},
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_a_structure_is_drawn_and_turns_in_a_browser(browser: str, tmp_path: Path) -> None:
    frames = [("flat", molecule("CH3CH2OH")), (HOSTILE, bulk("NaCl", "rocksalt", 5.64, cubic=True))]
    path = tmp_path / "view.html"
    path.write_text(page("view", view(frames), script=SCRIPT + PROBE), encoding="utf-8")
    dom, complaints = opened(browser, path)
    seen = json.loads(re.search("<title>(.*?)</title>", dom)[1].replace("&quot;", '"'))  # type: ignore[index]
    assert complaints == []
    assert seen["found"] == []
    assert seen["distinct"] == seen["looks"] == 5
    assert seen["painted"] > 5000


def test_a_browser_shows_a_whole_page_without_complaint(
    browser: str, pages: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text(pages["training"], encoding="utf-8")
    dom, complaints = opened(browser, path)
    assert complaints == []
    assert re.search("<output>frame 0</output>", dom)


def test_a_browser_runs_no_script_but_ours(browser: str, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    foreign = Html("<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">")
    path.write_text(page("ours", tag("p", foreign), script="document.body.id = 'ran';"), encoding="utf-8")
    dom, complaints = opened(browser, path)
    assert "<title>ours</title>" in dom
    assert 'id="ran"' in dom
    assert len(complaints) >= 2  # it tells of what it refused
