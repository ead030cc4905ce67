"""Does the command do what its functions do, from data to dynamics, and tell users what is wrong in one line?"""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from potentials import Morse, new_potential
from structures import copper, ethanol, evaluate, isolated_atom

from mlpot.cli import main as cli
from mlpot.cli.data import new_table
from mlpot.model_file import save_potential
from mlpot.version import __version__


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user works: labeled structures, and a potential."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    frames = [ethanol(seed=k) for k in range(24)] + [isolated_atom(z) for z in (1, 6, 8)]
    for atoms in frames:
        out = evaluate(Morse(), atoms)
        atoms.calc = SinglePointCalculator(atoms, energy=out.energy.item(), forces=out.forces.numpy())
    write("set.xyz", frames)
    atoms = copper()
    write("copper.xyz", atoms)
    save_potential(new_potential("schnet", n_features=8, n_interactions=1), "model.safetensors")
    return tmp_path


def mlpot(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """Run the command in this process; what it exits with, 0 or None for success."""
    monkeypatch.setattr(sys, "argv", ["mlpot", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return exit_.value.code


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = """
import sys
from mlpot.cli.main import main
sys.argv = ["mlpot", "--help"]
try:
    main()
finally:
    print(sorted({"torch", "lightning", "ase", "h5py", "matplotlib", "pydantic"} & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"
    assert "Run molecular dynamics by a recipe" in out.stdout


@pytest.mark.parametrize("asks", ["--version", "-h"])
def test_the_package_is_the_command_too(asks: str) -> None:
    """`python -m mlpot`, for a Python whose commands are not on the path."""
    out = subprocess.run([sys.executable, "-m", "mlpot", asks], capture_output=True, text=True, check=False)
    assert (out.stdout == f"mlpot {__version__}\n") if asks == "--version" else ("md" in out.stdout), out


def test_the_way_from_data_to_dynamics(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not mlpot(monkeypatch, "data", "convert", "set.xyz", "set.h5", "--card", "theory=Morse")
    assert not mlpot(monkeypatch, "data", "info", "set.h5", "--picture", "info.png")
    told = capsys.readouterr().out
    assert "27 frames written to set.h5" in told
    assert not mlpot(monkeypatch, "data", "export", "set.h5", "one.xyz", "--index", "3")
    assert "\n1 frame written to one.xyz" in capsys.readouterr().out
    assert "card: theory: Morse" in told
    assert not mlpot(monkeypatch, "recipe", "--backbone", "schnet")
    recipe = yaml.safe_load(capsys.readouterr().out)
    recipe["data"] |= {"train": "set.h5", "validation": 4}
    recipe["model"]["arguments"] |= {"n_features": 8, "n_interactions": 1, "n_radial": 8, "cutoff": 4.0}
    recipe["training"] |= {"directory": "run", "epochs": 1, "progress": False, "accelerator": "cpu"}
    Path("train.yaml").write_text(yaml.safe_dump(recipe))
    assert not mlpot(monkeypatch, "train", "train.yaml", "training.epochs=2")
    assert json.loads(Path("run/metrics.json").read_text())["epochs"] == 2
    model = "run/model.safetensors"
    assert not mlpot(monkeypatch, "info", model)
    assert not mlpot(monkeypatch, "evaluate", model, "set.h5", "--output", "errors")
    told = capsys.readouterr().out
    assert "27 structures, 219 atoms; missing labels: none" in told
    assert "Forces by element" in told
    assert Path("errors/parity.png").exists()
    assert not mlpot(monkeypatch, "predict", model, "set.h5", "-o", "out.xyz")
    Path("md.yaml").write_text(
        f"model: {model}\nstructure: set.h5\nframe: 0\nsteps: 30\nlog_every: 1\noutput: md\n"
    )
    assert not mlpot(monkeypatch, "md", "md.yaml", "ensemble=nve", "max_start_force=1e4", "guards.temperature=99")
    told = capsys.readouterr().out
    assert "C2H6O, nve: 30 steps" in told
    assert "Drift" in told
    assert not mlpot(monkeypatch, "md", "md.yaml", "ensemble=nve", "max_start_force=1e4", "--continue")
    assert "0.015 ps; the run had ended before, and nothing was left to do" in capsys.readouterr().out
    left = {"trajectory.h5", "log.csv", "md.json", "md.png", "checkpoint_A", "checkpoint_B"}
    assert left == {path.name for path in Path("md").iterdir()}
    assert not mlpot(monkeypatch, "data", "info", "md/trajectory.h5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "absent.safetensors"], "There is no file absent.safetensors"),
        (["info", "set.xyz"], "not a safetensors file"),
        (["evaluate", "model.safetensors", "absent.h5"], "There is no file absent.h5"),
        (["evaluate", "model.safetensors", "copper.xyz"], "convert the file first"),
        (["predict", "model.safetensors", "nitrogen.xyz", "-o", "x.h5"], "Structure 0 (N2): N is unknown to this"),
        (["evaluate", ".", "set.xyz"], "Give the model in it"),
        (["train", "model.safetensors"], "is no text, and a recipe is. `mlpot recipe` prints"),
        (["md", "nitrogen.xyz"], "nitrogen.xyz is no recipe"),
        (["predict", "model.safetensors", "copper.xyz", "-o", "set.xyz"], "set.xyz exists"),
        (["md", "md.yaml", "timestep=1"], "written as timestep_fs"),
        (["md", "md.yaml", "structure=set.h5"], "There is no file set.h5"),
        (["train", "train.yaml"], "There is no recipe train.yaml"),
        (["data", "convert", "copper.xyz", "x.h5"], "copper.xyz"),
        (["data", "convert", "set.xyz", "x.h5", "--key", "energy"], "'energy' has no value"),
        (["data", "info", "model.safetensors"], "model.safetensors"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_a_mistake_is_answered_in_one_line(
    arguments: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("nitrogen.xyz").write_text("2\n\nN 0 0 0\nN 0 0 1.1\n")
    Path("md.yaml").write_text("model: model.safetensors\nstructure: copper.xyz\n")
    answer = mlpot(monkeypatch, *arguments)
    assert isinstance(answer, str)
    assert answer.startswith("mlpot: ")
    assert message in answer
    assert not Path("x.h5").exists()
    assert not Path("md_run").exists()


def test_the_exit_status_says_what_went_wrong(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from mlpot.cli.main import main; main()", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    wrong = run("info", "absent")
    assert (wrong.returncode, wrong.stderr.count("\n"), wrong.stdout) == (1, 1, "")
    assert run("info").returncode == 2
    monkeypatch.setattr(sys, "argv", ["mlpot", "--traceback", "info", "absent"])
    with pytest.raises(FileNotFoundError):
        cli.main()


def test_a_bug_keeps_its_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise TypeError("ours")

    monkeypatch.setattr("mlpot.model_file.read_header", broken)
    monkeypatch.setattr(sys, "argv", ["mlpot", "info", "model.safetensors"])
    with pytest.raises(TypeError, match="ours"):
        cli.main()


def test_labels_are_computed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tblite")
    write("two.xyz", [ethanol(1), ethanol(2)])
    assert not mlpot(
        monkeypatch, "data", "label", "two.xyz", "two.h5", "--calculator", "tblite", "--set", "method=GFN2-xTB"
    )
    from mlpot.data.h5md import Reader

    with Reader("two.h5") as reader:
        assert len(reader) == 2
        assert np.isfinite(reader[1].get_forces()).all()


def test_no_figure_of_a_table_stands_under_the_head_of_another() -> None:
    table = new_table("Errors", "set", "energy", "forces")
    table.add_row("test", "1", "2")
    with pytest.raises(ValueError, match="2 cells for 3 columns"):
        table.add_row("1", "2")


def test_a_terminal_that_knows_few_letters_fails_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert not mlpot(monkeypatch, "recipe", "--md")
    sys.stdout.flush()
    assert b"eV/?, where the model tells of no training" in written.getvalue()


def test_an_error_of_the_system_without_a_file_is_told_without_its_number() -> None:
    told = cli._in_words(OSError(errno.ENOSPC, "No space left on device"))
    assert told == "No space left on device. Give another file, or mend its place."
