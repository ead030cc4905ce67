"""Are all whole steps of VASP's XDATCAR read, with cells that change, names of POTCARs, or cut off?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlpot.data.h5md import FormatError
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading


def head(length: float, symbols: str = "   Na   Cl\n", scale: str = "  1") -> str:
    vectors = "".join("  ".join(f"{length if k == j else 0.0:.6f}" for j in range(3)) + "\n" for k in range(3))
    return f"rock salt\n{scale}\n{vectors}{symbols}     1     1\n"


def step(number: int, z: float) -> str:
    return f"Direct configuration={number:6d}\n   0.0  0.0  0.0\n   0.50000000  0.50000000  {z:.8f}\n"


def read(tmp_path: Path, text: str, **said):
    path = tmp_path / "XDATCAR"
    path.write_text(text)
    source = Source(path, Reading(labels=False, **said))
    return list(source.numbered()), source.report.lines()


@pytest.mark.parametrize("n_lost", [1, 12, 30, 50])
def test_a_run_that_was_cut_off_gives_its_whole_steps(tmp_path, n_lost):
    text = head(5.64) + step(1, 0.5) + step(2, 0.51) + step(3, 0.52)
    frames, told = read(tmp_path, text[:-n_lost])
    assert [k for k, _ in frames] == [0, 1]
    np.testing.assert_allclose([atoms.positions[1, 2] for _, atoms in frames], [5.64 * 0.5, 5.64 * 0.51])
    assert "the run was cut off, so its last step is left out (1 frame: 2)." in told
    frames, _ = read(tmp_path, text[:-n_lost], index="-1")
    assert [k for k, _ in frames] == [1]
    with pytest.raises(FormatError, match="ends before its first step does"):
        read(tmp_path, (head(5.64) + step(1, 0.5))[:-n_lost])


def test_cells_that_change_and_scales_are_those_of_their_step(tmp_path):
    frames, _ = read(
        tmp_path, head(5.6) + step(1, 0.5) + head(5.7) + step(2, 0.5) + head(1.0, scale=" 5.8") + step(3, 0.5)
    )
    np.testing.assert_allclose([atoms.cell[0, 0] for _, atoms in frames], [5.6, 5.7, 5.8])
    np.testing.assert_allclose([atoms.positions[1, 0] for _, atoms in frames], [2.8, 2.85, 2.9])
    assert all(atoms.pbc.all() for _, atoms in frames)


def test_elements_are_known_by_symbols_and_by_names_of_potcars(tmp_path):
    for symbols in ("Na Cl\n", "Na_pv Cl_h\n", "Na_pv/6a2f546d Cl/0\n"):
        frames, _ = read(tmp_path, head(5.64, symbols) + step(1, 0.5))
        assert frames[0][1].get_chemical_symbols() == ["Na", "Cl"]
    with pytest.raises(FormatError, match="names no elements, as XDATCAR of VASP 4"):
        read(tmp_path, head(5.64, "") + step(1, 0.5))
    with pytest.raises(FormatError, match="not symbols of elements"):
        read(tmp_path, head(5.64, "Na Xx\n") + step(1, 0.5))
