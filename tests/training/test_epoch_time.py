"""Is an epoch measured as it is trained, and does nothing stay of it?"""

from __future__ import annotations

from pathlib import Path

from sets import crystals, small_recipe, write

from mlpot.training.epoch_time import measure_epoch


def test_an_epoch_is_measured_and_its_training_thrown_away(tmp_path: Path) -> None:
    data = write(tmp_path / "set.h5", crystals(8))
    found = measure_epoch(small_recipe(data, tmp_path / "trial"), enough=0.0)
    assert found.epoch > 0
    assert found.before > 0
    assert found.processor_share > 0
    assert [path.name for path in tmp_path.iterdir()] == ["set.h5"]
