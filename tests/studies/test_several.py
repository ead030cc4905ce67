"""Is a study that shall be overwritten kept until another has begun, and what is made from it kept anyway?"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mlpot.recipes import RecipeError
from mlpot.studies.several import DATA, Study
from mlpot.training.run_directory import RunDirectoryError

STUDY = Study("curve", "curve.json", "frames_*_seed_*", "training.directory")


class PowerCutError(Exception):
    """The process ends here, in a test."""


def old(directory: Path) -> Path:
    for folder in (DATA, "frames_4_seed_0", "frames_8_seed_0"):
        (directory / folder).mkdir(parents=True)
        (directory / folder / "model.safetensors").write_text("old")
    (directory / "curve.json").write_text('"old"')
    (directory / "notes.txt").write_text("a user's own")
    return directory


def content(directory: Path) -> dict[str, str]:
    files = (p for p in directory.rglob("*") if p.is_file() and not p.name.endswith("lock"))
    return {str(path.relative_to(directory)): path.read_text() for path in files}


def refused(directory: Path) -> None:
    """A new study that draws its sets, and then cannot be made."""

    def begin() -> None:
        with STUDY.opened(directory, resume=False, overwrite=True):
            (directory / DATA).mkdir()
            raise RecipeError("too few structures")

    with pytest.raises(RecipeError):
        begin()


def replaced(directory: Path) -> None:
    with STUDY.opened(directory, resume=False, overwrite=True):
        (directory / DATA).mkdir()
        STUDY.write(directory, {"new": True})
        assert not (directory / ".overwritten").exists()  # while its trainings go on, nobody needs the old ones


def test_a_study_comes_back_where_its_successor_is_refused(tmp_path: Path) -> None:
    before = content(old(tmp_path / "curve"))
    refused(tmp_path / "curve")
    assert content(tmp_path / "curve") == before
    replaced(tmp_path / "curve")
    assert set(content(tmp_path / "curve")) == {"curve.json", "notes.txt"}


@pytest.mark.parametrize("last", range(12))
def test_a_kill_while_a_study_is_replaced_leaves_one_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    """Whichever step of moving and removing is the last, the next start finds the old study or the new one."""
    directory = tmp_path / "curve"
    for new in (refused, replaced):
        shutil.rmtree(directory, ignore_errors=True)
        before, steps = content(old(directory)), iter(range(last))

        def counted(act: Callable[..., Any], steps: Iterator[int] = steps) -> Callable[..., Any]:
            def perhaps(path: Path, *arguments: Any, **settings: Any) -> Any:
                if path.name != ".lock" and next(steps, None) is None:
                    raise PowerCutError
                return act(path, *arguments, **settings)

            return perhaps

        with monkeypatch.context() as patch, suppress(PowerCutError, pytest.fail.Exception):
            for place, name in ((Path, "rename"), (Path, "unlink"), (Path, "rmdir"), (shutil, "rmtree")):
                patch.setattr(place, name, counted(getattr(place, name)))
            new(directory)
        if "new" in content(directory).get("curve.json", ""):
            with STUDY.opened(directory, resume=True, overwrite=False):
                assert set(content(directory)) == {"curve.json", "notes.txt"}
        else:
            refused(directory)
            assert content(directory) == before


@pytest.mark.parametrize("read", ["curve", "curve/data/set.h5", "curve/frames_4_seed_0/model.safetensors"])
def test_what_a_study_is_made_from_is_not_removed_for_it(tmp_path: Path, read: str) -> None:
    before = content(old(tmp_path / "curve"))
    with (
        pytest.raises(RunDirectoryError, match="would be removed with the curve"),
        STUDY.opened(tmp_path / "curve", resume=False, overwrite=True, reads=[tmp_path / read]),
    ):
        raise AssertionError("it is refused before it begins")
    assert content(tmp_path / "curve") == before
    with STUDY.opened(tmp_path / "curve", resume=True, overwrite=False, reads=[tmp_path / read]):
        pass  # to go on removes nothing
