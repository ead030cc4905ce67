"""Are errors counted right, whatever labels a set has, and are predictions written with their structures?"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from potentials import new_potential
from structures import STRUCTURES, copper, ethanol, evaluate, isolated_atom, quartz, slab

from mlpot.data import h5md
from mlpot.data.sources.read import Source, read_structures
from mlpot.evaluate import evaluate as errors_of
from mlpot.model_file import save_potential
from mlpot.potential import Potential, UnknownElementError
from mlpot.predictions import NotFiniteError, labeled, predict_file, predict_structures


@pytest.fixture(scope="module")
def potential() -> Potential:
    return new_potential("schnet", n_features=16).freeze()


def labeled_wrongly(
    potential: Potential,
    structures: Sequence[Atoms],
    *,
    energy: float = 0.0,
    forces: float = 0.0,
    stress: float = 0.0,
    drop: Sequence[str] = (),
) -> list[Atoms]:
    """Labels from which the potential is off by known amounts: eV, eV/Å, eV/Å³."""
    out = []
    for atoms, prediction in predict_structures(potential, structures):
        copy = labeled(atoms, prediction)
        results = dict(copy.calc.results)
        results["energy"] -= energy
        results["forces"] = results["forces"] - forces * np.array([1, -1, 1])
        if "stress" in results:
            results["stress"] = results["stress"] - stress
        results = {name: value for name, value in results.items() if name not in (*drop, "free_energy")}
        copy.info = {"group": atoms.info["group"]} if "group" in atoms.info else {}
        copy.calc = SinglePointCalculator(copy, **results)
        out.append(copy)
    return out


def test_a_potential_computes_in_the_type_that_is_asked_for(potential: Potential) -> None:
    exact = new_potential("schnet", n_features=16).double().freeze()
    frames = labeled_wrongly(exact, [ethanol()])
    rounded = errors_of(exact, frames, dtype="float32").overall["forces"].worst
    assert errors_of(exact, frames).overall["forces"].worst < 1e-9 < 1e-6 < rounded  # meV/Å
    assert exact.dtype == torch.float64  # a copy computed
    for wrong in ({"dtype": "float16"}, {"device": "quantum"}):
        with pytest.raises(ValueError, match=next(iter(wrong.values()))):
            errors_of(exact, frames, **wrong)


@pytest.mark.parametrize("wrong", [ethanol(), ["set.h5"]], ids=["one structure", "names of files"])
def test_what_is_no_list_of_structures_is_refused(wrong: Atoms | list[str], potential: Potential) -> None:
    with pytest.raises(TypeError, match=r"is of type (Atoms\.|str, ).*\[atoms\] for a single one"):
        errors_of(potential, wrong)  # type: ignore[arg-type]  # a wrong type is refused


@pytest.mark.parametrize("batch_atoms", [1, 20, 1000])
def test_a_batch_says_what_each_structure_alone_says(batch_atoms: int, potential: Potential) -> None:
    structures = [STRUCTURES[name]() for name in STRUCTURES] + [isolated_atom()]
    for atoms, out in predict_structures(potential, structures, batch_atoms=batch_atoms):
        alone = evaluate(potential, atoms)
        assert out.energy.item() == pytest.approx(alone.energy.item(), abs=1e-10)
        torch.testing.assert_close(out.forces, alone.forces, rtol=0, atol=1e-11)
        torch.testing.assert_close(out.stress, alone.stress, rtol=0, atol=1e-12, equal_nan=True)


def test_known_errors_are_found(potential: Potential) -> None:
    frames = labeled_wrongly(potential, [quartz(k) for k in range(3)], energy=0.09, forces=0.2, stress=0.001)
    found = errors_of(potential, frames).overall
    assert found["energy"].mae == pytest.approx(90)
    assert found["energy_per_atom"].mae == pytest.approx(10)
    assert found["energy_per_atom"].bias == pytest.approx(10)
    assert found["forces"].mae == pytest.approx(found["forces"].rmse) == pytest.approx(200)
    assert found["forces"].bias == pytest.approx(200 / 3)
    assert found["forces"].n == 3 * 9 * 3
    assert found["stress"].mae == pytest.approx(1.0)
    assert "isolated_atoms" not in found


def test_errors_are_told_by_element_magnitude_and_group(potential: Potential) -> None:
    first, second = ethanol(1), ethanol(2)
    first.info["group"], second.info["group"] = "calm", "wild"
    calm = labeled_wrongly(potential, [first], forces=0.1)
    wild = labeled_wrongly(potential, [second], forces=0.3)
    found = errors_of(potential, calm + wild)
    assert {name: e.n for name, e in found.forces_by_element.items()} == {"H": 36, "C": 12, "O": 6}
    assert sum(e.n for e in found.forces_by_magnitude.values()) == 54
    assert found.by_group["calm"]["forces"].mae == pytest.approx(100)
    assert found.by_group["wild"]["forces"].mae == pytest.approx(300)
    assert found.overall["forces"].mae == pytest.approx(200)


def test_a_force_is_binned_by_its_reference_magnitude(potential: Potential) -> None:
    atoms = ethanol()
    forces = np.zeros((9, 3))
    forces[:4, 0] = (0.6, 1.5, 3.0, 100.0)
    atoms.calc = SinglePointCalculator(atoms, forces=forces)
    counts = {name: e.n for name, e in errors_of(potential, [atoms]).forces_by_magnitude.items()}
    assert counts == {"0-0.5": 15, "0.5-1": 3, "1-2": 3, "2-4": 3, "above 8": 3}


def test_isolated_atoms_are_counted_apart(potential: Potential) -> None:
    frames = labeled_wrongly(potential, [ethanol()], energy=0.009)
    frames += labeled_wrongly(potential, [isolated_atom()], energy=5.0)
    found = errors_of(potential, frames)
    assert found.n_frames == 2
    assert found.overall["energy_per_atom"].mae == pytest.approx(1.0)
    assert found.overall["isolated_atoms"].mae == pytest.approx(5000)
    assert found.overall["forces"].n == 27


@pytest.mark.parametrize("charge", [1, -1.0, 0, None])
def test_isolated_ions_are_no_isolated_atoms(potential: Potential, charge: float | None) -> None:
    frames = labeled_wrongly(potential, [isolated_atom(), isolated_atom()], energy=5.0)
    if charge is not None:
        frames[1].info["charge"] = charge
    found = errors_of(potential, frames)
    assert found.overall["isolated_atoms"].n == (1 if charge else 2)
    assert ("isolated_ions" in found.overall) == bool(charge)
    assert "energy" not in found.overall


def test_missing_labels_are_counted_and_not_compared(potential: Potential) -> None:
    frames = labeled_wrongly(potential, [quartz()], drop=["energy"])
    frames += labeled_wrongly(potential, [copper()], drop=["forces", "stress"], energy=0.008)
    masked = labeled_wrongly(potential, [ethanol()], forces=1.0)[0]
    masked.set_array("force_mask", np.arange(9) < 2)
    found = errors_of(potential, [*frames, masked])
    assert found.missing == {"energy": 1, "forces": 8 + 7, "stress": 1}
    assert found.overall["energy"].n == 2
    assert found.overall["forces"].n == 27 + 6
    assert found.overall["stress"].n == 9


def test_files_are_written(potential: Potential, tmp_path: Path) -> None:
    frames = labeled_wrongly(
        potential, [ethanol(k) for k in range(4)] + [isolated_atom()], energy=0.09, forces=0.1
    )
    save_potential(potential, tmp_path / "model.safetensors")
    h5md.write(tmp_path / "set.h5", frames, card={})
    found = errors_of(tmp_path / "model.safetensors", tmp_path / "set.h5", output=tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert stored["overall"]["forces"]["mae"] == found.overall["forces"].mae == pytest.approx(100)
    with (tmp_path / "out" / "frames.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["formula"] for row in rows] == ["C2H6O"] * 4 + ["C"]
    assert float(rows[0]["energy_error"]) == pytest.approx(10)
    assert float(rows[0]["forces_mae"]) == pytest.approx(100)
    assert (tmp_path / "out" / "parity.png").stat().st_size > 10_000


def test_labels_that_are_not_finite_are_refused_by_index(potential: Potential) -> None:
    frames = labeled_wrongly(potential, [ethanol(), ethanol(1)])
    frames[1].calc.results["forces"][0, 0] = np.nan
    with pytest.raises(h5md.LabelError, match="Frame 1: forces is not finite"):
        errors_of(potential, frames)


@pytest.mark.parametrize("frames", [[], [ethanol()]], ids=["empty set", "no labels"])
def test_nothing_to_compare_is_an_error(frames: list[Atoms], potential: Potential) -> None:
    with pytest.raises(h5md.LabelError, match="None of the"):
        errors_of(potential, frames)


def test_a_structure_that_cannot_be_computed_is_named(potential: Potential) -> None:
    with pytest.raises(UnknownElementError, match=r"Structure 2 \(N2\)"):
        list(predict_structures(potential, [ethanol(), ethanol(), Atoms("N2", [(0, 0, 0), (0, 0, 1)])]))
    broken = ethanol()
    broken.positions[0] = np.nan
    with pytest.raises(ValueError, match=r"Structure 1 .* not finite"):
        list(predict_structures(potential, [ethanol(), broken]))
    poisoned = new_potential("schnet", n_features=16)
    poisoned.energy_scale[0] = torch.nan
    with pytest.raises(NotFiniteError, match="structure 0"):
        list(predict_structures(poisoned, [ethanol()]))


@pytest.mark.parametrize("ending", ["h5", "xyz"])
def test_predictions_are_written_with_their_structures(ending: str, potential: Potential, tmp_path: Path) -> None:
    save_potential(potential, tmp_path / "model.safetensors")
    structures = [quartz(), ethanol(), slab(), isolated_atom()]
    for atoms in structures:
        atoms.info = {}
    h5md.write(tmp_path / "in.h5", structures, card={})
    output = tmp_path / f"out.{ending}"
    assert predict_file(tmp_path / "model.safetensors", tmp_path / "in.h5", output) == 4
    for atoms, found in zip(structures, Source(output).frames(), strict=True):
        out = evaluate(potential, atoms)
        assert found.symbols.get_chemical_formula() == atoms.symbols.get_chemical_formula()
        np.testing.assert_allclose(found.positions, atoms.positions, atol=1e-8)
        assert found.get_potential_energy() == pytest.approx(out.energy.item(), abs=1e-8)
        np.testing.assert_allclose(found.get_forces(), out.forces, atol=1e-7)
        assert ("stress" in found.calc.results) == bool(atoms.pbc.all())
    with pytest.raises(FileExistsError):
        predict_file(tmp_path / "model.safetensors", tmp_path / "in.h5", output)


def test_files_that_are_not_there_or_not_structures_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.xyz"):
        list(read_structures(tmp_path / "no.xyz"))
    (tmp_path / "text.xyz").write_text("hello\nworld\n")
    with pytest.raises(h5md.FormatError, match=r"text\.xyz, line 1: a frame begins"):
        list(read_structures(tmp_path / "text.xyz"))
