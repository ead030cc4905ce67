"""No message may propose an option that the command does not have, without the command that has it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import typer
from potentials import new_potential

from mlpot.certificate import verify as levels
from mlpot.certificate.symmetry import rotation
from mlpot.cli.main import app, main
from mlpot.cli.options import CONVERT
from mlpot.model_file import save_potential

TYPES = """ITEM: TIMESTEP
0
ITEM: NUMBER OF ATOMS
2
ITEM: BOX BOUNDS pp pp pp
0 9
0 9
0 9
ITEM: ATOMS id type x y z
1 3 1.0 1.0 1.0
2 3 2.4 1.0 1.0
"""
OTHER_NAME = '2\nProperties=species:S:1:pos:R:3 dft_energy=-1.0 pbc="F F F"\nH 0 0 0\nH 0 0 0.8\n'
NAN = '2\nProperties=species:S:1:pos:R:3 energy=nan pbc="F F F"\nH 0 0 0\nH 0 0 0.8\n'
QUESTIONS = {"types.lammpstrj": TYPES, "name.xyz": OTHER_NAME, "nan.xyz": NAN}
COMMANDS = [
    "evaluate model.safetensors FILE", "predict model.safetensors FILE -o out.xyz",
    "verify model.safetensors --structures FILE", "data info FILE", "data check FILE",
    "data split FILE --fractions 0.5,0.5", "data merge FILE second.xyz out.h5", "data convert FILE out.h5",
    "data export FILE out.traj", "data label FILE out.h5 --calculator tblite",
]  # fmt: skip


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("command", COMMANDS)
def test_options_that_a_message_proposes_are_there(
    command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(levels.LEVELS, "quick", {"P2": rotation})  # what is proposed does not depend on the checks
    for file in (name, "second.xyz"):
        Path(file).write_text(QUESTIONS.get(file, OTHER_NAME.replace("dft_", "")))
    if "model" in command:
        save_potential(new_potential("deepsets", n_features=8), "model.safetensors")
    arguments = command.replace("FILE", name).split()
    monkeypatch.setattr(sys, "argv", ["mlpot", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    told = f"{ended.value.code} {capsys.readouterr().err}"
    group = typer.main.get_command(app)
    for word in arguments:
        group = getattr(group, "commands", {}).get(word, group)
    own = {option for parameter in group.params for option in parameter.opts}
    proposed = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", told))
    assert proposed <= own or CONVERT in told, told
    if name == "types.lammpstrj" and "verify" in command:
        assert CONVERT in told, "its --elements are those of a calculator"
