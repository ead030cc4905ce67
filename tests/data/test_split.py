"""Do the parts of a set share nothing: no structure, no piece of a trajectory, no composition or group?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from typer.testing import CliRunner

from mlpot.cli.main import app
from mlpot.data.check.check import check
from mlpot.data.errors import DataError
from mlpot.data.h5md import Reader, write
from mlpot.data.split import split


def walk(name: str, n: int, seed: int, group: str | None = None) -> list[Atoms]:
    """A slow walk of a molecule in a bowl."""
    rng = np.random.default_rng(seed)
    rest, away, frames = molecule(name), 0.0, []
    for _ in range(n):
        away = 0.97 * away + rng.normal(scale=0.01, size=(len(rest), 3))
        atoms = rest.copy()
        atoms.positions += away
        atoms.calc = SinglePointCalculator(atoms, energy=5.0 * (away**2).sum() - 14.0, forces=-10.0 * away)
        if group is not None:
            atoms.info["group"] = group
        frames.append(atoms)
    return frames


def parts(tmp_path: Path, frames: list[Atoms], fractions=(0.6, 0.2, 0.2), **options) -> list[list[Atoms]]:
    write(tmp_path / "set.h5", frames, card={}, overwrite=True)
    counts = split(tmp_path / "set.h5", fractions, overwrite=True, **options)
    assert sum(counts.values()) == len(frames)
    read = []
    for path, n in counts.items():
        with Reader(path) as reader:
            read.append(list(reader.frames()))
        assert len(read[-1]) == n
    return read


def test_blocks_of_a_trajectory_stay_together(tmp_path):
    frames = walk("H2O", 400, 0)
    for k, atoms in enumerate(frames):
        atoms.info.update(step=k, time=float(k))
    train, validation, test = parts(tmp_path, frames, by="block", block=20)
    assert [len(p) for p in (train, validation, test)] == [240, 80, 80]
    for part in (train, validation, test):
        numbers = np.array([int(a.info["step"]) // 20 for a in part])
        assert all(count == 20 for count in np.unique(numbers, return_counts=True)[1])


@pytest.mark.filterwarnings("ignore::mlpot.data.split.RareElementWarning")  # one of them alone holds nitrogen
@pytest.mark.parametrize("by", ["composition", "group"])
def test_compositions_and_groups_stay_together(tmp_path, by):
    names = ["H2O", "NH3", "CH4", "CO2", "C2H4", "C2H6", "CH3OH", "H2CO"]
    frames = [atoms for k, name in enumerate(names) for atoms in walk(name, 10 + k, k, group=f"g{k}")]
    read = parts(tmp_path, frames, by=by)
    keys = [{str(a.symbols) if by == "composition" else a.info["group"] for a in part} for part in read]
    assert all(keys)
    assert sum(map(len, keys)) == len(set().union(*keys)) == len(names)


@pytest.mark.parametrize("by", ["random", "block"])
def test_equal_structures_never_part_and_atoms_train(tmp_path, by):
    frames = walk("H2O", 60, 0)
    isolated_atom = Atoms("O")
    isolated_atom.calc = SinglePointCalculator(isolated_atom, energy=-7.0)
    train, validation, _ = parts(
        tmp_path, [*frames, *frames, isolated_atom], by=by, block=5 if by == "block" else None
    )
    assert any(len(a) == 1 for a in train)
    assert validation
    train, validation, test = (tmp_path / f"set-{name}.h5" for name in ("train", "validation", "test"))
    for other in (validation, test):
        assert not [f for f in check(train, against=other).findings if f.severity == "error"]


def test_splits_are_the_same_for_the_same_seed(tmp_path):
    a, b, c = (parts(tmp_path, walk("H2O", 60, 0), by="random", seed=s) for s in (1, 1, 2))
    energies = [[atoms.get_potential_energy() for atoms in p[1]] for p in (a, b, c)]
    assert energies[0] == energies[1] != energies[2]


def test_what_cannot_be_split_is_said(tmp_path):
    frames = walk("H2O", 20, 0)
    with pytest.raises(DataError, match="too few"):
        parts(tmp_path, frames, by="composition")
    with pytest.raises(DataError, match="sum 1"):
        parts(tmp_path, frames, fractions=(0.6, 0.6))


def test_the_command_says_what_it_wrote(tmp_path):
    write(tmp_path / "set.h5", walk("H2O", 40, 0), card={})
    done = CliRunner().invoke(app, ["data", "split", str(tmp_path / "set.h5"), "--fractions", "0.75,0.25"])
    assert done.exit_code == 0
    assert "set-validation.h5" in done.output


def test_fractions_that_are_no_numbers_are_refused(tmp_path):
    write(tmp_path / "set.h5", walk("H2O", 20, 0), card={})
    for fractions in ([float("nan"), 0.5, 0.5], [0.5, float("nan")]):
        with pytest.raises(DataError, match="positive numbers"):
            split(tmp_path / "set.h5", fractions)


def test_nothing_is_written_if_a_part_would_be_empty(tmp_path):
    """Each of three groups alone holds an element, so that all must train."""
    frames = [atoms for k, name in enumerate(("NH3", "H2O", "CH4")) for atoms in walk(name, 5, k, group=name)]
    write(tmp_path / "set.h5", frames, card={})
    with pytest.raises(DataError, match=r"3 pieces by group, 2 must train.* no validation and no test frames"):
        split(tmp_path / "set.h5", (0.6, 0.2, 0.2), by="group")
    assert [path.name for path in tmp_path.iterdir()] == ["set.h5"]


def test_turned_and_reordered_copies_stay_with_their_structure(tmp_path):
    frames = walk("CH3OH", 60, 0)
    for k, atoms in enumerate(frames):
        atoms.info["group"] = str(k)
    copies = []
    for atoms in frames[:20]:
        copy = atoms.copy()[::-1]
        copy.rotate(50, (1, 2, 3))
        copy.calc = SinglePointCalculator(copy, energy=atoms.get_potential_energy())
        copies.append(copy)
    found = parts(tmp_path, [*frames, *copies], by="random")
    where = [{a.info["group"] for a in part} for part in found]
    assert sum(map(len, where)) == len(set().union(*where)) == 60
