"""Are numbers, columns and elements of a text those that a reader takes, or is the frame refused in words?"""

from __future__ import annotations

from pathlib import Path

import pytest

from mlpot.data.errors import DataError
from mlpot.data.sources.convert import convert
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading

ROWS = ["O 0.0 0.0 0.12 0.1 0.0 -0.2", "H 0.0 0.76 -0.48 -0.05 0.1 0.1", "H 0.0 -0.76 -0.48 -0.05 -0.1 0.1"]
PLAIN = "species:S:1:pos:R:3:forces:R:3"


def frame(comment: str, rows: list[str] = ROWS, columns: str = PLAIN) -> str:
    return "\n".join([str(len(rows)), f'Properties={columns} {comment} pbc="F F F"', *rows, ""])


GOOD = frame("energy=-470.5")
REFUSED = {
    "a comma in a position": (GOOD.replace("0.76", "0,76", 1), "line 9 has '0,76' in column pos: .* comma"),
    "a comma in an energy": (GOOD.replace("-470.5", "-470,5"), "energy has '-470,5', which is no number"),
    "a comma in a quoted energy": (GOOD.replace("-470.5", '"-470,5"'), "energy has '-470,5'.* decimal comma"),
    "commas in a lattice": (frame('Lattice="9,5 0 0 0 9,5 0 0 0 9,5"'), "Lattice has '9,5'.* decimal comma"),
    "commas in a virial": (frame('energy=1 dft_virial="1,5 0,1 0,2 1,5 0,3 1,5"'), "dft_virial has '1,5'.* comma"),
    "an underscore in an energy": (GOOD.replace("-470.5", "-4_70.5"), "energy has '-4_70.5'.* underscore"),
    "an underscore in a position": (GOOD.replace("0.76", "0_1.76"), "'0_1.76' in column pos: .* underscore"),
    "an underscore in a force": (GOOD.replace("-0.05", "-0.0_5"), "'-0.0_5' in column forces: .* underscore"),
    "digits of another script": (GOOD.replace("-470.5", "-٤٧٠"), "energy has '-٤٧٠'.* not ASCII"),
    "such digits in a position": (GOOD.replace("0.76", "٠.76"), "in column pos: .* not ASCII"),
    "a minus of a text program": (GOOD.replace("-0.48", "\N{MINUS SIGN}0.48"), "in column pos: .* plain minus"),
    "such a minus in an energy": (GOOD.replace("-470.5", "\N{MINUS SIGN}470.5"), "energy has .* plain minus"),
    "stars": (GOOD.replace("-0.05", "******"), r"line 9 has '\*\*\*\*\*\*' in column forces: .* stars"),
    "an exponent of Fortran": (GOOD.replace("0.76", "7.6D-01"), "'7.6D-01' in column pos: Fortran"),
    "such an exponent in an energy": (GOOD.replace("-470.5", "-4.705D+02"), "energy has '-4.705D.02'.*Fortran"),
    "such exponents of a cell": (frame('Lattice="9d0 0 0 0 9d0 0 0 0 9d0"'), "Lattice has '9d0'.* Fortran"),
    "an exponent of three digits": (GOOD.replace("0.76", "7.6-101"), "'7.6-101' in column pos: Fortran"),
    "a symbol and another number": (
        frame("energy=-470.5", ["O 8 0 0 0.1", "H 1 0 0.8 -0.5", "H 6 0 -0.8 -0.5"], "species:S:1:Z:I:1:pos:R:3"),
        "line 10 says H in column species and 6 in column Z",
    ),
    "a blank in a word": (
        frame("energy=-470.5", ["O a 0 0 0.1", "H b 0 .8 -.5", "H b 1 0 -.8 -.5"], "species:S:1:n:S:1:pos:R:3"),
        "line 10 has 6 words, and Properties names 5 columns",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_reader_would_take_for_another_number_is_refused_in_words(name: str, tmp_path: Path) -> None:
    text, message = REFUSED[name]
    (tmp_path / "a.xyz").write_text(GOOD + text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        convert(Source(tmp_path / "a.xyz"), tmp_path / "a.h5")
    assert "frame 1" in str(caught.value)
    assert not (tmp_path / "a.h5").exists()


def test_the_line_of_a_wrong_number_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(GOOD + "\n" + GOOD.replace("0.76", "0,76", 1))
    with pytest.raises(DataError, match="frame 1: line 10 has '0,76'"):
        convert(Source(tmp_path / "a.xyz"), tmp_path / "a.h5")


@pytest.mark.parametrize(
    "text",
    [
        frame("energy=-470.5 id=2021_03 author=Müller energy_note=a_1,2 energy_run=v1_2"),
        frame("energy=-470.5 Lattice=9,0,0,0,9,0,0,0,9"),
        frame('energy=-470.5 stress="1,0,0,0,1,0,0,0,1" Lattice="9 0 0 0 9 0 0 0 9"'),
        frame("energy=-4.705e+02", [f"{row} 1_0" for row in ROWS], f"{PLAIN}:name:S:1"),
        frame("energy=-470.5", [f"{row[0]} {z}{row[1:]}" for row, z in zip(ROWS, (8, 1, 1), strict=True)],
              f"species:S:1:Z:I:1:{PLAIN.split(':', 3)[3]}"),
        GOOD.replace("\n", "\r\n"),
    ],
)  # fmt: skip
def test_other_words_with_commas_and_underscores_are_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes(text.encode())
    source = Source(tmp_path / "a.xyz", Reading())
    atoms = next(source.numbered())[1]
    assert atoms.get_potential_energy() == -470.5
    assert atoms.numbers.tolist() == [8, 1, 1]
    assert atoms.positions[1].tolist() == [0.0, 0.76, -0.48]
    assert atoms.get_forces()[1].tolist() == [-0.05, 0.1, 0.1]


def test_columns_that_nothing_names_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(frame("energy=-470.5", columns="species:S:1:pos:R:3"))
    source = Source(tmp_path / "a.xyz")
    assert len(list(source.numbered())) == 1
    assert "columns behind those that Properties names are not read (1 frame: 0)." in source.report.lines()


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "UTF-16.* iconv -f UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("latin-1", "LATIN1"),
    ],
)
def test_text_in_another_encoding_is_named_with_what_turns_it(encoding: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes(frame("energy=-470.5 author=Müller").encode(encoding))
    with pytest.raises(DataError, match=message):
        convert(Source(tmp_path / "a.xyz"), tmp_path / "a.h5")
