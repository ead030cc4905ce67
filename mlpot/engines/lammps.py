"""`mlpot lammps`: a script of LAMMPS, on one rank or many, in which one line says where the potential goes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlpot.dynamics.recipe import Guards
from mlpot.engines.lammps_fix import MPIAbortException, lammps, register
from mlpot.engines.lammps_guards import LocalGuards
from mlpot.engines.lammps_potential import RankPotential
from mlpot.engines.mpi import stop_all, together
from mlpot.equivariance import warn_of_rotations
from mlpot.model_file import load_potential
from mlpot.potential import Potential


def attach(
    lmp: Any, potential: Potential, *, elements: Sequence[str] | None = None, guards: Guards | None = None
) -> RankPotential:
    """Give an instance of LAMMPS the style of `fix ID all mlpot ELEMENT …`; before its script is read.

    Args:
        lmp: an instance of `lammps.lammps`, on each rank.
        potential: frozen.
        elements: of types 1, 2, …, where the script does not name them.
        guards: that stop a run.

    Raises:
        ValueError: this LAMMPS was not tested, or has a potential already.
    """
    found = RankPotential(lmp, potential, elements, LocalGuards(guards or Guards(), potential))
    register(lmp, found)
    return found


def run_lammps(
    script: str | Path,
    model: str | Path,
    *,
    comm: Any,
    elements: Sequence[str] | None = None,
    dtype: str | None = None,
    guards: Guards | None = None,
    arguments: Sequence[str] = (),
) -> None:
    """Run a script of LAMMPS with a potential, on all ranks of a communicator.

    Args:
        script: of LAMMPS, with a line `fix ID all mlpot ELEMENT …` after the atoms are there.
        model: a file that mlpot wrote.
        comm: of mpi4py.
        elements: of types 1, 2, …, where the script does not name them.
        dtype: "float32" or "float64"; that of the model by default.
        guards: that stop a run.
        arguments: of LAMMPS' command line, such as ("-var", "T", "300").

    A script or a model that a rank cannot read ends all.

    Raises:
        ValueError: LAMMPS does not start, or was not tested.
        SystemExit: LAMMPS stopped with an error, which it has told.
    """
    potential = together(comm, lambda: _read(script, model, dtype))
    warn_of_rotations(potential)
    try:  # with partitions LAMMPS wants to know of a script before it reads one
        lmp = lammps(cmdargs=["-in", str(script), *arguments], comm=comm)
    except RuntimeError as error:  # which LAMMPS has told
        raise ValueError(f"LAMMPS does not start with {' '.join(arguments)} ({error}).") from error
    found = attach(lmp, potential, elements=elements, guards=guards)
    try:
        lmp.file(str(script))
    except MPIAbortException as error:
        stop_all(comm, f"LAMMPS stopped: {error.message.strip()}", 1)  # its own text has quotes and newlines
    except Exception as error:  # LAMMPS raises no other kind, on all ranks, and has told it
        if comm.Get_rank() == 0:
            print(f"mlpot: LAMMPS stopped: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    if found.n_runs == 0 and comm.Get_rank() == 0:
        print("mlpot: The script ran nothing: it has no `run`, `minimize` or `rerun`.", file=sys.stderr)
    lmp.close()


def _read(script: str | Path, model: str | Path, dtype: str | None) -> Potential:
    if not Path(script).is_file():
        raise FileNotFoundError(f"There is no file {script}. Give the path of a script of LAMMPS.")
    return load_potential(model, dtype=dtype)
