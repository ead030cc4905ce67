"""Is what Typer lets pass refused by name: options given twice, NaN and infinity, settings written as options?"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer

from mlpot.cli.arguments import check_arguments
from mlpot.cli.main import app, main

COMMANDS = typer.main.get_command(app)


def commands(group: Any = COMMANDS, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


def options_of(kind: type) -> list[tuple[tuple[str, ...], str]]:
    """Every option of every command whose value is of a kind."""
    found = []
    for words, command in commands():
        hints = get_type_hints(inspect.unwrap(command.callback))
        for parameter in command.params:
            hint = hints.get(parameter.name)
            if parameter.opts[0].startswith("-") and kind in (hint, *get_args(hint)):
                found.append((words, parameter.opts[0]))
    return found


def test_every_option_that_is_a_number_refuses_what_is_not_finite() -> None:
    options = options_of(float)
    assert {name for _, name in options} >= {"--target", "--min-distance", "--skip-ps", "--cutoff", "--long-ps"}
    for words, option in options:
        for value in ("nan", "inf", "-inf", "1e400", "Infinity"):
            with pytest.raises(ValueError, match=rf"^{option} {value}: that is no finite number"):
                check_arguments(COMMANDS, [*words, "file", option, value])
        check_arguments(COMMANDS, [*words, "file", f"{option}=1e-3"])


def test_every_option_with_one_value_is_refused_if_it_stands_twice() -> None:
    options = [*options_of(str), *options_of(Path), *options_of(int), *options_of(float)]
    assert len(options) > 40
    for words, option in options:
        line = [*words, "file", option, "1", f"{option}=2"]
        with pytest.raises(ValueError, match=rf"^{option} is given twice, as 1 and as 2"):
            check_arguments(COMMANDS, line)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("data convert a.xyz b.h5 --index ::2 --index :5", "--index is given twice, as ::2 and as :5"),
        ("predict m.safetensors a.xyz -o a.h5 --output b.h5", "--output is given twice, as a.h5 and as b.h5"),
        ("predict m.safetensors a.xyz -oa.h5 -o b.h5", "-o is given twice, as a.h5 and as b.h5"),
        ("data convert a.xyz b.h5 --unit energy=Ry --unit energy=eV", "energy is given twice"),
        ("data merge a b c.h5 --reference a:H=-13.6 --reference a:H=-13.5", "a:H is given twice"),
        ("train a.yaml training.epochs=5 training.epochs=7", "training.epochs is given twice"),
        ("md a.yaml steps=5 steps=7", "steps is given twice"),
        ("--traceback md run a.yaml steps=5 steps=7", "steps is given twice"),
        ("train a.yaml --epochs 5", "no option --epochs: .* Write training.epochs=5$"),
        ("train a.yaml --training.batch-size=5", "Write training.batch_size=5$"),
        ("train a.yaml --n-features 64 --overwrite", "Write model.arguments.n_features=64$"),
        ("train a.yaml --cutoff", "Write model.arguments.cutoff=... or model.cutoff=...$"),
        ("curve a.yaml --learning_rate 0.1", "Write optimizer.learning_rate=0.1$"),
        ("pareto a.h5 --seed 3", "Write data.seed=3 or training.seed=3$"),
        ("md a.yaml --temperature-k 300", "Write temperature_K=300$"),
        ("md --timestep_fs 0.5 a.yaml", "Write timestep_fs=0.5$"),
        ("md a.yaml --max-force 5", "Write guards.max_force=5$"),
        ("propagate train a.yaml --interval-fs 10", "Write data.interval_fs=10$"),
    ],
)
def test_a_line_that_means_two_things_or_a_setting_is_told(line: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_arguments(COMMANDS, line.split())


@pytest.mark.parametrize(
    "line",
    [
        "", "--version", "md", "md --help", "data --nothing", "train a.yaml --nothing 5", "md a.yaml --steps 100",
        "md a.yaml steps=5 --steps 100 --continue --continue", "train a.yaml training.epochs=5 training.seed=5",
        "data convert a.xyz b.h5 --key energy=E --key forces=F --card a=1 --card b=1", "data split a --seed=3",
        "lammps in.a --model m.safetensors -- -var T 300 -var T 300", "md analyze run --skip-ps -1",
        "data merge a=1.xyz a=1.h5 b.h5", "predict m.safetensors inf -o nan", "train -",
        "data info a.xyz --cutoff x",
        "evaluate m.safetensors a.h5 --epochs 5",
    ],
)  # fmt: skip
def test_other_lines_are_left_to_their_commands(line: str) -> None:
    check_arguments(COMMANDS, line.split())


def test_the_command_says_it_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["mlpot", "train", "a.yaml", "--epochs", "5"])
    with pytest.raises(SystemExit, match=r"^mlpot: There is no option --epochs.*training\.epochs=5$"):
        main()
