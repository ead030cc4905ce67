"""`mlpot lammps`; as in `cli`, imports stand inside, and MPI is there before what takes threads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def lammps(
    script: Annotated[Path, typer.Argument(help="Of LAMMPS, with a line `fix ID all mlpot ELEMENT ...`.")],
    model: Annotated[Path, typer.Option(help="Trained potential (*.safetensors).")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- LAMMPS' OWN]...", help="Such as -- -var T 300 -log none.")
    ] = None,
    elements: Annotated[
        str | None, typer.Option(help="Of types, such as Si,O, where the script does not name them.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "float64"] | None, typer.Option(help="In which it computes; as trained by default.")
    ] = None,
    max_force: Annotated[float, typer.Option(min=0, help="eV/Å that stop the run; 0 for none.")] = 100.0,
) -> None:
    """Run a script of LAMMPS, on one rank or, after mpirun -np N, on many."""
    from mlpot.engines.mpi import share_processors, stop_all, world

    comm = world()
    n_threads = share_processors(comm)
    from mlpot.engines.lammps import run_lammps
    from mlpot.engines.lammps_guards import LocalGuards

    if comm.Get_rank() == 0:
        print(f"mlpot: {comm.Get_size()} ranks of {n_threads} threads", flush=True)
    try:
        run_lammps(
            script,
            model,
            comm=comm,
            elements=None if elements is None else elements.split(","),
            dtype=dtype,
            guards=LocalGuards(max_force=max_force or None),
            arguments=arguments or (),
        )
    except (ValueError, OSError) as error:  # every rank finds it
        stop_all(comm, str(error), 1, together=True)
