"""Stars of Fortran, and numbers that a full disk or a kill cut through, are no numbers in any source."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from outputs import WRITERS

from mlpot.data.errors import DataError, FormatError, KeysError, LabelError
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading

STEPS = [(-5.5, True), (-5.25, True), (-5.125, True)]
NUMBER = re.compile(r"-?\d+\.\d{4,}")


def read(path: Path, kind: str | None = None) -> list[Atoms]:
    return list(Source(path, Reading(format=kind)).frames())


@pytest.mark.parametrize("kind", WRITERS)
def test_stars_never_give_a_structure_the_labels_of_another(tmp_path, kind):
    text, path = WRITERS[kind](STEPS), tmp_path / "output"
    path.write_text(text)
    whole = read(path, kind)
    for found in NUMBER.finditer(text, len(text) // 2):
        path.write_text(f"{text[: found.start()]}{'*' * len(found[0])}{text[found.end() :]}")
        try:
            frames = read(path, kind)
        except DataError:
            continue
        assert all(any(agree(atoms, true) for true in whole) for atoms in frames), found[0]


def agree(atoms: Atoms, true: Atoms) -> bool:
    """Whether a structure is one of the whole output, and has no other labels than it."""
    labels = {} if atoms.calc is None else atoms.calc.results
    in_place = atoms.positions.shape == true.positions.shape and np.allclose(
        atoms.positions, true.positions, atol=1e-5
    )
    return in_place and all(np.allclose(value, true.calc.results[key]) for key, value in labels.items())


def test_stars_that_are_no_numbers_are_left_alone(tmp_path):
    text = WRITERS["vasp-out"](STEPS)
    path = tmp_path / "OUTCAR"
    path.write_text(text.replace(" POSITION  ", f" {'*' * 60}\n **** WARNING: 3 bands ****\n POSITION  "))
    assert len(read(path)) == 3


def extxyz(path: Path) -> str:
    frames = []
    for seed in range(3):
        atoms = molecule("H2O")
        atoms.rattle(0.1, seed=seed)
        forces = np.random.default_rng(seed).normal(size=(3, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 - seed, forces=forces)
        frames.append(atoms)
    ase.io.write(path, frames)
    return path.read_text()


def test_whole_frames_of_an_xyz_file_are_read_wherever_it_ends(tmp_path):
    path = tmp_path / "set.xyz"
    text = extxyz(path)
    whole = read(path)
    begin = text.index("\n3\n", text.index("\n3\n") + 1) + 3
    for end in range(begin, len(text) - 1):
        path.write_text(text[:end])
        source = Source(path)
        frames = list(source.frames())
        assert [a.get_potential_energy() for a in frames] == [-1.0, -2.0], text[end - 20 : end]
        assert any("the file ends within the frame" in line for line in source.report.lines())
    path.write_text(text.rstrip("\n"))
    np.testing.assert_array_equal(read(path)[2].get_forces(), whole[2].get_forces())
    path.write_text(text[: text.index("\n3\n") - 5])
    with pytest.raises(FormatError, match="the file ends before the last frame does"):
        read(path)


def test_the_last_number_of_a_file_written_by_hand_may_be_short(tmp_path):
    path = tmp_path / "h2.xyz"
    path.write_text("2\nProperties=species:S:1:pos:R:3 energy=-1.0\nH 0 0 0.37\nH 0 0 -0.4")
    assert read(path)[0].positions[1, 2] == -0.4


@pytest.mark.parametrize(("pack", "ending"), [(gzip, "gz"), (bz2, "bz2"), (lzma, "xz")])
def test_a_packed_file_under_a_plain_name_is_said_to_be_one(tmp_path, pack, ending):
    path = tmp_path / "set.xyz"
    packed = pack.compress(extxyz(path).encode())
    path.write_bytes(packed)
    with pytest.raises(FormatError, match=rf"packed by .*name it set.xyz.{ending}"):
        read(path)
    (tmp_path / f"set.xyz.{ending}").write_bytes(packed)
    assert len(read(tmp_path / f"set.xyz.{ending}")) == 3


@pytest.mark.parametrize("word", ["None", "null", "N/A", "nan"])
def test_a_word_for_a_value_that_is_missing_is_taken_as_nan(tmp_path, word):
    path = tmp_path / "set.xyz"
    cell = 'Lattice="9 0 0 0 9 0 0 0 9"'
    path.write_text(
        f"1\nProperties=species:S:1:pos:R:3:forces:R:3 {cell} energy={word} stress={word}\nSi 0 0 0 0.5 0 0\n"
    )
    with pytest.raises(LabelError, match="--nan-is-missing"):
        list(Source(path).frames())
    (atoms,) = Source(path, Reading(nan_is_missing=True)).frames()
    assert atoms.calc.results.keys() == {"forces"}


def test_an_energy_of_formation_is_proposed_behind_the_total_one(tmp_path):
    path = tmp_path / "set.xyz"
    path.write_text("1\nProperties=species:S:1:pos:R:3 formation_energy=-0.1 dft_total_energy=-9.0\nSi 0 0 0\n")
    with pytest.raises(KeysError, match="Is the energy 'dft_total_energy' or 'formation_energy'"):
        list(Source(path).frames())
