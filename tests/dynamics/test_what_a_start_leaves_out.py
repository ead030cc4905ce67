"""Does a run say what of its structure it does not use: other frames, a charge, velocities of no unit?"""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from structures import copper

from mlpot.data.sources.read import has_structure
from mlpot.dynamics.recipe import MDRecipe
from mlpot.dynamics.start import StartError, StructureWarning, _other_velocities, warn_of_others, warn_of_state


def recipe(structure: Path, **more: object) -> MDRecipe:
    return MDRecipe.model_validate({"model": "a.safetensors", "structure": structure, **more})


def test_a_file_of_several_structures_is_told_if_nobody_says_which(tmp_path: Path, recwarn) -> None:
    path = tmp_path / "two.xyz"
    ase.io.write(path, [copper(), copper()])
    with pytest.warns(StructureWarning, match="has more than one structure, and the run begins from the first"):
        warn_of_others(recipe(path), None)
    for more in ({"frame": 0}, {"frame": -1}, {"frame": "all"}):
        warn_of_others(recipe(path, **more), None)
    ase.io.write(tmp_path / "one.xyz", [copper()])
    warn_of_others(recipe(tmp_path / "one.xyz"), None)
    path.write_text("Zz".join(path.read_text().rsplit("Cu", 1)))
    assert has_structure(path, 1), "what cannot be read is there"


@pytest.mark.parametrize(
    ("info", "told"),
    [({"charge": -1.0}, "total charge of -1"), ({"charge": 0.0, "spin": 3.0}, "a spin of 3"), ({"spin": 1.0}, "")],
)
def test_a_charge_that_no_potential_sees_is_told(info: dict[str, float], told: str, recwarn) -> None:
    warn_of_state(Atoms("H", info=info), "a.xyz")
    assert [told in str(w.message) for w in recwarn] == ([True] if told else [])


@pytest.mark.parametrize("name", ["velo", "velocities", "vel"])
def test_velocities_of_no_known_unit_are_named(name: str) -> None:
    atoms = copper()
    atoms.set_array(name, np.ones((len(atoms), 3)))
    assert f"It has a column {name!r}, whose unit nothing says" in _other_velocities(atoms)
    assert not _other_velocities(copper())
    assert issubclass(StartError, ValueError)
