"""Whose the ghosts of a rank are, and what ranks send each other of their atoms."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlpot.engines.mpi import dealt

Ints = NDArray[np.int64]


class _Partner(NamedTuple):
    """Another rank, and rows of the arrays of this one."""

    rank: int
    own: Tensor  # (n_sent,) int64, own atoms that are its ghosts
    ghosts: slice | Tensor  # (n_received,) int64, ghosts that are its atoms; a slice if they stand together


class RankHalo:
    """The ghosts of this rank and their owners; all ranks call every method in the same order.

    Args:
        comm: of mpi4py. Messages go over a copy of it, so that they meet no others.
    """

    def __init__(self, comm: Any):
        self._comm = comm.Dup()
        self._partners: list[_Partner] = []
        self.bytes_sent = 0  # so far
        self.messages_sent = 0

    def meet(self, ids: Ints, n_own: int) -> None:
        """Find the owners of all ghosts.

        The rank that an id falls to by its remainder keeps who owns it: owners tell it, others ask it.

        Args:
            ids: (n_atoms,) own atoms first, each atom once.
            n_own: how many are own.
        """
        own, ghosts = np.ascontiguousarray(ids[:n_own], np.int64), np.ascontiguousarray(ids[n_own:], np.int64)
        n_ranks = self._comm.Get_size()
        told, tellers = dealt(self._comm, own, own % n_ranks)
        asked, askers = dealt(self._comm, ghosts, ghosts % n_ranks)
        places = np.argsort(told)
        at = np.minimum(np.searchsorted(told, asked, sorter=places), max(len(told) - 1, 0))
        found = places[at] if len(told) else np.empty(0, np.int64)
        assert len(found) == len(asked), "a ghost belongs to no rank"
        assert np.array_equal(told[found], asked), "a ghost belongs to no rank"
        order = np.argsort(ghosts % n_ranks, kind="stable")  # as they were asked, and as answers come
        owners = np.empty(len(ghosts), np.int64)
        owners[order] = dealt(self._comm, tellers[found], askers)[0]
        wanted, takers = dealt(self._comm, ghosts, owners)
        places = np.argsort(own)
        rows = places[np.searchsorted(own, wanted, sorter=places)]
        ranks = np.unique(np.concatenate([takers, owners]))
        self._partners = []
        for rank in ranks:
            places = n_own + np.flatnonzero(owners == rank)
            own_rows = torch.from_numpy(rows[takers == rank])
            self._partners.append(_Partner(int(rank), own_rows, _together(places)))

    def fill(self, x: Tensor) -> None:
        """As `stages.exchange.Halo`."""
        received = [_rows(x, p.ghosts) for p in self._partners]  # in x itself where they stand together in memory
        self._exchange([_rows(x, p.own) for p in self._partners], received)
        for partner, rows in zip(self._partners, received, strict=True):
            if not isinstance(partner.ghosts, slice) or rows.data_ptr() != x[partner.ghosts].data_ptr():
                x[_on(x, partner.ghosts)] = rows.to(x.device)

    def gather(self, x_bar: Tensor) -> None:
        """As `stages.exchange.Halo`."""
        received = [x_bar.new_empty(len(p.own), *x_bar.shape[1:], device="cpu") for p in self._partners]
        self._exchange([_rows(x_bar, p.ghosts) for p in self._partners], received)
        for partner, rows in zip(self._partners, received, strict=True):
            x_bar[_on(x_bar, partner.ghosts)] = 0
            x_bar.index_add_(0, partner.own.to(x_bar.device), rows.to(x_bar.device))

    def _exchange(self, sent: list[Tensor], received: list[Tensor]) -> None:
        """Send rows to each partner, and get its rows."""
        waiting = [
            self._comm.Irecv(rows.numpy(), p.rank) for p, rows in zip(self._partners, received, strict=True)
        ]
        for partner, rows in zip(self._partners, sent, strict=True):
            waiting.append(self._comm.Isend(rows.numpy(), partner.rank))
            self.bytes_sent += rows.numpy().nbytes
            self.messages_sent += 1
        for request in waiting:
            request.Wait()


def _together(places: Ints) -> slice | Tensor:
    """Rising places as a slice, if none is left out between the first and the last."""
    if len(places) and places[-1] - places[0] == len(places) - 1:
        return slice(int(places[0]), int(places[-1]) + 1)
    return torch.from_numpy(places)


def _on(x: Tensor, places: slice | Tensor) -> slice | Tensor:
    """Places as an index of a tensor, wherever it lies."""
    return places.to(x.device) if isinstance(places, Tensor) else places


def _rows(x: Tensor, places: slice | Tensor) -> Tensor:
    """Rows in the memory of the processor: those of `x` itself where they stand together there."""
    rows = x[places] if isinstance(places, slice) else x.index_select(0, places.to(x.device))
    return rows.cpu().contiguous()
