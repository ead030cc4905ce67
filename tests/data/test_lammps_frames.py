"""Each frame of a dump of LAMMPS says for itself what its columns and units are: of appended runs, they differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlpot.data.errors import FormatError, KeysError, UnitsError
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading
from mlpot.units import KCAL_MOL

ATOMS = {
    "id": (1, 2), "element": ("Na", "Cl"), "type": (1, 2), "mass": (22.98977, 35.45),
    "x": (1.0, 3.5), "y": (1.0, 1.0), "z": (1.0, 2.0), "fx": (0.5, -0.5), "fy": (0.1, -0.1), "fz": (0.0, 0.0),
}  # fmt: skip
USUAL = "id element x y z fx fy fz"


def frame(columns: str = USUAL, units: str = "", box: str = "pp pp pp") -> str:
    rows = [" ".join(str(ATOMS[name][k]) for name in columns.split()) for k in range(2)]
    head = [*(["ITEM: UNITS", units] if units else []), "ITEM: TIMESTEP", "0", "ITEM: NUMBER OF ATOMS", "2"]
    return "\n".join([*head, f"ITEM: BOX BOUNDS {box}", *["0 8"] * 3, f"ITEM: ATOMS {columns}", *rows, ""])


def frames(tmp_path: Path, *texts: str, **said):
    (tmp_path / "run.dump").write_text("".join(texts))
    return list(Source(tmp_path / "run.dump", Reading(**said)).frames())


def test_types_of_a_later_frame_are_no_elements(tmp_path):
    with pytest.raises(KeysError, match=r"frame 1: the atoms have types \(1, 2\)"):
        frames(tmp_path, frame(units="metal"), frame("id type x y z fx fy fz"))
    by_mass = frames(tmp_path, frame(units="metal"), frame("id type mass x y z fx fy fz"))
    assert [atoms.get_chemical_symbols() for atoms in by_mass] == [["Na", "Cl"]] * 2


def test_units_hold_until_the_next_run_says_others(tmp_path):
    found = frames(tmp_path, frame(units="metal"), frame(), frame(units="real"), frame())
    slopes = [atoms.get_forces()[0, 0] for atoms in found]
    np.testing.assert_allclose(slopes, [0.5, 0.5, 0.5 * KCAL_MOL, 0.5 * KCAL_MOL], rtol=1e-5)
    chosen = frames(tmp_path, frame(units="metal"), frame(), frame(units="real"), frame(), index="1::2")
    np.testing.assert_allclose([atoms.get_forces()[0, 0] for atoms in chosen], slopes[1::2])
    with pytest.raises(UnitsError, match="frame 1 is in units real, as it says itself"):
        frames(tmp_path, frame(units="metal"), frame(units="real"), units={"lammps": "metal"})


def test_columns_in_another_order_or_lost_later(tmp_path):
    first, second = frames(tmp_path, frame(units="metal"), frame("fz fx fy element z y x id"))
    np.testing.assert_array_equal(second.positions, first.positions)
    np.testing.assert_array_equal(second.get_forces(), first.get_forces())
    with pytest.raises(FormatError, match="frame 1 has columns fy, fz without fx"):
        frames(tmp_path, frame(units="metal"), frame("id element x y z fy fz"))


@pytest.mark.parametrize("text", [frame(units="metal"), frame(units="metal") + frame()])
def test_ends_of_lines_and_marks_of_windows_change_nothing(tmp_path, text):
    wanted = frames(tmp_path, text)
    path = tmp_path / "windows.lammpstrj"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    found = list(Source(path).frames())
    assert [atoms.get_forces().tolist() for atoms in found] == [atoms.get_forces().tolist() for atoms in wanted]


MASSES = "id type mass x y z"
SPOILT = {
    "no number of atoms": ("ATOMS\n2\n", "ATOMS\ntwo\n"),
    "no mass": ("22.98977", "heavy"),
    "a short row": ("1 1 22.98977 1.0 1.0 1.0", "1 1"),
    "no rows": ("ITEM: ATOMS", "ITEM: ENTRIES"),
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_damaged_frame_is_refused_in_words(tmp_path, spoilt):
    text = frame(MASSES, units="metal").replace(*SPOILT[spoilt])
    assert text != frame(MASSES, units="metal")
    with pytest.raises(FormatError, match=r"run\.dump"):
        frames(tmp_path, text)
