"""Processes that were started together know of each other, or are refused; they share processors."""

from __future__ import annotations

import pytest

from mlpot.engines.mpi import LAUNCHERS, check_size


@pytest.mark.parametrize("name", LAUNCHERS)
def test_copies_of_one_rank_are_refused(name: str) -> None:
    """L16: mpirun of another MPI starts processes each of which is alone."""
    with pytest.raises(ValueError, match="none sees the others"):
        check_size(1, {name: "4"})
    for n_ranks, environment in ((4, {name: "4"}), (1, {name: "1"}), (1, {}), (1, {name: "4(x2)"})):
        check_size(n_ranks, environment)
