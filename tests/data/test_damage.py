"""Is every damaged byte of our files found, and is every frame that it spares recovered?"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from frames import assert_same, labeled
from processes import running
from typer.testing import CliRunner
from work import little_work

from mlpot.atomic_files import StorageError
from mlpot.cli.main import app
from mlpot.data.h5md import DataError, FormatError, Reader, content_hash, repair, write
from mlpot.data.h5md.recover import Recovered, recover
from mlpot.data.h5md.trajectory import TrajectoryWriter


def frames(n: int = 60) -> list[Atoms]:
    kinds = [molecule("CH3CH2OH"), molecule("H2O"), bulk("Si", cubic=True)]
    made = [labeled(kinds[k % 3], k, group="ab"[k % 2], step=10 * k, time=5.0 * k) for k in range(n)]
    for atoms in made:
        atoms.set_velocities(np.full((len(atoms), 3), 0.125))
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "set.h5"
    write(path, frames(), card={"level": "PBE"})
    return path


def content(path: Path) -> list[tuple[object, ...]]:
    """All of the frames, to the bit."""
    with Reader(path) as reader:
        return [
            (
                *(x.tobytes() for x in (a.numbers, a.positions, a.cell.array, a.pbc, a.get_momenta())),
                *(np.asarray(value).tobytes() for value in a.calc.results.values()),
                *a.info.values(),
            )
            for a in reader.frames()
        ]


def chunks(path: Path) -> Iterator[tuple[str, int, int, range]]:
    """Name, place, size and rows of every chunk."""
    with h5py.File(path) as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        for name in names:
            for k in range(file[name].id.get_num_chunks()):
                chunk, first = file[name].id.get_chunk_info(k), file[name].chunks[0]
                rows = range(chunk.chunk_offset[0], min(chunk.chunk_offset[0] + first, len(file[name])))
                yield name, chunk.byte_offset, chunk.size, rows


def flipped(raw: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(raw)
    changed[place] ^= 1 << bit
    return bytes(changed)


def found_or_harmless(raw: bytes, path: Path, before: list[tuple[object, ...]], n_flips: int, seed: int) -> int:
    """How many of so many flipped bits were refused; the others must change no value."""
    rng, refused = random.Random(seed), 0
    for _ in range(n_flips):
        path.write_bytes(flipped(raw, rng.randrange(len(raw)), rng.randrange(8)))
        try:
            with little_work():
                assert content(path) == before
        except DataError:
            refused += 1
    return refused


def test_a_flipped_bit_is_found_or_changes_nothing(whole, tmp_path):
    assert found_or_harmless(whole.read_bytes(), tmp_path / "set.h5", content(whole), 100, seed=0) > 80


@pytest.mark.slow
def test_thousands_of_flipped_bits_are_found_or_change_nothing(whole, tmp_path):
    assert found_or_harmless(whole.read_bytes(), tmp_path / "set.h5", content(whole), 2000, seed=1) > 1800


def test_every_flipped_bit_of_a_value_is_found(whole, tmp_path):
    """One in each chunk of each dataset."""
    raw, rng, path = whole.read_bytes(), random.Random(2), tmp_path / "set.h5"
    for _, place, size, _ in chunks(whole):
        path.write_bytes(flipped(raw, place + rng.randrange(size), rng.randrange(8)))
        with pytest.raises(DataError):
            content(path)


def test_a_file_that_was_cut_off_is_refused(whole, tmp_path):
    raw, rng, path = whole.read_bytes(), random.Random(3), tmp_path / "set.h5"
    for size in [0, 1, 47, len(raw) - 1, *(rng.randrange(len(raw)) for _ in range(50))]:
        path.write_bytes(raw[:size])
        with pytest.raises(FormatError, match="not an HDF5 file, or is damaged"):
            content_hash(path)


def test_a_bit_that_makes_another_unit_is_found(whole, tmp_path):
    """Words are the one thing that HDF5 keeps without a checksum: fs and ns are a bit apart."""
    raw = whole.read_bytes()
    places = [k for k in range(len(raw)) if raw.startswith((b"fs\0", b"Angstrom fs-1\0"), k)]
    assert len(places) >= 2
    for place in places:
        (tmp_path / "set.h5").write_bytes(flipped(raw, place + raw[place:].index(b"fs"), 3))
        with pytest.raises(DataError, match="ns"):
            Reader(tmp_path / "set.h5")


def recovered(raw: bytes, folder: Path) -> tuple[list[tuple[object, ...]], Recovered]:
    (folder / "bad.h5").write_bytes(raw)
    told = recover(folder / "bad.h5", folder / "good.h5", overwrite=True)
    assert (folder / "bad.h5").read_bytes() == raw
    assert sorted(path.name for path in folder.iterdir()) == ["bad.h5", "good.h5"]
    return content(folder / "good.h5"), told


def test_a_whole_file_is_recovered_whole(whole, tmp_path):
    found, told = recovered(whole.read_bytes(), tmp_path)
    assert found == content(whole)
    assert (told.n_frames, told.n_lost, told.notes) == (60, 0, [])
    with Reader(tmp_path / "good.h5") as reader:
        assert reader.card == {"level": "PBE", "recovered from": "bad.h5"}


def test_a_damaged_chunk_costs_its_own_frames_and_no_others(whole, tmp_path):
    raw, before, rng = whole.read_bytes(), content(whole), random.Random(4)
    with Reader(whole) as reader:
        index = [(reader._groups[g]._where.rpartition("/")[2], row) for g, row, _ in reader._index]
    values = [c for c in chunks(whole) if c[0].endswith("/value")]
    for name, place, size, rows in rng.sample(values, 8):
        found, told = recovered(flipped(raw, place + rng.randrange(size), rng.randrange(8)), tmp_path)
        spared = [
            f for f, (g, row) in zip(before, index, strict=True) if g not in name.split("/") or row not in rows
        ]
        assert found == spared, name
        assert told.n_lost == len(before) - len(spared)


def test_lost_order_is_that_of_the_steps_and_lost_steps_cost_no_frame(whole, tmp_path):
    raw, before = whole.read_bytes(), content(whole)
    for name, place, size, _ in chunks(whole):
        if name.endswith("/value"):
            continue
        found, told = recovered(flipped(raw, place + size // 2, 5), tmp_path)
        assert told.n_frames == 60
        assert any("lost" in note for note in told.notes), name
        assert [f[:7] for f in found] == [f[:7] for f in before], name  # but for family, step and time


def test_a_wrong_bit_of_the_metadata_is_put_right(whole, tmp_path):
    """But for the rare place that only looks like the beginning of a block, or no longer looks like one."""
    raw, before, rng = whole.read_bytes(), content(whole), random.Random(5)
    values = np.zeros(len(raw), dtype=bool)
    for _, place, size, _ in chunks(whole):
        values[place : place + size] = True
    complete = 0
    for place in rng.sample(np.flatnonzero(~values).tolist(), 20):
        try:
            complete += recovered(flipped(raw, place, rng.randrange(8)), tmp_path)[0] == before
        except FormatError:
            assert not set(raw[place : place + 1]) - set(b"OHDRCKEAIBST")  # letters of a signature
    assert complete >= 19


def test_what_is_left_of_a_file_that_was_cut_off_is_true(whole, tmp_path):
    raw, before = whole.read_bytes(), set(content(whole))
    most = 0
    for part in (0.3, 0.6, 0.8, 0.9, 0.99):
        try:
            found, told = recovered(raw[: int(part * len(raw))], tmp_path)
        except FormatError:
            continue
        most = max(most, len(found))
        assert {f[:7] for f in found} <= {f[:7] for f in before} or "cannot be read" in str(told.notes)
        assert "bytes are missing" in told.notes[0]
    assert most > 40


def test_a_trajectory_is_recovered_with_what_its_journal_holds(tmp_path):
    path, water = tmp_path / "run.h5", [labeled(molecule("H2O"), k) for k in range(30)]
    writer = TrajectoryWriter(path, card={})
    with h5py.File(path, "r"):  # whoever reads keeps the commits in the journal
        for k, atoms in enumerate(water):
            writer.add(atoms, step=k, time=0.5 * k)
            writer.commit()
        shutil.copy(path, tmp_path / "killed.h5")
        shutil.copy(f"{path}.journal", tmp_path / "killed.h5.journal")
    writer.close()
    recover(tmp_path / "killed.h5", tmp_path / "good.h5")
    with Reader(tmp_path / "good.h5") as reader:
        for ours, theirs in zip(water, reader.frames(), strict=True):
            assert_same(ours, theirs)


def test_nothing_is_made_of_nothing(whole, tmp_path):
    with pytest.raises(FileNotFoundError):
        recover(tmp_path / "absent.h5", tmp_path / "new.h5")
    with pytest.raises(FileExistsError):
        recover(whole, whole)
    for raw in (b"", bytes(1000), b"\x89HDF\r\n\x1a\n" + bytes(100), whole.read_bytes()[:400]):
        (tmp_path / "bad.h5").write_bytes(raw)
        with pytest.raises(FormatError):
            recover(tmp_path / "bad.h5", tmp_path / "new.h5")
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file["particles"] = h5py.ExternalLink("outside.h5", "/")
    with pytest.raises(FormatError, match="is a link"):
        recover(tmp_path / "bad.h5", tmp_path / "new.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.h5"]


def test_the_checksum_is_that_of_its_author():
    """R. Jenkins, lookup3.c (2006), driver5: of nothing, and of a sentence."""
    sentence = b"Four score and seven years ago"
    assert repair.agree([sentence + (0x17770551).to_bytes(4, "little")]).all()
    for place in range(8 * len(sentence)):
        assert repair.wrong_bit(flipped(sentence, place // 8, place % 8), 0x17770551) == place
    assert repair.whole_length(sentence + (0x17770551).to_bytes(4, "little") + b"behind") == len(sentence)


CONVERT = (
    "import sys; from mlpot.data.sources.convert import convert; print('.', flush=True); convert(*sys.argv[1:])"
)


def written(folder: Path) -> int:
    """Bytes of the files that are being written, and not renamed yet."""
    try:
        return sum(path.stat().st_size for path in folder.glob(".*.part/*"))
    except FileNotFoundError:  # renamed just now
        return 0


def test_a_converter_that_is_killed_leaves_nothing_or_everything(tmp_path):
    source, new = tmp_path / "set.xyz", tmp_path / "set.h5"
    ase.io.write(source, frames(300), format="extxyz")
    rng, n_killed = random.Random(6), 0
    while n_killed < 2:  # it may come through before it is killed
        size = rng.randrange(1, 60_000)  # bytes of the new file that are written when it is killed
        with running([sys.executable, "-c", CONVERT, source, new], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            while process.poll() is None and written(tmp_path) < size:
                time.sleep(1e-3)
        if new.exists():
            assert len(content(new)) == 300
            new.unlink()
        else:
            n_killed += 1


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_read(tmp_path):
    def never() -> Iterator[Atoms]:
        pytest.fail("the source was read")
        yield Atoms()

    with pytest.raises(FileNotFoundError, match="There is no folder"):
        write(tmp_path / "absent" / "set.h5", never(), card={})
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="Choose a folder that can be written"):
        write(tmp_path / "set.h5", never(), card={})


def test_the_old_name_of_the_command_is_still_accepted(whole, tmp_path):
    for name in ("recover", "salvage"):
        done = CliRunner().invoke(app, ["data", name, str(whole), str(tmp_path / f"{name}.h5")])
        assert done.exit_code == 0, done.output
    assert "salvage" not in CliRunner().invoke(app, ["data", "--help"]).output
