"""Is an output refused before computing if it cannot be written, whole if it is, and told what is not in it?"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from frames import assert_same, mixed
from potentials import new_potential
from structures import copper, ethanol

import mlpot
from mlpot import load
from mlpot.atomic_files import StorageError
from mlpot.cli import main as cli
from mlpot.data.errors import FormatError, LabelError, LeftOutWarning
from mlpot.data.h5md import Reader, write
from mlpot.data.sources.output import output_format, write_structures
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading
from mlpot.graph import AtomGraph, Properties
from mlpot.model_file import save_potential
from mlpot.potential import Potential
from mlpot.predictions import NotFiniteError, labeled, predict_file, predict_structures, spread

H5MD_WRITE = importlib.import_module("mlpot.data.h5md.write")  # a function has the module's name


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    save_potential(new_potential("schnet", n_features=8, n_interactions=1), "model.safetensors")
    write("set.h5", [ethanol(k) for k in range(5)], card={})
    return tmp_path


def never(*_: object, **__: object) -> Iterator[Atoms]:
    raise AssertionError("it was computed")


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("out.csv", "its ending is of no format"),
        ("out", "its ending is of no format"),
        (".h5", "its ending is of no format"),
        ("out.vasp", "structures with results are not written as vasp"),
        ("out.cif", "not written as cif"),
        ("out.json", "not written as json"),
        ("nowhere/out.xyz", "There is no folder nowhere"),
        ("nowhere/out.h5", "There is no folder nowhere"),
        ("set.h5/out.h5", "set.h5 is a file"),
        ("set.h5/out.traj", "set.h5 is a file"),
        (".", "is a folder"),
        ("set.h5", "set.h5 exists"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_computing(
    output: str, told: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr("mlpot.predictions.files.load_potential", never)
    with pytest.raises((OSError, ValueError), match=told):
        predict_file("model.safetensors", "set.h5", output)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused_before_computing(folder: Path) -> None:
    (folder / "locked").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="cannot be written"):
        output_format(folder / "locked/out.xyz")


@pytest.mark.parametrize("ending", ["h5", "xyz", "extxyz", "traj", "db"])
def test_what_was_predicted_comes_back(ending: str, folder: Path) -> None:
    slab = fcc111("Cu", (1, 1, 3), vacuum=5.0)
    slab.set_constraint(FixAtoms([0]))
    slab.info.clear()
    given = [ethanol(0), copper(), slab]
    ase.io.write("in.traj", given)
    assert predict_file("model.safetensors", "in.traj", f"out.{ending}") == 3
    found = list(Reader("out.h5").frames()) if ending == "h5" else ase.io.read(f"out.{ending}", ":")
    for before, after in zip(given, found, strict=True):
        np.testing.assert_allclose(after.positions, before.positions, atol=1e-7)
        results = after.calc.results
        assert np.isfinite(results["energy"])
        assert results["forces"].shape == (len(before), 3)
        assert ("stress" in results) == bool(before.pbc.any())
    assert found[2].constraints[0].index.tolist() == [0]
    assert not list(folder.glob(".*part*"))


@pytest.mark.parametrize("ending", ["h5", "xyz", "traj", "db"])
def test_results_in_info_and_arrays_are_kept_under_other_names(ending: str, folder: Path) -> None:
    structures = [ethanol(k) for k in range(3)]
    for k, atoms in enumerate(structures):
        atoms.info |= {"energy": -1.0 - k, "stress": [0.0] * 6, "name": "mine"}
        atoms.arrays["forces"] = np.full((9, 3), 7.0)
    ase.io.write("in.traj", structures)
    predict_file("model.safetensors", "in.traj", f"out.{ending}")
    found = list(Reader("out.h5").frames()) if ending == "h5" else ase.io.read(f"out.{ending}", ":")
    expected = [labeled(*pair) for pair in predict_structures(load("model.safetensors"), structures)]
    for after, wanted in zip(found, expected, strict=True):
        assert after.get_potential_energy() == pytest.approx(wanted.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(after.get_forces(), wanted.get_forces(), atol=1e-6)
        assert (wanted.info["input_stress"], wanted.info["name"]) == ([0.0] * 6, "mine")
        assert (wanted.arrays["input_forces"] == 7.0).all()
    assert structures[0].info["energy"] == -1.0
    if ending == "xyz":
        write_structures("python.xyz", expected)
        assert ase.io.read("python.xyz", 1).info["input_energy"] == -2.0
        assert found[1].info["name"] == "mine"


def test_an_output_stays_as_it_was_until_the_new_one_is_whole(folder: Path) -> None:
    for ending in ("xyz", "h5", "traj", "db"):
        output = folder / f"good.{ending}"
        predict_file("model.safetensors", "set.h5", output)
        before = output.read_bytes()
        bad = [ethanol(0), ethanol(1)]
        bad[1].numbers[0] = 7
        write("bad.h5", bad, card={}, overwrite=True)
        with pytest.raises(ValueError, match=r"Structure 1 .CH6NO.: N is unknown"):
            predict_file("model.safetensors", "bad.h5", output, overwrite=True, batch_atoms=9)
        assert output.read_bytes() == before
    assert not list(folder.glob(".good*"))


def test_structures_are_streamed(folder: Path) -> None:
    """The file grows while structures come."""
    sizes = []

    def structures() -> Iterator[Atoms]:
        for k in range(60):
            yield ethanol(k)
            sizes.append(sum(path.stat().st_size for path in folder.glob(".out.*/*")))

    write_structures("out.xyz", structures())
    assert sizes[0] < sizes[30] < sizes[59] <= Path("out.xyz").stat().st_size


def test_what_a_format_cannot_hold_is_named(folder: Path) -> None:
    atoms = ethanol()
    atoms.info["model"] = {"of": object()}
    with pytest.raises(FormatError, match=r"Structure 1 .C2H6O. cannot be written to out.db as db"):
        write_structures("out.db", [ethanol(), atoms])
    assert not Path("out.db").exists()
    with pytest.raises(LabelError, match="No structures to write"):
        write_structures("out.xyz", [])


def bad_set(ending: str) -> str:
    structures = [ethanol(k) for k in range(8)]
    structures[2].positions[1] = structures[2].positions[0]
    structures[5].numbers[3] = 7
    if ending == "h5":
        write("bad.h5", structures, card={})
    else:
        structures[6].positions[0, 0] = np.nan
        ase.io.write(f"bad.{ending}", structures)
    return f"bad.{ending}"


@pytest.mark.parametrize(("ending", "n_bad"), [("traj", 3), ("h5", 2)])
def test_bad_structures_are_left_out_and_told(ending: str, n_bad: int, folder: Path) -> None:
    left: dict[int, str] = {}
    seen = []
    n = predict_file(
        "model.safetensors", bad_set(ending), "out.xyz", on_bad=left.__setitem__,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert n == 8 - n_bad == len(ase.io.read("out.xyz", ":"))
    assert sorted(left) == [2, 5, 6][:n_bad]
    assert "the same atom twice" in left[2]
    assert "N is unknown to this potential" in left[5]
    assert seen[-1] == (n, 8 if ending == "h5" else None)


def test_a_damaged_block_costs_its_bad_frames_alone(folder: Path) -> None:
    write("bad.h5", [ethanol(k) for k in range(8)], card={})
    with h5py.File("bad.h5", "r+") as file:
        file["particles/atoms_9/position/value"][3, 0, 0] = np.nan
    left: dict[int, str] = {}
    assert predict_file("model.safetensors", "bad.h5", "out.h5", on_bad=left.__setitem__) == 7
    assert list(left) == [3]


def test_the_end_of_a_cut_file_is_told(folder: Path) -> None:
    ase.io.write("cut.xyz", [ethanol(k) for k in range(4)])
    text = Path("cut.xyz").read_text()
    Path("cut.xyz").write_text(text[: int(0.8 * len(text))])
    with pytest.warns(LeftOutWarning, match=r"cut\.xyz: left out, as the file ends within .* \(1 frame: 3\)"):
        assert predict_file("model.safetensors", "cut.xyz", "out.xyz") == 3
    with pytest.warns(LeftOutWarning, match="the file ends within"):
        assert len(mlpot.read("cut.xyz")) == 3


def test_a_prediction_that_is_not_finite_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute, bad = spread.predict_and_grade, torch.tensor(ethanol(1).positions)

    def broken(potential: Potential, graph: AtomGraph) -> Properties:
        out = compute(potential, graph)
        of_bad = graph.batch[(graph.positions[:, None] == bad).all(-1).any(-1)]
        energy = out.energy.index_fill(0, of_bad, torch.nan)
        return replace(out, energy=energy)

    monkeypatch.setattr(spread, "predict_and_grade", broken)
    left: dict[int, str] = {}
    assert predict_file("model.safetensors", "set.h5", "o.h5", batch_atoms=18, on_bad=left.__setitem__) == 4
    assert list(left) == [1]
    assert "not finite" in left[1]
    with pytest.raises(NotFiniteError, match="--skip-bad"):
        predict_file("model.safetensors", "set.h5", "p.h5", batch_atoms=9)


KNOWN = (1, 6, 8, 14)


def everything(atoms: Atoms, k: int) -> Atoms:
    """With what H5MD keeps besides: charges, masses, fixed atoms, velocities, a state, a clock, a weight."""
    rng = np.random.default_rng(k)
    if k % 3 == 0:
        atoms.set_initial_charges(rng.normal(size=len(atoms)))
        atoms.set_masses(rng.uniform(1, 20, size=len(atoms)))
    if k % 4 == 0:
        atoms.set_constraint(FixAtoms([0]))
        atoms.info.update(charge=float(k % 2), config_weight=0.5)
    if k % 5 == 0:
        atoms.set_velocities(rng.normal(size=(len(atoms), 3)))
        atoms.info.update(step=k, time=0.5 * k)
    return atoms


@pytest.mark.parametrize("held", [0, 2**21], ids=["each_batch_written", "all_at_the_end"])
def test_columns_are_predicted_as_structures_are(folder: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """Molecules, crystals, slabs and atoms, with all that H5MD keeps of them, in batches of many sizes."""
    monkeypatch.setattr(H5MD_WRITE, "BUFFER_OF_COLUMNS", held)
    arguments = {"cutoff": 4.0, "n_features": 8, "n_interactions": 1}
    potential = Potential("schnet", arguments, reference_energies=dict.fromkeys(KNOWN, 0.0))
    save_potential(potential.freeze(), "model.safetensors")
    frames = [everything(atoms, k) for k, atoms in enumerate(mixed())]
    write("in.h5", frames, card={})
    source = Source("in.h5", Reading(labels=False, index="1::2"))
    for batch_atoms in (1, 20, 1024):
        n = predict_file("model.safetensors", source, "a.h5", batch_atoms=batch_atoms, overwrite=True)
        account = source.report
        with monkeypatch.context() as patched:
            patched.setattr(Source, "in_columns", False)
            assert predict_file("model.safetensors", source, "b.h5", batch_atoms=batch_atoms, overwrite=True) == n
        assert account == source.report
        with Reader("a.h5") as ours, Reader("b.h5") as theirs:
            assert len(ours) == n == len(frames[1::2])
            for a, b in zip(ours.frames(), theirs.frames(), strict=True):
                assert_same(a, b)
                assert a.info == b.info
                assert a.arrays.keys() == b.arrays.keys()
                for name in a.arrays:
                    np.testing.assert_allclose(a.arrays[name], b.arrays[name], rtol=1e-14)
                assert [c.todict() for c in a.constraints] == [c.todict() for c in b.constraints]


def test_an_error_while_columns_are_written_leaves_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written by another thread, whose errors are told by the next batch or at the end."""
    write("in.h5", [ethanol(k) for k in range(6)], card={})
    save_potential(new_potential("schnet", n_features=8).freeze(), "model.safetensors")
    monkeypatch.setattr(H5MD_WRITE, "BUFFER_OF_COLUMNS", 0)
    extend, left = H5MD_WRITE.extend_columns, [0]

    def until_full(*arguments: object) -> int:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        return extend(*arguments)

    monkeypatch.setattr(H5MD_WRITE, "extend_columns", until_full)
    before = sorted(path.name for path in folder.iterdir())
    for n_writes in (1, 3):
        left[0] = n_writes
        with pytest.raises(OSError, match="No space left"):
            predict_file("model.safetensors", "in.h5", "out.h5", batch_atoms=18)
        assert sorted(path.name for path in folder.iterdir()) == before
    left[0] = 10
    assert predict_file("model.safetensors", "in.h5", "out.h5", batch_atoms=18) == 6


