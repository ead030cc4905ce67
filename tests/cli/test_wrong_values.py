"""Is every wrong value of every command answered in a line, never by a traceback?"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from potentials import new_potential
from structures import ethanol

from mlpot.cli import main as cli
from mlpot.data.h5md import write
from mlpot.model_file import save_potential

NO_FILES = (
    "absent", "folder", "empty", "noise", "empty.h5", "noise.h5", "folder.h5", "empty.xyz", "noise.xyz",
    "noise.traj", "noise.db", "noise.npz", "noise.json", "noise.yaml", "list.yaml", "text.yaml", "tab.yaml",
    "md.yaml",
    "model.safetensors", "set.xyz/in", "n" * 300, "", ".", "/dev/null", "a\0b",
)  # fmt: skip
NO_PLACES = (
    "folder",
    "",
    ".",
    "absent/in",
    "set.xyz/in",
    "n" * 300,
    "/dev/null",
    "a\0b",
    "out.nothing",
    "set.xyz",
)
NO_VALUES = (
    "", "x", "-1", "0", "1e400", "nan", "inf", "1,2,x", "0,0,99", "::0", "1:x", "a=b", "=", "1.5", "9" * 30, "[1]",
    "{}", "None", "☃", "a\0b",
)  # fmt: skip
READ = {
    "info": ["info", "{}"],
    "evaluate the model": ["evaluate", "{}", "set.h5"],
    "evaluate": ["evaluate", "model.safetensors", "{}"],
    "predict the model": ["predict", "{}", "set.h5", "-o", "new.h5"],
    "predict": ["predict", "model.safetensors", "{}", "-o", "new.xyz"],
    "md": ["md", "{}"],
    "md structure": ["md", "md.yaml", "structure={}"],
    "md model": ["md", "md.yaml", "model={}"],
    "md analyze": ["md", "analyze", "{}"],
    "report": ["report", "{}"],
    "train": ["train", "{}"],
    "train on": ["train", "train.yaml", "data.train={}"],
    "convert": ["data", "convert", "{}", "new.h5"],
    "convert without": ["data", "convert", "set.xyz", "new.h5", "--without", "{}"],
    "elements from": ["data", "convert", "set.xyz", "new.h5", "--elements-from", "{}"],
    "data info": ["data", "info", "{}"],
    "data check": ["data", "check", "{}"],
    "check against": ["data", "check", "set.h5", "--quick", "--against", "{}"],
    "split": ["data", "split", "{}"],
    "recover": ["data", "recover", "{}", "new.h5"],
    "label": ["data", "label", "{}", "new.h5", "--calculator", "tblite"],
    "verify": ["verify", "{}"],
    "answer by": ["answer", "{}", "set.xyz", "--unix", "nobody"],
    "answer for": ["answer", "model.safetensors", "{}", "--unix", "nobody"],
}
WRITTEN = {
    "predict": ["predict", "model.safetensors", "set.h5", "-o", "{}"],
    "evaluate": ["evaluate", "model.safetensors", "copper.xyz", "-o", "{}"],
    "analyze": ["md", "analyze", "folder", "-o", "{}"],
    "report": ["report", "folder", "-o", "{}"],
    "picture": ["data", "info", "set.h5", "--picture", "{}"],
    "recover": ["data", "recover", "set.h5", "{}"],
    "label": ["data", "label", "empty", "{}", "--calculator", "tblite"],
    "seal": ["verify", "absent", "--json", "{}"],
}
CONVERT = ("hold", "index", "drop", "format", "key", "unit", "correct", "card", "pbc", "elements", "cell")
MD = ("ensemble", "timestep_fs", "temperature_K", "repeat", "frame", "replicas", "stages", "guards", "dtype", "no")
GIVEN = {
    **{
        f"convert --{option}": ["data", "convert", "set.xyz", "new.h5", f"--{option}={{}}"]
        for option in CONVERT
    },
    **{
        f"convert --{option} energy": ["data", "convert", "set.xyz", "new.h5", f"--{option}", "energy={}"]
        for option in ("key", "unit", "correct")
    },
    **{
        f"split --{option}": ["data", "split", "set.h5", f"--{option}={{}}", "--overwrite", "-o", "parts"]
        for option in ("fractions", "by", "block", "seed")
    },
    "info --cutoff": ["data", "info", "set.h5", "--cutoff={}"],
    "label --calculator": ["data", "label", "set.xyz", "new.h5", "--calculator={}"],
    "label --set": ["data", "label", "set.xyz", "new.h5", "--calculator", "tblite", "--set={}"],
    "label --set method": ["data", "label", "set.xyz", "new.h5", "--calculator", "tblite", "--set", "method={}"],
    "predict --dtype": ["predict", "model.safetensors", "set.h5", "-o", "new.h5", "--overwrite", "--dtype={}"],
    "predict --device": ["predict", "model.safetensors", "set.h5", "-o", "new.h5", "--overwrite", "--device={}"],
    "answer --unix": ["answer", "model.safetensors", "set.xyz", "--unix={}"],
    "answer --port": ["answer", "model.safetensors", "set.xyz", "--port={}"],
    "md --steps": ["md", "md.yaml", "--steps={}", "structure=absent"],
    "analyze --skip-ps": ["md", "analyze", "folder", "--skip-ps={}"],
    "verify --calculator": ["verify", "--calculator={}"],
    "verify --calculator os": ["verify", "--calculator", "os:{}"],
    "verify --elements": ["verify", "--calculator", "os:path", "--elements={}"],
    "verify --level": ["verify", "absent", "--level={}"],
    **{
        f"md {key}": ["md", "md.yaml", f"{key}={{}}", "structure=absent"]
        for key in MD
    },
    **{
        f"train {key}": ["train", "train.yaml", f"{key}={{}}", "data.train=absent.h5"]
        for key in ("data", "data.validation", "model.backbone", "model.arguments", "optimizer", "training.epochs")
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are what they say, and many that are not."""
    folder, rng = tmp_path_factory.mktemp("wrong"), np.random.default_rng(0)
    frames = [ethanol(k) for k in range(6)]
    for k, atoms in enumerate(frames):
        atoms.calc = SinglePointCalculator(atoms, energy=-float(k), forces=rng.normal(size=(9, 3)))
    write(folder / "set.h5", frames, card={})
    ase.io.write(folder / "set.xyz", frames)
    save_potential(new_potential("schnet", n_features=8, n_interactions=1), folder / "model.safetensors")
    for name in ("empty", "empty.h5", "empty.xyz"):
        (folder / name).touch()
    for name in (
        "noise",
        "noise.h5",
        "noise.xyz",
        "noise.traj",
        "noise.db",
        "noise.npz",
        "noise.json",
        "noise.yaml",
    ):
        (folder / name).write_bytes(rng.bytes(2000))
    for name in ("folder", "folder.h5"):
        (folder / name).mkdir()
    (folder / "list.yaml").write_text("[1, 2]\n")
    (folder / "text.yaml").write_text("hello\n")
    (folder / "tab.yaml").write_text("a:\n\t- b\n")
    (folder / "md.yaml").write_text("model: model.safetensors\nstructure: set.xyz\nsteps: 2\noutput: run\n")
    (folder / "train.yaml").write_text(
        "data: {train: set.h5, validation: 2}\nmodel: {backbone: schnet}\ntraining: {directory: trained}\n"
    )
    return folder


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "300")
    kept = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    yield
    assert {path: path.read_bytes() for path in kept} == kept, "a wrong value changed a file"


