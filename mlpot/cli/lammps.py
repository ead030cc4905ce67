"""`mlpot lammps`; as in `cli`, imports stand inside, and MPI is there before what takes threads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

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
    min_distance: Annotated[
        float, typer.Option(min=0, help="Part of the sum of two covalent radii below which a run stops; 0: never.")
    ] = 0.6,
    max_force: Annotated[
        float | None, typer.Option(min=0, help="eV/Å above which it stops, 10 times those of training; 0: never.")
    ] = None,
    extrapolation_grade: Annotated[
        float, typer.Option(min=0, help="Above which it stops; looked at every 100 steps; 0: never.")
    ] = 10.0,
) -> None:
    """Run a script of LAMMPS, on one rank or, after mpirun -np N, on many."""
    from mlpot.engines.mpi import share_processors, stop_all, world

    comm = world()
    n_threads = share_processors(comm)
    from mlpot.dynamics.recipe import Guards
    from mlpot.engines.lammps import run_lammps

    if comm.Get_rank() == 0:
        print(f"mlpot: {comm.Get_size()} ranks of {n_threads} threads", flush=True)
    try:
        run_lammps(
            script,
            model,
            comm=comm,
            elements=None if elements is None else [name.strip() for name in elements.split(",")],
            dtype=dtype,
            guards=Guards(**_bounds(min_distance, max_force, extrapolation_grade)),
            arguments=arguments or (),
        )
    except (ValueError, OSError) as error:  # others may not have found it
        stop_all(comm, str(error), 1)


def _bounds(min_distance: float, max_force: float | None, extrapolation_grade: float) -> dict[str, Any]:
    """Of `Guards`, in which None and not 0 turns a guard off."""
    bounds = {"min_distance": min_distance or None, "extrapolation_grade": extrapolation_grade or None}
    if min_distance == 0:
        bounds["min_trained_distance"] = None
    if max_force is not None:
        bounds |= {"max_trained_force": None, "max_force": max_force or None}
    return bounds
