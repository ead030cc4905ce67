"""Processes that were started together know of each other, or are refused; they share processors."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from mlpot.engines.mpi import LAUNCHERS, check_size, wait_until_read


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
