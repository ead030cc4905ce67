"""Options that several commands have, and the values of options, or an error that names the option."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

CONVERT, EXPORT = "mlpot data convert", "mlpot data export"
Model = Annotated[Path, typer.Argument(help="Trained potential (*.safetensors).")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Put over the recipe's.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
Dtype = Annotated[
    Literal["float32", "float64"] | None, typer.Option(help="In which it computes; as trained by default.")
]
On = Annotated[str | None, typer.Option(help="Workers of a Dask scheduler compute: its address, tcp://host:8786.")]
By = Annotated[
    Literal["block", "composition", "group", "random"],
    typer.Option(help="What stays together between training and validation, as in mlpot data split."),
]
Block = Annotated[
    int | None, typer.Option(min=1, max=2**31, help="Frames of a block; by default as the set needs.")
]


def numbers_in(option: str, text: str | None, example: str, *, whole: bool = False) -> list[float]:
    """The numbers that an option lists, `whole` ones or any."""
    try:
        found = [float(part) for part in text.split(",")] if text else []
    except ValueError:
        found = [math.nan]
    if not all(math.isfinite(n) and (n == int(n) or not whole) for n in found):
        what = "whole numbers" if whole else "numbers"
        raise ValueError(f"{option} {text} is no list of {what}. Write it as {example}.")
    return found


def pairs(assignments: list[str] | None) -> dict[str, str]:
    """What options such as --key energy=REF_energy say."""
    said = {}
    for text in assignments or ():
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r} has no value. Write it as name=value.")
        said[key.strip()] = value.strip()
    return said


def counted(n: int, one: str) -> str:
    """A number of things, such as 1 frame or 2 frames."""
    return f"{n} {one}" if n == 1 else f"{n} {one}s"


def check_quotes(arguments: Sequence[str]) -> None:
    """Raise ValueError for key={... or key=[... that the shell has split at a space."""
    for text in arguments[:-1]:
        key, _, value = text.partition("=")
        is_open = sum(value.count(c) for c in "{[") > sum(value.count(c) for c in "]}")
        if value.startswith(("{", "[")) and is_open:
            raise ValueError(
                f"The shell split {text} ... at a space. Put the whole argument into quotes: "
                f"'{key}=...', with all that is in brackets."
            )
