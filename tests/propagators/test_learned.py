"""What a propagator learned is in its file, and another molecule is told from it."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from molecule_runs import write_trajectory

from mlpot.propagators.learned import MOLECULE, UnlearnedWarning, molecule_of, warn_of_unlearned
from mlpot.propagators.propagator import Propagator
from mlpot.propagators.propagator_file import load_propagator, save_propagator
from mlpot.propagators.rollout import roll_out
from mlpot.propagators.trajectories import read_trajectory


def moving(name: str, speed: float = 0.005) -> Atoms:
    atoms = molecule(name)
    atoms.set_velocities(np.random.default_rng(0).normal(size=(len(atoms), 3)) * speed / units.fs)
    return atoms


def isotopes() -> Atoms:
    atoms = moving("CH3CH2OH")
    atoms.set_masses([2.014 if z == 1 else m for z, m in zip(atoms.numbers, atoms.get_masses(), strict=True)])
    return atoms


def reordered() -> Atoms:
    return moving("CH3CH2OH")[::-1]


@pytest.fixture(scope="module")
def ethanol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an untrained propagator that says it learned ethanol."""
    folder = tmp_path_factory.mktemp("learned")
    pairs = read_trajectory(write_trajectory(folder / "a.h5", name="CH3CH2OH")).pairs(1.0)
    torch.manual_seed(0)
    made = Propagator({"n_features": 4, "n_layers": 1, "speed": 0.05}, elements=(1, 6, 8), interval=1.0)
    learned = molecule_of(pairs)
    assert learned is not None
    assert (learned.formula, learned.bonds) == ("C2H6O", ["C-C 1, C-H 5, C-O 1, H-O 1"])
    save_propagator(made, folder / "new.safetensors", {MOLECULE: learned.model_dump(mode="json")})
    save_propagator(made, folder / "old.safetensors", {})
    assert molecule_of(replace(pairs, numbers=np.zeros_like(pairs.numbers))) is None, "particles are no atoms"
    return folder


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (moving("CH3OH"), "it learned C2H6O, and the start is CH4O"),
        (moving("CH3OCH3"), "the atoms are bonded otherwise"),
        (isotopes(), "of other isotopes"),
        (moving("CH3CH2OH", 0.05), r"the start is at \d+ K"),
        (moving("CH3CH2OH"), None),
        (reordered(), None),
    ],
)
def test_a_molecule_that_was_not_learned_is_told(
    ethanol: Path, start: Atoms, told: str | None, tmp_path: Path
) -> None:
    new, old = (load_propagator(ethanol / f"{name}.safetensors") for name in ("new", "old"))
    if told is None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UnlearnedWarning)
            roll_out(new, start, tmp_path / "out.h5", 1)
        return
    with pytest.warns(UnlearnedWarning, match=told):
        roll_out(new, start, tmp_path / "out.h5", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnlearnedWarning)
        roll_out(old, start, tmp_path / "old.h5", 1)  # its file tells nothing


def test_one_start_of_several_that_is_bonded_otherwise_is_told(ethanol: Path) -> None:
    atoms, card = moving("CH3CH2OH"), load_propagator(ethanol / "new.safetensors").header["card"]
    torn = atoms.positions.copy()
    torn[-1] += 5.0
    v = np.stack([atoms.get_velocities()] * 2) * units.fs
    with pytest.warns(UnlearnedWarning, match="bonded otherwise"):
        warn_of_unlearned(card, atoms.numbers, atoms.get_masses(), np.stack([atoms.positions, torn]), v)
