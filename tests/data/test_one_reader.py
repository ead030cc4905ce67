"""Does every command see the same frames, labels, masks and families of a file, and ask the same questions?"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.md.langevin import Langevin
from frames import converted
from md_runs import md_recipe, without_picture
from potentials import new_potential

from mlpot.data.check.check import check
from mlpot.data.check.info import info
from mlpot.data.check.survey import survey
from mlpot.data.errors import FormatError, KeysError
from mlpot.data.frame import ASE_VELOCITY, Frame, columns_of, frame_of, frame_of_columns
from mlpot.data.h5md import Reader, SetReader, add_to_hash, content_hash
from mlpot.data.label import label
from mlpot.data.label_workers import Outcome
from mlpot.data.merge import merge
from mlpot.data.sources.convert import convert
from mlpot.data.sources.read import Source, read_structure
from mlpot.data.sources.reading import Reading
from mlpot.data.split import split
from mlpot.dynamics.run import run_md
from mlpot.dynamics.start import StructureWarning
from mlpot.evaluate import evaluate
from mlpot.model_file import save_potential
from mlpot.predictions import predict_file
from mlpot.training.recipe import DataSection, LossSection
from mlpot.training.splits import make_parts


@pytest.fixture(scope="module")
def run() -> list[Atoms]:
    """Frames of Langevin dynamics of copper, with what its calculator had for them."""
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.calc = EMT()
    dynamics = Langevin(
        atoms, 2 * units.fs, temperature_K=300, friction=0.01, fixcm=False, rng=np.random.default_rng(3)
    )
    frames = []

    def keep() -> None:
        frame = atoms.copy()
        frame.calc = SinglePointCalculator(
            frame, energy=atoms.get_potential_energy(), forces=atoms.get_forces(), stress=atoms.get_stress()
        )
        frames.append(frame)

    dynamics.attach(keep, interval=2)
    dynamics.run(8)
    return frames


def written(frames: list[Atoms], path: Path) -> Path:
    if path.suffix == ".db":
        with ase.db.connect(path) as database:
            for atoms in frames:
                pairs = {k: v for k, v in atoms.info.items() if isinstance(v, str | float)}
                database.write(atoms, **pairs)
    else:
        ase.io.write(path, frames)
    return path


@pytest.mark.parametrize("ending", ["traj", "xyz", "extxyz", "json", "db"])
def test_dynamics_of_ase_arrive_with_their_velocities(run, tmp_path, ending):
    path = written(run, tmp_path / f"md.{ending}")
    out = converted(path)
    assert len(out) == len(run) == 5
    for ours, theirs in zip(out, run, strict=True):
        np.testing.assert_allclose(ours.get_velocities(), theirs.get_velocities(), atol=1e-8)
        np.testing.assert_allclose(ours.get_forces(), theirs.calc.results["forces"], atol=1e-8)
        assert ours.get_potential_energy() == pytest.approx(theirs.calc.results["energy"], abs=1e-8)
    assert np.abs(out[-1].get_velocities()).max() > 0.0


def test_a_lammps_dump_arrives_with_its_velocities(tmp_path):
    path = tmp_path / "md.dump"
    head = "ITEM: TIMESTEP\n{}\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS pp pp pp\n0 8\n0 8\n0 8\n"
    columns = "ITEM: ATOMS id type element x y z vx vy vz fx fy fz\n"
    rows = "1 1 Cu 0 0 0 1.5 0 0 0.1 0 0\n2 1 Cu 2.5 0 0 -1.5 0 0 -0.1 0 0\n"
    path.write_text("".join(head.format(k) + columns + rows for k in range(3)))
    out = converted(path, format="lammps-dump-text", units={"lammps": "metal"})
    assert len(out) == 3
    # LAMMPS' metal units are Å/ps.
    np.testing.assert_allclose(
        out[0].get_velocities() * ASE_VELOCITY, [[1.5e-3, 0, 0], [-1.5e-3, 0, 0]], rtol=1e-6
    )


@pytest.mark.parametrize("gap", ["\n", "   \n", "\n\n\t\n"])
def test_frames_after_a_blank_line_are_read(tmp_path, gap):
    frames = ["1\nenergy=-1 pbc=FFF\nH 0 0 0\n", "3\nenergy=-2 pbc=FFF\nO 0 0 0\nH 1 0 0\nH 0 1 0\n"] * 3
    (tmp_path / "set.xyz").write_text(gap.join(frames) + gap)
    assert [len(a) for a in converted(tmp_path / "set.xyz")] == [1, 3] * 3
    with gzip.open(tmp_path / "set.xyz.gz", "wt") as file:
        file.write(gap.join(frames))
    assert len(converted(tmp_path / "set.xyz.gz", format="extxyz")) == 6


def test_a_comment_may_be_blank(tmp_path):
    (tmp_path / "plain.xyz").write_text("2\n\nH 0 0 0\nH 0 0 1\n\n2\n\nH 0 0 0\nH 0 0 2\n")
    found = list(Source(tmp_path / "plain.xyz").frames())
    assert [a.positions[1, 2] for a in found] == [1.0, 2.0]


def test_what_follows_the_last_frame_is_named_by_its_line(tmp_path):
    (tmp_path / "set.xyz").write_text("1\nenergy=-1 pbc=FFF\nH 0 0 0\n# end\n")
    with pytest.raises(FormatError, match="line 4: a frame begins with its number"):
        converted(tmp_path / "set.xyz")
    (tmp_path / "set.xyz").write_text("1\nenergy=-1 pbc=FFF\nH 0 0 0\n2\nenergy=-1\nH 0 0 0\n")
    source = Source(tmp_path / "set.xyz")
    assert len(list(source.frames())) == 1
    assert "begins in line 4 and says 2 atoms (1 frame: 1)" in "".join(source.report.lines())


def labeled_set() -> list[Atoms]:
    """Slabs with held atoms and crystals with a virial, of two families, and what no label is."""
    frames = []
    for k in range(24):
        atoms = fcc111("Cu", (2, 2, 2), vacuum=6.0) if k % 2 else bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=k)
        atoms.info = {}
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        if k % 2:
            atoms.set_constraint(FixAtoms([0, 1]))
            results["forces"][:2] = 0.0
        else:
            atoms.info["virial"] = -atoms.get_stress(voigt=False) * atoms.get_volume()
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info |= {"config_type": f"family{k % 2}", "config_weight": 0.5}
        frames.append(atoms)
    return frames


def columns(atoms: Atoms) -> dict[str, bytes]:
    return {key: value.tobytes() for key, value in columns_of(atoms, 0).items()} | {
        "group": str(atoms.info.get("group")).encode(),
        "pbc": atoms.pbc.tobytes(),
    }


@pytest.mark.parametrize("ending", ["xyz", "traj", "json", "db"])
def test_one_file_is_the_same_through_every_door(tmp_path, ending):
    path = written(labeled_set(), tmp_path / f"set.{ending}")
    if ending == "xyz":  # which alone keeps what a calculator has not computed
        assert "virial" in path.read_text()
    assert convert(path, tmp_path / "set.h5") == 24
    whole = content_hash(tmp_path / "set.h5")
    with Reader(tmp_path / "set.h5") as reader:
        ours = [columns(a) for a in reader.frames()]
    assert [columns(a) for a in Source(path).frames()] == ours
    families = {"family0": 12, "family1": 12} if ending != "json" else {}  # which keeps no info
    assert info(path).groups == info(tmp_path / "set.h5").groups == families
    assert info(path).n_masked == info(tmp_path / "set.h5").n_masked == 24
    assert info(path).missing == info(tmp_path / "set.h5").missing
    a, b = check(path, quick=True), check(tmp_path / "set.h5", quick=True)
    assert a.facts == b.facts
    parts = split(path, [0.5, 0.5], by="random", output=tmp_path / "a")
    same = split(tmp_path / "set.h5", [0.5, 0.5], by="random", output=tmp_path / "b")
    assert [content_hash(p) for p in parts] == [content_hash(p) for p in same]
    assert sorted(parts.values()) == [12, 12]
    assert convert(tmp_path / "set.h5", tmp_path / "again.h5") == 24
    assert content_hash(tmp_path / "again.h5") == whole


def test_doors_that_need_no_labels_see_the_same_structures_and_ask_for_none(tmp_path):
    frames = labeled_set()[:4]
    for k, atoms in enumerate(frames):
        atoms.info |= {"REF_energy": -1.0 - k, "id": f"frame {k}"}
    path = written(frames, tmp_path / "set.xyz")
    with pytest.raises(KeysError, match="'energy' or 'REF_energy'"):
        list(Source(path).frames())
    third = read_structure(path, -2)
    assert third.info["id"] == "frame 2"
    assert third.calc is None
    np.testing.assert_allclose(third.positions, frames[2].positions, atol=1e-8)
    assert read_structure(path, 1).constraints[0].index.tolist() == [0, 1]
    for missing in (4, -5):
        with pytest.raises(FormatError, match=f"no structure {missing}"):
            read_structure(path, missing)


@pytest.mark.parametrize(
    "door", [check, info, lambda p: split(p, [0.5, 0.5]), lambda p: convert(p, p.parent / "a.h5")]
)
def test_every_door_asks_the_same(tmp_path, door):
    path = written([molecule("H2O") for _ in range(4)], tmp_path / "set.xyz")
    path.write_text(path.read_text().replace("pbc=", "dft_energy=-3.0 REF_virials=1 pbc="))
    if door is check:
        assert "--key energy=dft_energy --unit energy=eV" in check(path).findings[0].message
    else:
        with pytest.raises(KeysError, match="--key energy=dft_energy --unit energy=eV"):
            door(path)


def numbers_of_frames(source: Source) -> list[int]:
    return [k for k, _ in source.numbered()]


def test_frames_bear_their_numbers_in_the_file(run, tmp_path):
    path = written(run, tmp_path / "md.traj")
    for index, expected in (("1::2", [1, 3]), ("2", [2]), ("-2:", [3, 4]), ("-1", [4]), (":", [0, 1, 2, 3, 4])):
        assert numbers_of_frames(Source(path, Reading(index=index))) == expected, index
    with pytest.raises(FormatError, match="is no slice of frames"):
        Source(path, Reading(index="1:x")).reading.wanted  # noqa: B018
    assert convert(path, tmp_path / "a.h5", index="1:", drop="2,4") == 2
    with Reader(tmp_path / "a.h5") as reader:
        np.testing.assert_array_equal(reader[1].positions, run[3].positions)


@pytest.mark.parametrize("name", ["set.xyz", "set.traj", "set.npz", "OUTCAR", "folder", "set.db"])
def test_what_is_not_h5md_is_told_the_command_that_converts_it(run, tmp_path, name):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name == "set.npz":
        np.savez(path, z=[1], R=np.zeros((1, 1, 3)), E=[1.0])
    elif name == "OUTCAR":
        path.write_text(" vasp.6.3.0\n")
    else:
        written(run, path)
    with pytest.raises(
        FormatError, match=rf"{name} is not H5MD. Convert it: mlpot data convert \S*{name} \S+\.h5"
    ):
        make_parts(DataSection(train=str(path)), LossSection())
    broken = tmp_path / "broken.h5"
    broken.write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    with pytest.raises(FormatError, match="mlpot data recover"):
        make_parts(DataSection(train=str(broken)), LossSection())


def structure_of(frame: Frame) -> bytes:
    arrays = (frame.numbers, frame.positions, frame.cell, frame.pbc)
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).digest()


def content_of(frame: Frame) -> str:
    digest = hashlib.sha256()
    add_to_hash(digest, frame)
    return digest.hexdigest()


def contents(*files: Path) -> list[str]:
    with SetReader(files) as reader:
        return [content_of(frame) for frame in reader.columns(range(len(reader)))]


def test_one_file_has_one_content_through_every_door(run, tmp_path, monkeypatch):
    """By hash: convert, merge, split, training, info, check, evaluate; of structures in predict."""
    slab = fcc111("Cu", (1, 1, 3), vacuum=5.0)
    slab.set_constraint(FixAtoms([0]))
    slab.info.clear()
    slab.calc = SinglePointCalculator(slab, energy=-3.0, forces=np.eye(3), stress=np.arange(1.0, 7.0))
    path = written([*run, slab], tmp_path / "set.traj")
    expected = [content_of(frame) for _, frame in Source(path).records()]
    assert len(set(expected)) == 6

    convert(path, tmp_path / "a.h5")
    assert contents(tmp_path / "a.h5") == expected
    assert survey(tmp_path / "a.h5").hash == content_hash(tmp_path / "a.h5")
    water = written([molecule("H2O")], tmp_path / "water.xyz")
    merge([Source(path), Source(water, Reading(labels=False))], tmp_path / "both.h5", references="keep")
    assert contents(tmp_path / "both.h5")[:6] == expected
    parts = split(path, [0.5, 0.5], output=tmp_path / "parts", block=1)
    assert sorted(contents(*parts)) == sorted(expected)
    seen: list[Frame] = []
    records = Source.records

    def watched(self: Source, step: int = 1) -> Iterator[tuple[int, Frame]]:
        for k, frame in records(self, step):
            seen.append(frame)
            yield k, frame

    monkeypatch.setattr(Source, "records", watched)
    for door in (info, lambda p: check(p, quick=True)):
        seen.clear()
        door(path)
        assert [content_of(frame) for frame in seen[:6]] == expected
    model = new_potential("deepsets", n_features=8)

    def compared(*columns: Any) -> Frame:
        seen.append(frame_of_columns(*columns))
        return seen[-1]

    monkeypatch.setattr("mlpot.evaluate.frame_of_columns", compared)
    seen.clear()
    evaluate(model, Source(path))
    assert [content_of(frame) for frame in seen] == expected
    structures = [structure_of(frame) for frame in seen]
    save_potential(model, tmp_path / "model.safetensors")
    predict_file(tmp_path / "model.safetensors", path, tmp_path / "out.h5")
    with Reader(tmp_path / "out.h5") as reader:
        assert [structure_of(frame) for frame in reader.columns(range(6))] == structures


def kept(atoms: Atoms, *but: str) -> dict[str, bytes]:
    """Everything that a frame holds besides labels."""
    labels = {"energy", "forces", "stress", "force_mask", "step", "time"}
    return {key: value for key, value in columns(atoms).items() if key not in {*labels, *but}}


def test_label_and_dynamics_begin_from_the_content_that_convert_writes(run, tmp_path, monkeypatch):
    """Structure, family, charge, spin, weight, masses, held atoms and velocities; labels are those of the code."""
    slab = fcc111("Cu", (1, 1, 3), vacuum=5.0)
    slab.set_constraint(FixAtoms([0]))
    slab.set_masses([63.0, 65.0, 63.0])
    slab.info = {"config_type": "slab", "total_charge": -1.0, "multiplicity": 2, "config_weight": 0.5}
    slab.calc = SinglePointCalculator(slab, energy=-3.0, forces=np.eye(3))
    path = written([*run, slab], tmp_path / "set.traj")
    convert(path, tmp_path / "a.h5")
    with Reader(tmp_path / "a.h5") as reader:
        ours = list(reader.frames())
    assert {"fixed", "mass", "total_charge", "total_spin", "weight"} <= kept(ours[5]).keys()

    def computed(code: Any, frames: list[tuple[int, Atoms]], workers: int) -> Iterator[Outcome]:
        for k, atoms in frames:
            yield Outcome(k, -1.0 - k, np.full((len(atoms), 3), 0.5).tolist())

    monkeypatch.setattr("mlpot.data.label.in_processes", computed)
    monkeypatch.setattr("mlpot.data.label.version", lambda code: "1")
    label(path, tmp_path / "labeled.h5", calculator="tblite")
    with Reader(tmp_path / "labeled.h5") as reader:
        labeled = list(reader.frames())
    assert [kept(atoms) for atoms in labeled] == [kept(atoms) for atoms in ours]
    assert [atoms.get_potential_energy() for atoms in labeled] == [-1.0 - k for k in range(6)]
    assert np.isfinite(frame_of(labeled[5]).forces).all()

    save_potential(new_potential("deepsets", n_features=8), tmp_path / "model.safetensors")
    monkeypatch.setattr("mlpot.figures.md.plot_md", without_picture)
    for k in (2, 5):
        recipe = md_recipe(
            tmp_path, structure=path, frame=k, velocities="file" if k == 2 else "draw", steps=1,
            output=tmp_path / f"{k}", max_start_force=1e9,
        )  # fmt: skip
        with pytest.warns(StructureWarning, match="charge of -1 and a spin of 2") if k == 5 else nullcontext():
            run_md(recipe)
        with Reader(tmp_path / f"{k}/trajectory.h5") as reader:
            first = reader[0]
        but = ("mass", "velocity", "weight")  # masses are always written; a weight is one of labels
        assert kept(first, *but) == kept(ours[k], *but)
        np.testing.assert_allclose(first.get_masses(), ours[k].get_masses(), rtol=1e-12)
        if k == 2:
            np.testing.assert_allclose(first.get_velocities(), ours[k].get_velocities(), rtol=1e-9, atol=1e-12)
