"""`mlpot data export`; as in `cli`, imports stand inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlpot.cli.data import Boundary, FileFormat, Index, Keys, Overwrite, Units, console, print_account
from mlpot.cli.options import counted, pairs


def export(
    source: Annotated[Path, typer.Argument(help="A file of structures of any kind, such as H5MD.")],
    destination: Annotated[Path, typer.Argument(help="File to write: .xyz, .traj, .cif, POSCAR, ...")],
    to: Annotated[str | None, typer.Option(help="Format of it, where its name does not show that.")] = None,
    format: FileFormat = None,
    key: Keys = None,
    unit: Units = None,
    index: Index = ":",
    pbc: Boundary = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn a set or a trajectory into a file that other programs read, with labels where its format has them."""
    from mlpot.data.sources.export import export as run
    from mlpot.data.sources.export import writable
    from mlpot.data.sources.read import Source
    from mlpot.data.sources.reading import Reading

    read = Source(source, Reading(format, pairs(key), pairs(unit), index, pbc))
    n = run(read, destination, format=to, overwrite=overwrite)
    print_account(read)
    console.print(f"{counted(n, 'frame')} written to {destination} as {writable(destination, to)}", soft_wrap=True)
