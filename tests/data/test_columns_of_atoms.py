"""Is what a file says of single atoms taken for nothing that is of the frame, and the other way round?"""

from __future__ import annotations

from pathlib import Path

import pytest
from frames import converted

from mlpot.data.errors import LabelError
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading

COLUMN = '{n}\nProperties=species:S:1:pos:R:3:{name}:R:{width} {comment}pbc="F F F"\n{rows}'


def with_column(path: Path, n: int, name: str, width: int, comment: str = "") -> Path:
    """Atoms with numbers of their own under a name."""
    rows = "".join(f"H 0 0 {k} {' '.join(['-1.0'] * width)}\n" for k in range(n))
    path.write_text(COLUMN.format(n=n, name=name, width=width, comment=comment, rows=rows))
    return path


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "width", "told"),
    [
        ("energy", 1, "energy is a column of the atoms, and energy of a frame is one number"),
        ("virial", 9, "virial is a column of the atoms, and virial of a frame is six or nine numbers"),
        ("stress", 6, "stress is a column of the atoms, and stress of a frame is six or nine numbers"),
        (
            "forces",
            2,
            r"forces is an array of shape \(., 2\), and forces of a frame are three numbers of each atom",
        ),
        ("masses", 3, "the column masses has 3 numbers of each atom, expected 1"),
        ("momenta", 2, "the column momenta has 2 numbers of each atom, expected 3"),
    ],
)
def test_a_column_of_atoms_or_another_shape_is_no_label_of_a_frame(tmp_path, n, name, width, told):
    """Of one atom too, where a column of one number looks like the number itself."""
    path = with_column(tmp_path / "set.xyz", n, name, width)
    with pytest.raises(LabelError, match=f"set.xyz, frame 0: {told}"):
        converted(path)
    if name in ("energy", "virial", "stress"):
        (atoms,) = Source(path, Reading(keys={name: "none"})).frames()
        assert atoms.calc is None
    both = with_column(tmp_path / "both.xyz", n, "energy", 1, "total=-3.0 ")
    (atoms,) = converted(both, keys={"energy": "total"}, units={"energy": "eV"})
    assert atoms.get_potential_energy() == -3.0