def answer(monkeypatch: pytest.MonkeyPatch, command: list[str], value: str) -> object:
    """What the command exits with; anything but an exit is a traceback for the user."""
    arguments = [part.replace("{}", value) for part in command]
    monkeypatch.setattr(sys, "argv", ["mlpot", *arguments])
    try:
        cli.main()
    except SystemExit as exit_:
        return exit_.code
    except BaseException as error:
        raise AssertionError(f"{' '.join(arguments)[:200]!r} ended with {error!r}") from error
    raise AssertionError("no exit")


def is_a_line(told: object) -> bool:
    """Success, the refusal of an option by the command line, or few lines that name the command."""
    return told in (None, 0, 1, 2, 3, 4) or (
        isinstance(told, str) and told.startswith("mlpot: ") and len(told) < 3000 and "Errno" not in told
    )


def wrong(commands: dict[str, list[str]], values: tuple[str, ...]) -> list[pytest.ParameterSet]:
    return [pytest.param(command, values, id=name) for name, command in commands.items()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("command", "values"), [*wrong(READ, NO_FILES), *wrong(WRITTEN, NO_PLACES), *wrong(GIVEN, NO_VALUES)]
)
def test_a_wrong_value_is_answered_in_a_line(
    command: list[str], values: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in values:
        told = answer(monkeypatch, command, value)
        assert is_a_line(told), (command, value[:50], told)


@pytest.mark.parametrize(
    ("command", "value", "told"),
    [
        (GIVEN["convert --hold"], "1,2,x", "--hold 1,2,x is no list of whole numbers. Write it as 0,1,2"),
        (GIVEN["convert --hold"], "1.5", "--hold 1.5 is no list of whole numbers"),
        (GIVEN["split --fractions"], "1,2,x", "--fractions 1,2,x is no list of numbers"),
        (WRITTEN["picture"], "out.nothing", "Name the picture *.png or *.svg"),
        (WRITTEN["predict"], "nowhere/in.xyz", "There is no folder nowhere"),
    ],
)
def test_the_answer_names_the_option(
    command: list[str], value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told in str(answer(monkeypatch, command, value))


def test_a_reader_that_goes_away_is_no_error(folder: Path) -> None:
    command = f'"{sys.executable}" -c "from mlpot.cli.main import main; main()" recipe | head -1'
    assert os.system(f"{command} > /dev/null 2> broken.txt") == 0
    assert "Traceback" not in Path("broken.txt").read_text()
