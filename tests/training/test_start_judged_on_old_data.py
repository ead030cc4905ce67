"""Is a model that starts on data of some of its elements judged on structures of all that it knows?"""

from __future__ import annotations

from pathlib import Path

import pytest
from ase import Atoms
from sets import crystals, labeled, small_recipe, write

from mlpot.evaluate import evaluate
from mlpot.training.fit import train

pytestmark = [
    pytest.mark.filterwarnings("ignore:Worse than the model"),  # runs of a few steps may be
    pytest.mark.filterwarnings("ignore:training.epochs is 3"),
]


def copper_alone(n: int = 12, other: str = "Cu") -> list[Atoms]:
    frames = crystals(n)
    for atoms in frames:
        atoms.symbols[atoms.numbers == 79] = other
    return [labeled(atoms) for atoms in frames]


def test_what_a_model_knew_may_validate_and_test_what_it_learns_anew(tmp_path: Path) -> None:
    both, new = write(tmp_path / "both.h5", crystals(8)), write(tmp_path / "new.h5", copper_alone())
    model = train(
        small_recipe(write(tmp_path / "old.h5", crystals()), tmp_path / "old", "training.epochs=1")
    ).model
    other = write(tmp_path / "other.h5", crystals(14)[8:])
    judged = f"data.validation={both}", f"data.test={other}", "training.epochs=2"
    with pytest.raises(ValueError, match=r"both\.h5 holds Au, not in the training structures"):
        train(small_recipe(new, tmp_path / "alone", *judged))
    recipe = small_recipe(new, tmp_path / "run", f"model.start={model}", *judged)
    result = train(recipe)
    found = evaluate(result.model, other).overall
    assert result.metrics["test"]["energy_mae_meV_per_atom"] == pytest.approx(
        found["energy_per_atom"].mae, rel=1e-5
    )
    assert result.metrics["test"]["forces_rmse_meV_per_A"] == pytest.approx(found["forces"].rmse, rel=1e-5)
    silver = write(tmp_path / "silver.h5", copper_alone(4, "Ag"))
    with pytest.raises(ValueError, match=r"silver\.h5 holds Ag, not in the training structures"):
        train(small_recipe(new, tmp_path / "no", f"model.start={model}", f"data.validation={silver}"))
    further = train(
        recipe.model_copy(update={"training": recipe.training.model_copy(update={"epochs": 3})}), resume=True
    )
    assert further.metrics["test"]["n_structures"] == 6
