"""Arrays that are no structure are told as such: NumPy takes many of them for another one, without a word."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from potentials import small_potential
from structures import ethanol

from mlpot.neighbors import build_graph, build_molecules
from mlpot.predictions import predict_structures
from mlpot.structure_check import checked_length, reals

R, Z = ethanol().positions, ethanol().numbers


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"positions": R + 1j}, "positions are of type complex128, not real numbers"),  # the real part was taken
        ({"positions": np.ma.masked_array(R, mask=np.eye(9, 3, dtype=bool))}, "positions are masked out in part"),
        ({"positions": R > 0}, "positions are of type bool"),
        ({"positions": R.astype("m8[s]")}, "positions are of type timedelta64"),
        ({"positions": torch.tensor(R, requires_grad=True)}, r"Give positions\.detach"),
        ({"positions": "start.xyz"}, "positions are no array of numbers"),
        ({"positions": ethanol()}, "positions are no array of numbers"),
        ({"positions": None}, r"positions has shape \(\)\. Give one row of x, y, z per atom"),
        ({"positions": R.ravel()}, r"positions has shape \(27,\)\. Give one row"),
        ({"positions": [[0, 0, 0], [1, 1]]}, "positions are no array of numbers"),
        ({"numbers": Z > 1}, "true or false: a mask"),  # all atoms became hydrogen
        ({"numbers": list("CCOHHHHHH")}, "are text. Give integers"),
        ({"numbers": Z + 0j}, "are not whole"),
        ({"numbers": None}, "are not whole"),
        ({"numbers": Z * 1e30}, "are not whole"),
        ({"cell": 10 * np.eye(3) + 1j}, "cell is of type complex128"),
        ({"cell": [10, 10, 10]}, r"cell has shape \(3,\), expected \(3, 3\)\. .*np\.diag"),
        ({"cell": 10 * np.eye(3), "pbc": "FFF"}, "pbc is FFF: give True or False"),  # was periodic
        ({"cell": 10 * np.eye(3), "pbc": ["False"] * 3}, "give True or False"),  # as well
        ({"cell": 10 * np.eye(3), "pbc": [np.nan] * 3}, "give True or False"),  # as well
        ({"cell": 10 * np.eye(3), "pbc": [0.5, 0, 0]}, "give True or False"),
        ({"cutoff": "5"}, r"cutoff = '5': give a number of Å above 0"),
        ({"cutoff": True}, "cutoff = True: give a number"),
        ({"cutoff": 1e300}, "give a number of Å above 0"),
        ({"cutoff": None}, "cutoff = None: give a number"),
    ],
)
def test_what_is_no_structure_is_refused_in_words(wrong: dict[str, object], message: str) -> None:
    structure = {"numbers": Z, "positions": R, "cell": np.zeros((3, 3)), "pbc": False, "cutoff": 5.0}
    with pytest.raises(ValueError, match=message):
        build_graph(**{**structure, **wrong})  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    "alike",
    [R.tolist(), R.astype(object), R.astype(np.longdouble), R.astype(">f8"), np.asfortranarray(R),
     np.repeat(R, 2, axis=0)[::2], torch.tensor(R), torch.tensor(R).to_sparse()],
    ids=["list", "object", "longdouble", "big endian", "Fortran", "strided", "tensor", "sparse"],
)  # fmt: skip
def test_arrays_of_any_layout_are_the_same_structure(alike: object) -> None:
    graph = build_graph(Z, R, np.zeros((3, 3)), False, 5.0)
    other = build_graph(torch.tensor(Z).byte(), alike, np.zeros((3, 3)), torch.zeros(3), 5.0)  # type: ignore[arg-type]  # as users give them
    assert torch.equal(graph.positions, other.positions)
    assert torch.equal(graph.numbers, other.numbers)


def test_atoms_with_complex_positions_or_half_numbers_have_no_forces() -> None:
    """The quick way of many molecules took their real parts and whole parts."""
    assert build_molecules([Z + 0.5], [R], [np.zeros((3, 3))], 5.0) is None
    assert build_molecules([Z], [R + 1j], [np.zeros((3, 3))], 5.0) is None
    assert build_molecules([Z], [R], [np.zeros((3, 3))], 5.0) is not None
    atoms = ethanol()
    atoms.arrays["positions"] = R + 1j
    with pytest.raises(ValueError, match=r"Structure 0 \(.*complex128"):
        next(predict_structures(small_potential("schnet"), [atoms]))


def test_lengths_are_numbers() -> None:
    for given in (np.float32(5), np.array(5.0), torch.tensor(5.0), 5):
        assert checked_length("skin", given, "from 0 on", "") == 5
    for wrong in (-1, np.nan, np.inf, "5", None, False, [5], np.array([5, 5])):
        with pytest.raises(ValueError, match=r"skin = .*give a number of Å from 0 on"):
            checked_length("skin", wrong, "from 0 on", "")
    assert reals("positions", R) is R
