"""Whose the ghosts of a rank are, and what ranks send each other of their atoms."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


class _Partner(NamedTuple):
    """Another rank, and rows of the arrays of this one."""

    rank: int
    own: Tensor  # (n_sent,) int64, own atoms that are its ghosts
    ghosts: Tensor  # (n_received,) int64, ghosts that are its atoms


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
        told, tellers = self._dealt(own, own % n_ranks)
        asked, askers = self._dealt(ghosts, ghosts % n_ranks)
        places = np.argsort(told)
        at = np.minimum(np.searchsorted(told, asked, sorter=places), max(len(told) - 1, 0))
        found = places[at] if len(told) else np.empty(0, np.int64)
        assert len(found) == len(asked), "a ghost belongs to no rank"
        assert np.array_equal(told[found], asked), "a ghost belongs to no rank"
        order = np.argsort(ghosts % n_ranks, kind="stable")  # as they were asked, and as answers come
        owners = np.empty(len(ghosts), np.int64)
        owners[order] = self._dealt(tellers[found], askers)[0]
        wanted, takers = self._dealt(ghosts, owners)
        places = np.argsort(own)
        rows = places[np.searchsorted(own, wanted, sorter=places)]
        ranks = np.unique(np.concatenate([takers, owners]))
        self._partners = [
            _Partner(
                int(rank),
                torch.from_numpy(rows[takers == rank]),
                torch.from_numpy(n_own + np.flatnonzero(owners == rank)),
            )
            for rank in ranks
        ]

    def fill(self, x: Tensor) -> None:
        """As `stages.exchange.Halo`."""
        sent = [(p.rank, x.index_select(0, p.own.to(x.device))) for p in self._partners]
        received = self._exchanged(sent, x, [p.ghosts for p in self._partners])
        for partner, rows in zip(self._partners, received, strict=True):
            x[partner.ghosts.to(x.device)] = rows

    def gather(self, x_bar: Tensor) -> None:
        """As `stages.exchange.Halo`."""
        sent = [(p.rank, x_bar.index_select(0, p.ghosts.to(x_bar.device))) for p in self._partners]
        received = self._exchanged(sent, x_bar, [p.own for p in self._partners])
        for partner, rows in zip(self._partners, received, strict=True):
            x_bar[partner.ghosts.to(x_bar.device)] = 0
            x_bar.index_add_(0, partner.own.to(x_bar.device), rows)

    def _exchanged(self, sent: list[tuple[int, Tensor]], like: Tensor, places: list[Tensor]) -> list[Tensor]:
        """What each partner sends back for what is sent to it: as many rows as there are places for."""
        received = [torch.empty(len(rows), *like.shape[1:], dtype=like.dtype, device="cpu") for rows in places]
        waiting = [
            self._comm.Irecv(rows.numpy(), p.rank) for p, rows in zip(self._partners, received, strict=True)
        ]
        for rank, rows in sent:
            there = rows.cpu().contiguous().numpy()
            waiting.append(self._comm.Isend(there, rank))
            self.bytes_sent += there.nbytes
            self.messages_sent += 1
        for request in waiting:
            request.Wait()
        return [rows.to(like.device) for rows in received]

    def _dealt(self, values: Ints, ranks: Ints) -> tuple[Ints, Ints]:
        """Send each value to a rank; what came, by the rank that it came from, and those ranks."""
        n_ranks = self._comm.Get_size()
        counts, coming = np.bincount(ranks, minlength=n_ranks), np.empty(n_ranks, np.int64)
        self._comm.Alltoall(counts, coming)
        out = np.empty(int(coming.sum()), np.int64)
        ordered = np.ascontiguousarray(values[np.argsort(ranks, kind="stable")])
        self._comm.Alltoallv([ordered, counts], [out, coming])
        return out, np.repeat(np.arange(n_ranks), coming)
