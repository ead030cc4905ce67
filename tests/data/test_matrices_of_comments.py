"""Keys of the comment of an extxyz frame in other words than ASE's: matrices of other sizes, another case."""

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


CELL = "4 0 0 0 4 0 0 0 4"
SPELLINGS = [("Lattice", "Properties", "pbc"), ("lattice", "properties", "pbc"), ("LATTICE", "PROPERTIES", "PBC")]


@pytest.mark.parametrize(
    "form", ["[[{}, {}, {}], [{}, {}, {}], [{}, {}, {}]]", "_JSON [[{},{},{}],[{},{},{}],[{},{},{}]]"]
)
def test_a_matrix_may_be_in_rows(tmp_path: Path, form: str) -> None:
    stress, cell = ("0.1 0.2 0.3 0.2 0.4 0.5 0.3 0.5 0.6", "4 0 0 1 5 0 0 0 6")
    comment = f"Properties=species:S:1:pos:R:3 energy=-1 Lattice={form.format(*cell.split())} pbc=TTT "
    path = tmp_path / "set.xyz"
    path.write_text(f"1\n{comment}stress={form.format(*stress.split())}\nSi 0 0 0\n")
    (atoms,) = Source(path).frames()
    np.testing.assert_allclose(atoms.cell.array.ravel(), [float(x) for x in cell.split()])
    np.testing.assert_allclose(atoms.get_stress(voigt=False).ravel(), [float(x) for x in stress.split()])


@pytest.mark.parametrize("names", SPELLINGS)
@pytest.mark.parametrize("labels", [True, False])
def test_the_case_of_a_key_changes_nothing_of_a_frame(
    tmp_path: Path, names: tuple[str, ...], labels: bool
) -> None:
    """GPUMD writes any case: forces were lost, and velocities before positions were taken for them."""
    lattice, properties, pbc = names
    path = tmp_path / "train.xyz"
    rows = "0 0 1 0.1 0 0 O 0 0 0\n0 0 2 -0.1 0 0 O 0 0 1.2\n"
    columns = f"{properties}=velo:R:3:forces:R:3:species:S:1:pos:R:3"
    path.write_text(f'2\n{lattice}="{CELL}" {columns} energy=-3.1 {pbc}="T T F"\n{rows}')
    (atoms,) = Source(path, Reading(labels=labels)).frames()
    np.testing.assert_array_equal(atoms.positions, [[0, 0, 0], [0, 0, 1.2]])
    np.testing.assert_array_equal((atoms.cell.lengths(), atoms.pbc), ([4, 4, 4], [1, 1, 0]))
    if labels:
        np.testing.assert_array_equal(atoms.get_forces(), [[0.1, 0, 0], [-0.1, 0, 0]])


@pytest.mark.parametrize(
    ("comment", "row", "is_told"),
    [
        ("energy=-1", "H 0 0 0 0.1 0 0", True),
        ("frame 7 of a program", "H 0 0 0 0.3", True),
        ("energy=-1", "H 0 0 0", False),
        ("energy=-1 Properties=species:S:1:pos:R:3:forces:R:3", "H 0 0 0 0.1 0 0", False),
        ("energy=-1 properties=species:S:1:pos:R:3:forces:R:3", "H 0 0 0 0.1 0 0", False),
    ],
)
def test_columns_without_a_name_are_told(tmp_path: Path, comment: str, row: str, is_told: bool) -> None:
    path = tmp_path / "set.xyz"
    path.write_text(f"1\n{comment}\n{row}\n" * 2)
    source = Source(path, Reading(labels="energy" in comment))
    assert len(list(source.frames())) == 2
    told = (
        "columns behind the positions are not read, as no Properties= in the comment names them (2 frames: 0, 1)."
    )
    assert (told in source.report.lines()) == is_told
