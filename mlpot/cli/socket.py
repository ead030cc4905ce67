"""`mlpot answer`; as in `cli`, imports stand inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def answer(
    model: Annotated[Path, typer.Argument(help="Trained potential (*.safetensors).")],
    structure: Annotated[Path, typer.Argument(help="A file whose first structure has the elements and boundary.")],
    host: Annotated[str, typer.Option(help="Where the program listens.")] = "localhost",
    port: Annotated[int, typer.Option(min=1, max=65535, help="At which port.")] = 31415,
    unix: Annotated[str | None, typer.Option(help="Name of a socket of this machine instead.")] = None,
    dtype: Annotated[
        Literal["float32", "float64"] | None, typer.Option(help="In which it computes; as trained by default.")
    ] = None,
) -> None:
    """Compute for a program that listens at a socket (i-PI, ASE's SocketIOCalculator), until it ends."""
    from mlpot.engines.socket_client import answer as run

    run(model, structure, host=host, port=port, unix=unix, dtype=dtype)
