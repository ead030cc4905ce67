"""Do structures and labels survive the file, other packages' files included, and are bad files refused?"""

from __future__ import annotations

import subprocess
import sys

import h5py
import numpy as np
import pytest
from ase.build import molecule
from frames import assert_same, edit, labeled, mixed
from places import TESTS
from processes import running

from mlpot.data.h5md import (
    FormatError,
    LabelError,
    Reader,
    UnitsError,
    append,
    content_hash,
    frame_of,
    write,
)
from mlpot.data.h5md.layout import INDEX
from mlpot.data.h5md.write import extend, found

CARD = {"level": "PBE/def2-SVP", "licence": "MIT"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "set.h5"


def test_every_frame_comes_back_in_its_order_to_the_bit(path):
    frames = mixed()
    write(path, frames[:13], card=CARD)
    append(path, frames[13:])
    with Reader(path) as reader:
        assert len(reader) == 25
        assert reader.card == CARD
        assert reader.n_atoms.tolist() == [len(atoms) for atoms in frames]
        for ours, theirs in zip(frames, reader.frames(), strict=True):
            assert_same(ours, theirs)
            assert ours.info == theirs.info
        assert [len(a) for a in reader.frames(2, 20, 5)] == [8, 8, 8, 8]
        assert_same(reader[-1], frames[-1])


def test_records_carry_nan_where_a_label_is_missing(path):
    frames = mixed()
    write(path, frames, card=CARD)
    with Reader(path) as reader:
        records = reader.columns([7, 0, 2, 0])
    assert np.isnan(records[0].energy)
    assert np.isnan(records[0].forces).all()
    assert np.isnan(records[0].stress).all()
    assert np.isnan(records[1].forces[8]).all(), "a masked force is a missing label"
    np.testing.assert_array_equal(records[1].forces[:8], frames[0].calc.results["forces"][:8])
    np.testing.assert_array_equal(records[2].stress, frames[2].get_stress(voigt=False))
    assert records[1].group == "a"
    np.testing.assert_array_equal(records[3].positions, frames[0].positions)
    np.testing.assert_array_equal(frame_of(frames[2]).stress, records[2].stress)


def test_content_hash_sees_values_and_not_packing(path, tmp_path):
    frames = mixed()
    write(path, frames, card=CARD)
    write(tmp_path / "two.h5", frames[:3], card={})
    append(tmp_path / "two.h5", frames[3:])
    assert content_hash(path) == content_hash(tmp_path / "two.h5")
    frames[20].positions[0, 0] += 1e-15
    write(path, frames, card=CARD, overwrite=True)
    assert content_hash(path) != content_hash(tmp_path / "two.h5")


def test_destination_is_absent_or_complete(path):
    def breaking():
        yield from mixed()
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="broke"):
        write(path, breaking(), card=CARD)
    assert list(path.parent.iterdir()) == []
    write(path, mixed(), card=CARD)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="broke"):
        append(path, breaking())
    with pytest.raises(FileExistsError, match="overwrite"):
        write(path, mixed(), card=CARD)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


KILLED = """
import sys
from frames import mixed
from mlpot.data.h5md import write
def frames():
    while True:
        yield from mixed()
        print("written", flush=True)
write(sys.argv[1], frames(), card={})
"""


def test_a_killed_writer_leaves_no_half_file(path):
    command = [sys.executable, "-c", KILLED, str(path)]
    with running(command, stdout=subprocess.PIPE, cwd=TESTS) as writer:
        for _ in range(20):
            writer.stdout.readline()
    assert not path.exists()


LIVE = """
import sys, h5py
from ase.build import molecule
from frames import labeled
from mlpot.data.h5md.write import extend, found
file = h5py.File(sys.argv[1], "w", libver=("v110", "v110"))
found(file, {})
water = molecule("H2O")
extend(file, [labeled(water, 0)])
file.swmr_mode = True
for k in range(1, 400, 2):
    extend(file, [labeled(water, k), labeled(water, k + 1)])
    file.flush()
    print(k + 2, flush=True)
sys.stdin.read()  # until it is killed
"""


