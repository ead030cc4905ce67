"""Does nobody lose what another command wrote meanwhile, or what a symbolic link stands for?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ase.build import molecule
from frames import labeled, xyz

from mlpot.atomic_files import StorageError, check_place, replacing, write_whole
from mlpot.data import label as labeling
from mlpot.data.errors import LeftOutWarning
from mlpot.data.h5md import Reader, write
from mlpot.data.label import label
from mlpot.data.quantum import TBLite
from mlpot.data.sources.export import export
from mlpot.folder_lock import LockedError, folder_lock


def meanwhile(path: Path, content: str = "of another") -> Path:
    path.write_text(content)
    return path


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_another_command_wrote_meanwhile_stays(tmp_path: Path, monkeypatch, has_links: bool) -> None:
    def none(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", none)
    path = tmp_path / "set.h5"

    def replace(content: str) -> None:
        with replacing(path, overwrite=False) as temporary:
            temporary.write_text(content)
            meanwhile(path)

    for name in ("set-2.h5", "set-3.h5"):
        with pytest.raises(FileExistsError, match=rf"stays as it is. What this one wrote is .*{name}"):
            replace(name)
        assert (path.read_text(), (tmp_path / name).read_text()) == ("of another", name)
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set-2.h5", "set-3.h5", "set.h5"]


def test_a_symbolic_link_that_leads_nowhere_is_told_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "loop.h5").symlink_to("loop.h5")
    (tmp_path / "dangling.h5").symlink_to("nowhere/set.h5")
    with pytest.raises(StorageError, match=r"loop\.h5 is a symbolic link that leads back to itself"):
        check_place(tmp_path / "loop.h5", overwrite=False)
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere for set\.h5"):
        check_place(tmp_path / "dangling.h5", overwrite=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dangling.h5", "loop.h5"]


def test_sets_and_exports_take_no_place_that_was_free_when_they_began(tmp_path: Path) -> None:
    def frames(taken: Path):
        for k in range(2):
            yield labeled(molecule("H2O"), k)
        meanwhile(taken)

    with pytest.raises(FileExistsError, match=r"set-2\.h5"):
        write(tmp_path / "set.h5", frames(tmp_path / "set.h5"), card={})
    with Reader(tmp_path / "set-2.h5") as reader:
        assert len(reader) == 2
    source = xyz(tmp_path / "a.xyz", "energy=-1")
    assert export(source, tmp_path / "b.xyz") == 1
    assert (tmp_path / "set.h5").read_text() == "of another"


def test_what_a_symbolic_link_names_is_written_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    for name in ("old.h5", "new.h5"):
        (tmp_path / name).symlink_to(tmp_path / "scratch" / name)
    meanwhile(tmp_path / "scratch" / "old.h5")
    write(tmp_path / "old.h5", [labeled(molecule("H2O"), 0)], card={}, overwrite=True)
    write(tmp_path / "new.h5", [labeled(molecule("H2O"), 0)], card={})
    for name in ("old.h5", "new.h5"):
        assert (tmp_path / name).is_symlink()
        with Reader(tmp_path / "scratch" / name) as reader:
            assert len(reader) == 1
    write_whole(tmp_path / "old.h5", b"whole")
    assert (tmp_path / "scratch" / "old.h5").read_bytes() == b"whole"


def test_two_processes_do_not_label_into_one_set(tmp_path: Path, monkeypatch) -> None:
    source = xyz(tmp_path / "a.xyz", "")
    monkeypatch.setattr(labeling, "choose", lambda *_: TBLite())
    monkeypatch.setattr(labeling, "version", lambda *_: "1")
    with folder_lock(tmp_path / ".set.h5.label"), pytest.raises(LockedError, match="in use by process"):
        label(source, tmp_path / "set.h5", calculator="any")


def test_a_long_name_of_a_family_is_shortened_and_stays_one(tmp_path: Path) -> None:
    names = ["very long " * 20 + end for end in "ab"]
    frames = [labeled(molecule("H2O"), k, group=names[k % 2]) for k in range(4)]
    with pytest.warns(LeftOutWarning, match="more than 128 bytes"):
        write(tmp_path / "set.h5", frames, card={})
    with Reader(tmp_path / "set.h5") as reader:
        groups = [atoms.info["group"] for atoms in reader.frames()]
    assert groups[0] == groups[2] != groups[1] == groups[3]
    assert all(name.startswith("very long very long") for name in groups)
