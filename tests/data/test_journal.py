"""Does a journaled file go from commit to commit, whatever happens between them?"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from structures import copper

from mlpot.data.h5md import Reader, journal
from mlpot.data.h5md.journal import JournaledFile
from mlpot.data.h5md.trajectory import TrajectoryWriter


def scribble(file: JournaledFile, mirror: bytearray, rng: random.Random) -> None:
    """The same writes into a file and into memory."""
    for _ in range(rng.randrange(1, 6)):
        place, content = rng.randrange(0, 30_000), rng.randbytes(rng.randrange(1, 9000))
        file.seek(place)
        assert file.write(content) == len(content)
        mirror.extend(bytes(max(0, place + len(content) - len(mirror))))
        mirror[place : place + len(content)] = content
        file.seek(rng.randrange(0, 30_000))
        start = file.tell()
        assert file.read(5000) == mirror[start : start + 5000]


def test_it_reads_back_what_was_written_and_shows_only_what_was_committed(tmp_path: Path) -> None:
    rng, path, mirror = random.Random(0), tmp_path / "file", bytearray()
    file = JournaledFile(path, new=True)
    for _ in range(30):
        before = path.read_bytes()
        scribble(file, mirror, rng)
        assert path.read_bytes() == before
        file.commit()
        assert path.read_bytes() == mirror
    scribble(file, bytearray(mirror), rng)
    file.close()
    assert path.read_bytes() == mirror
    assert list(tmp_path.iterdir()) == [path]


def test_a_journal_cut_or_flipped_anywhere_gives_a_commit_that_was(tmp_path: Path) -> None:
    rng, path, mirror, commits = random.Random(1), tmp_path / "file", bytearray(), [b""]
    file = JournaledFile(path, new=True)
    with path.open("rb") as reader:  # who reads keeps the file as it was
        journal.fcntl.flock(reader, journal.fcntl.LOCK_SH)
        for _ in range(4):
            scribble(file, mirror, rng)
            file.commit()
            commits.append(bytes(mirror))
        whole = (tmp_path / "file.journal").read_bytes()
        assert path.read_bytes() == b""
    file.release()
    for trial in range(120):
        other = tmp_path / f"{trial}"
        shutil.copy(path, other)
        content = bytearray(whole)
        place = rng.randrange(len(whole))
        if trial % 2:
            content[place] ^= 1 << rng.randrange(8)
        else:
            # A file half brought to its last commit, and the rest of its journal gone.
            other.write_bytes(mirror[: rng.randrange(len(mirror))] if place > len(whole) - 9 else b"")
            content = content[:place]
        other.with_name(f"{trial}.journal").write_bytes(content)
        JournaledFile(other).close()
        assert other.read_bytes() in commits


def test_a_file_torn_while_it_was_brought_up_to_date_is_mended(tmp_path: Path) -> None:
    path, frames = tmp_path / "run.h5", [copper(seed=k) for k in range(40)]
    writer = TrajectoryWriter(path, card={})
    for k, atoms in enumerate(frames):
        writer.add(atoms, step=k, time=k)
    reader = Reader
    with h5py.File(path, "r"):  # so that the commit stays in the journal
        writer.commit()
        log = path.with_name("run.h5.journal").read_bytes()
        old = path.read_bytes()
    writer._file.release()
    rng = random.Random(2)
    for trial in range(20):
        torn = bytearray(old + rng.randbytes(50_000))
        for _ in range(trial):  # pages of the commit, some in and some half
            place = 4096 * rng.randrange(len(old) // 4096)
            torn[place : place + 2048] = rng.randbytes(2048) if place in pages_of(log) else torn[place:][:2048]
        path.write_bytes(torn)
        path.with_name("run.h5.journal").write_bytes(log)
        TrajectoryWriter(path, card={}, keep=40).close()
        with reader(path) as mended:
            np.testing.assert_array_equal([a.positions for a in mended.frames()], [a.positions for a in frames])


def pages_of(log: bytes) -> set[int]:
    """Where in the file the pages of the first record go."""
    _, n_pages, _, _ = journal.HEADER.unpack_from(log)
    return {4096 * int(page) for page in np.frombuffer(log, "<u8", n_pages, journal.HEADER.size)}


def test_a_reader_sees_the_file_as_it_opened_it_and_the_next_one_sees_more(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with TrajectoryWriter(path, card={}) as writer:
        writer.add(copper(), step=0, time=0)
        writer.commit()
        first = Reader(path)
        for k in range(1, 200):
            writer.add(copper(seed=k), step=k, time=k)
            if k % 50 == 0:
                writer.commit()
        assert [a.info["step"] for a in first.frames()] == [0]
        first.close()
        writer.commit()
        with Reader(path) as second:
            assert len(second) == 200
    with Reader(path) as last:
        np.testing.assert_array_equal(last[137].positions, copper(seed=137).positions)


def test_space_is_not_lost_by_many_small_commits(tmp_path: Path) -> None:
    sizes = []
    for every in (1, 100):
        with TrajectoryWriter(tmp_path / f"{every}.h5", card={}) as writer:
            for k in range(100):
                writer.add(copper(seed=k), step=k, time=k)
                if k % every == 0:
                    writer.commit()
        sizes.append((tmp_path / f"{every}.h5").stat().st_size)
    assert sizes[0] < 1.5 * sizes[1] + 100_000


def test_a_damaged_file_without_its_writer_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "run.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(ValueError, match="Restore or remake"):
        Reader(tmp_path / "run.h5")
    (tmp_path / "run.h5.journal").write_bytes(b"something")
    with pytest.raises(ValueError, match="--continue"):
        Reader(tmp_path / "run.h5")