def test_a_trajectory_is_readable_while_it_grows_and_after_its_writer_was_killed(path):
    command = [sys.executable, "-c", LIVE, str(path)]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=TESTS) as writer:
        flushed = [int(writer.stdout.readline()) for _ in range(5)][-1]
        for _ in range(20):
            with Reader(path) as reader:
                assert len(reader) >= flushed
                last = len(reader) - 1
                assert_same(reader[last], labeled(molecule("H2O"), last))
    with Reader(path) as reader:
        assert len(reader) >= flushed
        for k, atoms in enumerate(reader.frames()):
            assert_same(atoms, labeled(molecule("H2O"), k))
    with pytest.raises(FormatError, match="killed"):
        append(path, mixed())


GROWN = ("particles/atoms_3/box/edges/value", "observables/atoms_3/energy/value", INDEX)


@pytest.mark.parametrize("first", GROWN)
def test_frames_of_a_growing_trajectory_end_where_one_of_their_columns_does(path, first, monkeypatch):
    """Datasets are opened one after another, and the writer may flush between: one has more rows than another."""
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        found(file, {})
        extend(file, [labeled(molecule("H2O"), k) for k in range(5)])
        for name in {"particles/atoms_3/position/value", *GROWN} - {first}:
            file[name].resize(4, axis=0)
    monkeypatch.setattr(h5py.File, "swmr_mode", property(lambda file: True))
    with Reader(path) as reader:
        assert len(reader) == 4
        for k, atoms in enumerate(reader.frames()):
            assert_same(atoms, labeled(molecule("H2O"), k))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: a.calc.results.update(energy=np.nan), "Frame 3: energy is not finite"),
        (lambda a: a.calc.results["forces"].__setitem__((0, 1), np.inf), "Frame 3: forces is not finite"),
        (lambda a: a.positions.__setitem__((0, 0), np.nan), "Frame 3: positions is not finite"),
        (lambda a: a.calc.results.update(energy=-1e300), r"Frame 3: energy is -1e\+300, above 1e\+12"),
        (lambda a: a.calc.results["forces"].__setitem__((2, 1), 9.97e36), "Frame 3: forces is 9.97e"),
        (lambda a: a.positions.__setitem__((1, 0), -1e20), r"Frame 3: positions is -1e\+20"),
        (lambda a: a.calc.results.update(forces=np.zeros((2, 3))), r"Frame 3: forces has shape \(2, 3\)"),
        (lambda a: a.calc.results.update(energy=np.float16(1)), "Frame 3: energy has type float16"),
        (lambda a: a.calc.results.update(energy="low"), "Frame 3: energy has type"),
        (lambda a: a.set_atomic_numbers([0, 1, 1]), "Frame 3 has atomic numbers outside"),
        (lambda a: a.set_array("force_mask", np.zeros(3)), "Frame 3: force_mask"),
        (lambda a: a.__delitem__([0, 1, 2]), "Frame 3 has no atoms"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_with_its_frame(path, spoil, message):
    frames = [labeled(molecule("H2O"), k) for k in range(5)]
    spoil(frames[3])
    with pytest.raises(LabelError, match=message):
        write(path, frames, card=CARD)
    assert not path.exists()


def test_no_frames_are_no_set(path):
    with pytest.raises(LabelError, match="No frames"):
        write(path, [], card=CARD)
    with h5py.File(path, "w") as file:
        found(file, {})
    with pytest.raises(FormatError, match="no frames"):
        Reader(path)


def _drop_unit(file):
    del file["observables/atoms_9/energy/value"].attrs["unit"]


def _set_unit(name):
    return lambda file: file["observables/atoms_9/energy/value"].attrs.__setitem__("unit", name)


def _replace(name, values):
    def change(file):
        unit = file[name].attrs["unit"]
        del file[name]
        file[name] = values
        file[name].attrs["unit"] = unit

    return change


def _external_storage(file):
    del file["observables/atoms_9/energy/value"]
    file["observables/atoms_9/energy"].create_dataset(
        "value", (5,), "f8", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
    )


def _virtual(file):
    layout = h5py.VirtualLayout((5,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "energy", (5,))
    del file["observables/atoms_9/energy/value"]
    file["observables/atoms_9/energy"].create_virtual_dataset("value", layout)


def _link(kind):
    return lambda file: file.__setitem__("extra", kind)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_drop_unit, UnitsError, r"no unit for energy.*--unit energy="),
        (_set_unit("Angstrom"), UnitsError, "not a unit of energy"),
        (_set_unit("florin"), UnitsError, "Unknown unit"),
        (lambda f: f["h5md"].attrs.__setitem__("version", [2, 0]), FormatError, r"\[2 0\]"),
        (lambda f: f.__delitem__("h5md"), FormatError, "not H5MD"),
        (lambda f: f.__delitem__("particles/atoms_9/position"), FormatError, "damaged|no position"),
        (_link(h5py.ExternalLink("other.h5", "/x")), FormatError, "is a link"),
        (_link(h5py.SoftLink("/particles")), FormatError, "is a link"),
        (_external_storage, FormatError, "in other files"),
        (_virtual, FormatError, "in other files"),
        (_replace("observables/atoms_9/energy/value", np.zeros(4)), FormatError, r"shape \(4,\), expected \(5,\)"),
        (_replace("observables/atoms_9/energy/value", np.zeros(5, "f2")), FormatError, "float16"),
        (_replace("particles/atoms_9/forces/value", np.zeros((5, 8, 3))), FormatError, r"expected \(5, 9, 3\)"),
        (lambda f: f["particles/atoms_9/box"].attrs.__setitem__("boundary", ["x"] * 3), FormatError, "boundary"),
        (lambda f: f["parameters/mlpot/index"].__setitem__(0, [99, 0, 0]), FormatError, "not there"),
        (lambda f: f["parameters/mlpot/index"].__setitem__(0, [0, 99, 0]), FormatError, "not there"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(path, change, error, message):
    write(path, mixed(), card=CARD)
    edit(path, change)
    with pytest.raises(error, match=message), Reader(path) as reader:
        list(reader.frames())


def test_nan_in_a_stored_label_names_the_frame(path):
    write(path, mixed(), card=CARD)
    edit(path, lambda f: f["particles/atoms_9/forces/value"].__setitem__((2, 4, 1), np.nan))
    with Reader(path) as reader:
        reader.columns([0, 5])
        with pytest.raises(LabelError, match="frame 10 "):
            reader.columns([0, 5, 10])


def test_cyclic_groups_do_not_hang(path):
    write(path, mixed(), card=CARD)
    edit(path, lambda f: f["parameters"].__setitem__("again", f["/"]))
    with Reader(path) as reader:
        assert len(reader) == 25


@pytest.mark.parametrize("content", [b"", b"not hdf5 at all", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_other_files_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(FormatError, match="not an HDF5 file"):
        Reader(path)
    with pytest.raises(FileNotFoundError, match="Check the path"):
        Reader(path.with_name("absent.h5"))


def test_a_batch_reads_only_the_rows_it_needs(path, monkeypatch):
    water = [labeled(molecule("H2O"), k) for k in range(400)]
    write(path, water, card=CARD)
    read = []
    inner = h5py.Dataset.__getitem__

    def counting(dataset, key, **options):
        if isinstance(key, slice) and dataset.name.endswith("position/value"):
            read.append(key)
        return inner(dataset, key, **options)

    with Reader(path) as reader:
        reader.columns([0])
        monkeypatch.setattr(h5py.Dataset, "__getitem__", counting)
        records = reader.columns([300, 3, 4, 301])
    assert [(k.start, k.stop) for k in read] == [(3, 5), (300, 302)]
    np.testing.assert_array_equal(records[0].positions, water[300].positions)
