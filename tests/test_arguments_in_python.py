"""What a program gives to a public function, and is something else, is told in words before anything is done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from potentials import new_potential, small_potential
from structures import ethanol

import mlpot
from mlpot import MLPotCalculator
from mlpot.data.sources.reading import index_of
from mlpot.evaluate import evaluate
from mlpot.model_file import load_potential, save_potential
from mlpot.other_keywords import OTHER_KEYWORDS
from mlpot.predictions import predict_file, predict_structures
from mlpot.units import HOUSE_UNITS

A = [ethanol()]


@pytest.mark.parametrize(
    "given", [None, 3, A[0], "set of structures", b"x"], ids=["None", "3", "Atoms", "text", "bytes"]
)
def test_what_are_no_structures_is_told(given: Any) -> None:
    with pytest.raises(TypeError, match=r"Structures are ASE's Atoms in a list, and this is of type"):
        next(predict_structures(small_potential("schnet"), given))
    if not isinstance(given, str):  # which is a path
        with pytest.raises(TypeError, match=r"mlpot\.read\(file\)"):
            evaluate(small_potential("schnet"), given)


@pytest.mark.parametrize("n", [0, -1, 2.5, np.nan, True, "10", np.inf])
def test_batches_have_a_number_of_atoms(n: Any, tmp_path: Path) -> None:
    """They were made of one structure each, or, of "10", ended in a comparison of types."""
    with pytest.raises(ValueError, match=r"batch_atoms = .*give a whole number, 1 or above"):
        next(predict_structures(small_potential("schnet"), A, batch_atoms=n))
    with pytest.raises(ValueError, match="batch_atoms = "):
        evaluate(small_potential("schnet"), A, batch_atoms=n)
    with pytest.raises(ValueError, match="batch_atoms = "):
        predict_file("model", "in.xyz", tmp_path / "out.xyz", batch_atoms=n)
    assert len(list(predict_structures(small_potential("schnet"), 2 * A, batch_atoms=np.int64(3)))) == 2  # type: ignore[arg-type]  # an int of NumPy's


@pytest.mark.parametrize(
    "given", [None, 3, A[0], A, b"model", ""], ids=["None", "3", "Atoms", "list", "bytes", "empty"]
)
def test_what_is_no_path_is_told(given: Any) -> None:
    kind = FileNotFoundError if given == "" else TypeError
    for door in (mlpot.load, mlpot.read, lambda p: mlpot.save(small_potential("schnet"), p)):
        with pytest.raises(kind, match=r"^The path of a"):
            door(given)
    with pytest.raises(TypeError, match="save takes a potential and a path"):
        mlpot.save("model.safetensors", small_potential("schnet"))  # type: ignore[arg-type]  # that is the point


def test_frames_are_chosen_by_numbers_and_slices_too() -> None:
    for frames, text in (
        (3, "3"),
        (-1, "-1"),
        (np.int64(2), "2"),
        (slice(0, 5), "0:5:"),
        (slice(None, None, 2), "::2"),
    ):
        assert index_of(frames) == text
    for wrong in ([0, 1], 1.5, True, None, slice(0.5, 2)):
        with pytest.raises(ValueError, match="is no slice of frames"):
            index_of(wrong)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"model_paths": "a.model", "device": "cpu", "default_dtype": "float64"}, r"dtype=\"float64\""),
        ({"model_paths": "a.model"}, "the first argument, without a name"),
        ({"head": "pbe"}, "a potential has one head"),
        ({"species_to_type_name": {}, "chemical_symbols": []}, "the file of a potential says it"),
        ({"neighbor_list": None, "energy_key": "energy"}, "results have ASE's names"),
        ({"devices": "cpu"}, r"here device=\.\.\., perhaps"),
        ({"xyz": 1}, "no argument xyz. It has potential, device, dtype"),
    ],
)
def test_arguments_of_other_calculators_are_answered_with_ours(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(TypeError, match=word):
        MLPotCalculator(**arguments)
    assert not any(name in OTHER_KEYWORDS for name in ("potential", "device", "dtype", "skin", *HOUSE_UNITS))


def test_a_calculator_says_what_it_computes() -> None:
    with pytest.raises(TypeError, match="A potential or the path of its file is needed"):
        MLPotCalculator()
    calculator = MLPotCalculator(small_potential("schnet"))
    for ask in (lambda: calculator.get_property("energy"), lambda: calculator.get_property("energy", "x.xyz"),
                lambda: calculator.calculate([A[0]]), calculator.get_potential_energy):  # fmt: skip
        with pytest.raises(TypeError, match="A calculator computes ASE's Atoms"):
            ask()
    for wrong in ("a", False, np.nan, -1):
        with pytest.raises(ValueError, match="extrapolation_grade = "):
            MLPotCalculator(small_potential("schnet"), extrapolation_grade=wrong)  # type: ignore[arg-type]  # the point
    for wrong in ("a", None, True, -1, 1e300):
        with pytest.raises(ValueError, match="skin = "):
            MLPotCalculator(small_potential("schnet"), skin=wrong)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("energies", [None, [1, 6], {"H": -13.6}, {1: None}, {1: "3"}, {1: np.nan}, {1.5: 3}])
def test_reference_energies_are_finite_numbers_by_atomic_number(energies: Any) -> None:
    with pytest.raises(ValueError, match=r"reference_energies = .*give finite numbers of eV"):
        mlpot.Potential("schnet", {"n_features": 8}, reference_energies=energies)


def test_saving_does_not_replace_other_data(tmp_path: Path) -> None:
    """A potential took the place of structures whose name was given by mistake."""
    data = tmp_path / "data.xyz"
    data.write_text("precious")
    with pytest.raises(ValueError, match=r"holds something else than a potential"):
        save_potential(small_potential("schnet"), data)
    assert data.read_text() == "precious"
    with pytest.raises(IsADirectoryError, match="is a folder"):
        save_potential(small_potential("schnet"), tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        save_potential(small_potential("schnet"), tmp_path / "no/m.safetensors")


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(ValueError, match=r"Weights are of torch.float16"):
        save_potential(new_potential("schnet", n_features=8).half(), path)
    broken = new_potential("schnet", n_features=8)
    next(broken.parameters()).data.fill_(torch.nan)
    with pytest.raises(ValueError, match="Weights are not finite"):
        save_potential(broken, path)
    with pytest.raises(TypeError, match="A card is a dictionary of numbers"):
        save_potential(small_potential("schnet"), path, {"x": np.float32(1)})
    assert not path.exists()


def test_a_potential_that_is_saved_again_keeps_what_its_file_said(tmp_path: Path) -> None:
    """Ranges, by which runs are stopped, and compositions that are not told were lost."""
    first, again, changed = (tmp_path / f"{k}.safetensors" for k in range(3))
    card = {"ranges": {"n_atoms": [2, 9]}, "metrics": {"epochs": 3, "test": {"energy": 1.0}}}
    save_potential(new_potential("schnet", n_features=8), first, card)
    save_potential(load_potential(first, dtype="float32"), again)
    assert load_potential(again).header["card"]["ranges"] == card["ranges"]
    potential = load_potential(first)
    save_potential(potential, again)
    assert load_potential(again).header["card"] == card
    next(potential.parameters()).data += 1
    save_potential(potential, changed)
    told = load_potential(changed).header["card"]
    assert told["weights"].startswith("changed after")
    assert told["metrics"] == {"epochs": 3}


def test_a_number_of_threads_that_numba_refuses_is_told() -> None:
    """It was an error from inside of Numba's import."""
    code = "import mlpot.kernels.loops as loops; loops.subnormals"
    run = [sys.executable, "-c", code]
    out = subprocess.run(
        run, env={**os.environ, "NUMBA_NUM_THREADS": "0"}, capture_output=True, text=True, check=False
    )
    assert "ValueError: NUMBA_NUM_THREADS=0 is set, and Numba starts with no number below 1" in out.stderr