def test_the_command_tells_what_it_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def mlpot(*arguments: str) -> object:
        monkeypatch.setattr(sys, "argv", ["mlpot", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code

    bad = bad_set("traj")
    told = mlpot("predict", "model.safetensors", bad, "-o", "out.xyz")
    assert "Structure 2 (C2H6O)" in str(told)
    assert not Path("out.xyz").exists()
    assert not mlpot("predict", "model.safetensors", bad, "-o", "out.xyz", "--skip-bad")
    out = capsys.readouterr().out
    assert "5 structures written to out.xyz, 3 left out" in out
    assert out.count("Left out: structure") == 3


TO_FILES = [
    "data convert set.h5 nowhere/out.h5", "data merge set.h5 other.h5 nowhere/out.h5",
    "data export set.h5 nowhere/out.xyz", "predict model.safetensors set.h5 -o nowhere/out.h5",
    "data label set.h5 nowhere/out.h5 --calculator tblite --set method=GFN2-xTB",
    "data recover set.h5 nowhere/out.h5",
]  # fmt: skip
TO_FOLDERS = [
    "data split set.h5 -o nowhere/parts --fractions 0.6,0.4",
    "evaluate model.safetensors labeled.h5 -o nowhere/errors",
]


@pytest.mark.parametrize("command", TO_FILES)
def test_the_folder_of_a_file_must_be_there(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("other.h5", [ethanol(k) for k in range(5, 8)], card={})
    monkeypatch.setattr("sys.argv", ["mlpot", *command.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code not in (0, None)
    assert "There is no folder nowhere for out." in f"{ended.value.code}{capsys.readouterr().err}"
    assert not (folder / "nowhere").exists()


@pytest.mark.parametrize("command", TO_FOLDERS)
def test_a_folder_that_is_an_output_is_made(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labeled = [ethanol(k) for k in range(2)]
    for atoms in labeled:
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((len(atoms), 3)))
    write("labeled.h5", labeled, card={})
    monkeypatch.setattr("sys.argv", ["mlpot", *command.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)
    assert list((folder / "nowhere").iterdir())


@pytest.mark.parametrize("command", ["data check set.h5 --html set.h5", "data check set.h5 --json set.h5",
                                     "report run -o set.h5", "verify --calculator a:B --html set.h5"])  # fmt: skip
def test_a_report_never_takes_the_place_of_data(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "set.h5", [ethanol(0)], card={})
    (tmp_path / "run").mkdir()
    before = (tmp_path / "set.h5").read_bytes()
    monkeypatch.setattr("sys.argv", ["mlpot", *command.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert "set.h5 would be a report: let its name end in .json or .html" in str(ended.value.code)
    assert (tmp_path / "set.h5").read_bytes() == before
