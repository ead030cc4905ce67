"""A matrix in the comment of an extxyz frame that has not nine numbers: what to do is said, and it works."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from frames import xyz

from mlpot.data.errors import FormatError, KeysError
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading

SIX = "0.1 0.2 0.3 0.04 0.05 0.06"


@pytest.mark.parametrize(("key", "factor"), [("stress", 1.0), ("virial", -1 / 64)])
def test_six_numbers_of_a_stress_are_a_question_whose_answer_works(
    tmp_path: Path, key: str, factor: float
) -> None:
    path = xyz(tmp_path / "set.xyz", f'energy=-3.0 {key}="{SIX}" Lattice="4 0 0 0 4 0 0 0 4" pbc="T T T"')
    with pytest.raises(KeysError, match=f"--key {key}={key}_voigt --unit {key}="):
        list(Source(path).frames())
    unit = "eV/angstrom^3" if key == "stress" else "eV"
    source = Source(path, Reading(keys={key: f"{key}_voigt"}, units={key: unit}))
    (atoms,) = source.frames()
    np.testing.assert_allclose(atoms.get_stress(), factor * np.array([float(x) for x in SIX.split()]))
    assert any("taken as xx yy zz yz xz xy; --correct voigt=" in line for line in source.report.lines())


@pytest.mark.parametrize(
    ("comment", "told"),
    [
        ('stress="1 2 3 4" Lattice="4 0 0 0 4 0 0 0 4"', r"stress has 4 numbers, not nine.*xx xy xz"),
        ('Lattice="4 4 4"', r"Lattice has 3 numbers, not nine.*ax ay az.*in Å"),
        ('Lattice="4 4 4 90 90 90"', r"Lattice has 6 numbers, not nine"),
    ],
)
def test_a_matrix_of_another_size_is_named_with_what_to_write(tmp_path: Path, comment: str, told: str) -> None:
    with pytest.raises(FormatError, match=told) as error:
        list(Source(xyz(tmp_path / "set.xyz", f"energy=-3.0 {comment}")).frames())
    assert "--format" not in str(error.value)
