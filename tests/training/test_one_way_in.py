"""A training opens each of its files once and reads it whole once before the first step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Callback
from sets import crystals, free_atoms, small_recipe, write

from mlpot.data.h5md import Reader
from mlpot.training.fit import train


class Counts(Callback):
    """What was opened and read of each file, when the first step begins and altogether."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.opened: Counter[str] = Counter()
        self.read: Counter[str] = Counter()
        self.before: dict[str, tuple[int, int]] = {}
        start, columns = Reader.__init__, Reader.columns

        def opening(reader: Reader, path: Any, **options: Any) -> None:
            self.opened[Path(path).name] += 1
            start(reader, path, **options)

        def reading(reader: Reader, indices: Any) -> Any:
            self.read[reader.path.name] += len(np.asarray(indices))
            return columns(reader, indices)

        monkeypatch.setattr(Reader, "__init__", opening)
        monkeypatch.setattr(Reader, "columns", reading)

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Before the first step."""
        self.before = {name: (self.opened[name], self.read[name]) for name in self.opened}


@pytest.mark.parametrize("several", [False, True], ids=["one file", "several files"])
def test_each_file_is_opened_once_and_read_once(
    several: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [*free_atoms(), *crystals(24)]
    sizes = {"a.h5": 12, "b.h5": 6, "test.h5": 8}
    ends = np.cumsum(list(sizes.values()))
    for (name, n), end in zip(sizes.items(), ends, strict=True):
        write(tmp_path / name, frames[end - n : end])
    a, b, test = (tmp_path / name for name in sizes)
    files = [f"data.train=[{a}, {b}]"] if several else [f"data.validation={b}"]
    counts = Counts(monkeypatch)
    recipe = small_recipe(a, tmp_path / "run", f"data.test={test}", "training.epochs=1", *files)
    train(recipe, callbacks=[counts])
    assert counts.before == {name: (1, n) for name, n in sizes.items()}
    assert {name: counts.opened[name] for name in sizes} == dict.fromkeys(sizes, 1)
    assert {name: counts.read[name] for name in sizes} == sizes
