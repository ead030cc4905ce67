"""Processes that were started together know of each other, or are refused; they share processors."""

from __future__ import annotations

import os
import sys
import threading

import numpy as np
import pytest
from lammps_runs import needs_lammps

from mlpot.engines.mpi import LAUNCHERS, check_size, repeated, wait_until_read, world


@pytest.mark.parametrize("name", LAUNCHERS)
def test_copies_of_one_rank_are_refused(name: str) -> None:
    """L16: mpirun of another MPI starts processes each of which is alone."""
    with pytest.raises(ValueError, match="none sees the others"):
        check_size(1, {name: "4"})
    for n_ranks, environment in ((4, {name: "4"}), (1, {name: "1"}), (1, {}), (1, {name: "4(x2)"})):
        check_size(n_ranks, environment)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much of a pipe is unread")
def test_a_reason_is_read_before_all_ranks_are_stopped() -> None:
    """A launcher that reads late gets it: mpirun drops what it has not read when a rank aborts."""
    out, into = os.pipe()
    with os.fdopen(out, "rb") as reader, os.fdopen(into, "wb") as writer:
        writer.write(b"a reason")
        writer.flush()
        waits = threading.Thread(target=wait_until_read, args=(writer, 60.0))
        waits.start()
        waits.join(0.2)
        assert waits.is_alive()
        assert reader.read(8) == b"a reason"
        waits.join()
    wait_until_read(None)  # no stream, nothing to wait for


@pytest.mark.parametrize(
    ("ids", "twice"), [([4, 1, 9], 0), ([4, 9, 1, 9, 2], 9), ([7, 7, 2, 2], 7), ([], 0), ([0, 0], 0)]
)
def test_an_id_of_several_atoms_is_found(ids: list[int], twice: int) -> None:
    """L14: on several ranks one atom stood for two, and the energy was wrong by 0.1 eV."""
    needs_lammps()
    world()
    from mpi4py import MPI

    assert repeated(MPI.COMM_SELF, np.array(ids, np.int64)) == twice