def test_an_empty_structure_is_told_by_the_calculator() -> None:
    with pytest.raises(ValueError, match="has no atoms"):
        MLPotCalculator(small_potential("schnet")).get_property("energy", Atoms())


E0 = {1: -13.6}


@pytest.mark.parametrize(
    ("door", "told"),
    [
        (lambda p: mlpot.Potential("schnet", {"zzz": 3}, reference_energies=E0), "no argument zzz. It has cutoff"),
        (lambda p: mlpot.Potential("schnet", {"cutoff": "5"}, reference_energies=E0), "cutoff = '5' .*a number"),
        (lambda p: mlpot.Potential("ace", {"n_features": 16.5}, reference_energies=E0), "give a whole number"),
        (lambda p: mlpot.Potential("schnet", None, reference_energies=E0), "arguments = None: give those"),
        (lambda p: p.reference_energies([1]), r"torch\.tensor\(atoms\.numbers\)"),
        (lambda p: p.check_elements([1]), r"torch\.tensor\(atoms\.numbers\)"),
        (lambda p: p.to(dtype="float16"), "Use float32 or float64"),
        (lambda p: evaluate(p, A, on=5), "on = 5: give the address"),
        (lambda p: list(predict_structures(p, A, on=5)), "on = 5: give the address"),
        (lambda p: evaluate(p, A, progress=5), "progress = 5: give a function"),
        (lambda p: load_potential("m", device=None), "device = None: give"),
        (
            lambda p: load_potential("m", device=0),
            "no CUDA device here" if not torch.cuda.is_available() else "There is no file m",
        ),
    ],
)
def test_arguments_of_another_kind_are_told_with_what_to_give(door: Any, told: str) -> None:
    """They ended in errors of PyTorch or Python, which name neither the argument nor the remedy."""
    with pytest.raises((TypeError, ValueError, FileNotFoundError), match=told):
        door(small_potential("schnet"))


def test_a_type_of_numbers_has_a_name_where_a_potential_moves() -> None:
    potential = new_potential("schnet")
    assert potential.to("float64").dtype == torch.float64
    assert potential.to(dtype="float32").dtype == torch.float32
    assert potential.to("cpu").dtype == torch.float32
