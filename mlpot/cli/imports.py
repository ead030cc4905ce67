"""`mlpot import`; as in `cli`, imports stand inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mlpot.cli.data import Overwrite, console

import_app = typer.Typer(no_args_is_help=True, help="Make a potential from a model of another package.")


@import_app.callback()
def _group() -> None:
    """Keeps the name of the one command: without a callback Typer leaves it out."""


@import_app.command()
def mace(
    model: Annotated[Path, typer.Argument(help="A model that mace-torch saved, a pickle.")],
    out: Annotated[Path, typer.Argument(help="*.safetensors to write.")],
    python: Annotated[Path, typer.Option(help="Python of an environment that has mace-torch: opens the pickle.")],
    head: Annotated[str | None, typer.Option(help="Which of several heads.")] = None,
    dtype: Annotated[Literal["float32", "float64"] | None, typer.Option(help="Type of the potential.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a potential from a model of mace-torch, the same function, compared before it is written.

    A pickle can run any code. It is opened in a process of its own by the Python that you name, and only numbers
    come back.
    """
    from mlpot.importers.mace import import_mace
    from mlpot.model_file import check_model_place
    from mlpot.torch_settings import known_dtype

    check_model_place(out, overwrite=overwrite)
    kind = None if dtype is None else known_dtype(dtype)
    import_mace(
        model, out, python=python, head=head, dtype=kind, tell=lambda line: console.print(line, soft_wrap=True)
    )
