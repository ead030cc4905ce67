"""Structures for the certificate from a model's file: some of its training, and others like them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols
from ase.neighborlist import neighbor_list

from mlpot.certificate.check import STILL, Structures, free, periodic
from mlpot.certificate.structures import bundled
from mlpot.model_file import ModelFileError

GAP = 3.0  # Å, between a molecule and its periodic images: within the cutoff, but not close
WIDE = 1.1  # times the shortest distance in training

Nearest = Mapping[frozenset[str], float]
"""Shortest distance of two elements in training, Å."""


def of_training(header: Mapping[str, Any]) -> dict[str, Atoms]:
    """Structures on which the potential of a file should be right; none if it does not describe its training.

    These are the training structures that the file holds. If it holds only the shortest distances of the training,
    a molecule or a crystal of mlpot's is expanded to these distances. A cell of one atom and the companion of
    `with_companions` are added.

    Raises:
        ModelFileError: the header makes no sense.
    """
    card = header.get("card", {})
    try:
        told = card.get("ranges", {}).get("nearest_distance_A", {})
        nearest = {frozenset(pair.split("-")): float(d) for pair, d in told.items()}
        found = {
            f"example {k + 1}": Atoms(e["numbers"], e["positions"], cell=e["cell"], pbc=e["pbc"])
            for k, e in enumerate(card.get("examples", ()))
        }
        if not (found or nearest):
            return {}
        if not found:
            kind = "crystal" if card.get("labels", {}).get("stress", 0) else "molecule"
            found = {kind: _no_closer(bundled(header["elements"])[kind], nearest)}
        one = _one_atom(header["elements"], nearest, header["cutoff"])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"Its card is unreadable ({error!r}). Give structures: --structures.") from error
    return with_companions(found) | {"cell of one atom": one}


def with_companions(structures: Structures) -> dict[str, Atoms]:
    """Adds one companion, so that every check applies: the smallest molecule in a periodic box, or the smallest
    crystal as an isolated cluster.

    No dynamics starts from the companion, as a training need not have held a structure like it.
    """
    out = dict(structures)
    name, atoms = min(structures.items(), key=lambda item: len(item[1]))
    if not periodic(structures) and free(structures):
        a, b, c = np.ptp(atoms.positions, axis=0) + GAP
        out[f"{name}, repeated"] = _still(atoms, [[a, 0, 0], [0.3, b, 0], [-0.4, 0.5, c]], pbc=True)
    elif len(periodic(structures)) == len(structures):
        out[f"{name}, alone"] = _still(atoms, np.zeros((3, 3)), pbc=False)
    return out


def _still(atoms: Atoms, cell: Any, *, pbc: bool) -> Atoms:
    return Atoms(atoms.numbers, atoms.positions, cell=cell, pbc=pbc, info=atoms.info | {STILL: True})


def _no_closer(atoms: Atoms, nearest: Nearest) -> Atoms:
    """Expanded until no distance is shorter than in training."""
    i, j, d = neighbor_list("ijd", atoms, 4.0)
    symbols = np.array(atoms.get_chemical_symbols())
    least = np.array([nearest.get(frozenset(pair), 0.0) for pair in zip(symbols[i], symbols[j], strict=True)])
    ratio = max(1.0, float((WIDE * least / d).max(initial=0.0))) if (least > d).any() else 1.0
    out = atoms.copy()
    out.set_cell(ratio * atoms.cell.array)
    out.positions *= ratio
    return out


def _one_atom(elements: Sequence[int], nearest: Nearest, cutoff: float) -> Atoms:
    """A cell of one atom, whose images are its neighbors, from half the cutoff on if training was as close."""
    known = [chemical_symbols[z] for z in elements]
    symbol = max(known, key=lambda s: (frozenset((s,)) in nearest, known.index(s)))
    return bulk(symbol, "sc", a=max(cutoff / 2, WIDE * nearest.get(frozenset((symbol,)), 0.0)))
