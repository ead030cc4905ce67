"""What a block of an npz or HDF5 data set holds besides what its layout names: charges, and questions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpot.data.sources.names import KNOWN, Questions, looks_like

SMILES_CHARGE = re.compile(r"\[[^\]]*?([+-]+)(\d*)(?::\d+)?\]")
"""The charge of one atom of a SMILES: [NH4+], [O-], [Fe+2], [Mg++], each perhaps with a number of the atom."""
CELLS, BOUNDARIES = ((3, 3), (3,), (6,)), ((3,), ())


def states_of(block: Mapping[str, Any], given: Mapping[str, str], n: int) -> dict[str, NDArray[np.float64]]:
    """(n,) total charges and spins of n conformations, as far as the block has them.

    Args:
        block: arrays by name.
        given: by "charge" and "spin", the name that a user gave.
        n: conformations.
    """
    found = {}
    for quantity in ("charge", "spin"):
        names = [given[quantity]] if quantity in given else KNOWN[quantity]
        for name in names:
            array = block.get(name)
            if array is not None and array.dtype.kind in "iuf" and array.shape in ((), (1,), (n,), (n, 1)):
                found[quantity] = np.broadcast_to(np.ravel(array[()]).astype(float), (n,))
                break
    if "charge" not in found and "charge" not in given and "smiles" in block:
        text = np.ravel(block["smiles"][()])[0]
        found["charge"] = np.full(n, charge_of_smiles(text.decode() if isinstance(text, bytes) else str(text)))
    return found


def charge_of_smiles(smiles: str) -> float:
    """Total charge of a molecule in the notation of SMILES, e."""
    signs = ((sign, number) for sign, number in SMILES_CHARGE.findall(smiles))
    return float(sum((1 if s[0] == "+" else -1) * (int(number) if number else len(s)) for s, number in signs))


def says_unit(array: Any) -> bool:
    """Whether a dataset has an attribute with its unit."""
    return bool({"units", "unit"} & set(getattr(array, "attrs", ())))


def ask(
    questions: Questions, block: Mapping[str, Any], kept: set[str], claimed: set[str], sizes: tuple[int, int]
) -> None:
    """Ask whether what nobody claimed is a quantity that nobody found.

    Args:
        questions: takes what could be meant.
        block: arrays by name.
        kept: quantities that were found, or that the user said are none.
        claimed: names that are used.
        sizes: numbers of conformations and of atoms.
    """
    n, m = sizes
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {
        "energy": ((n,), (n, 1)), "forces": ((n, m, 3),), "stress": ((n, 6), (n, 3, 3)),
        "virial": ((n, 6), (n, 3, 3)), "cell": (*CELLS, (n, 3, 3), (n, 3), (n, 6)), "pbc": (*BOUNDARIES, (n, 3)),
        "charge": ((), (n,), (n, 1)), "spin": ((), (n,), (n, 1)),
    }  # fmt: skip
    if n == 1:
        shapes |= {
            "energy": ((), (1,), (1, 1)),
            "forces": ((m, 3), (1, m, 3)),
            "stress": ((6,), (3, 3), (1, 3, 3)),
        }
        shapes["virial"] = shapes["stress"]
    for quantity, fitting in shapes.items():
        if quantity in kept or (quantity in ("stress", "virial") and kept & {"stress", "virial"}):
            continue
        names = [
            name
            for name, array in block.items()
            if name not in claimed
            and looks_like(quantity, name)
            and (quantity != "stress" or not looks_like("virial", name))
            and array.dtype.kind in ("iufb" if quantity == "pbc" else "iuf")
            and array.shape in fitting
        ]
        if names:
            questions.ask(quantity, names, 0)
            if says_unit(block[names[0]]):
                questions.likely_units[quantity] = ""
