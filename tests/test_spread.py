"""Does a calculator tell how far the members of a committee disagree, as they do one by one?"""

from __future__ import annotations

import pickle
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.stress import full_3x3_to_voigt_6_stress
from potentials import new_potential
from structures import CUTOFF, ELEMENTS, REFERENCES, copper, ethanol, evaluate

from mlpot import MLPotCalculator, Potential, read
from mlpot.calculator import SPREADS
from mlpot.data.sources.convert import convert
from mlpot.data.sources.output import write_structures
from mlpot.model_file import save_potential
from mlpot.models.committee import member_states
from mlpot.predictions import predict_file, predict_structures

ARGUMENTS = {"cutoff": CUTOFF, "n_features": 8, "n_radial": 8}
OWN = [{}, {"cutoff": CUTOFF - 0.5}, {"n_features": 12}]


def mean_and_members() -> tuple[Potential, list[Potential]]:
    """Untrained, with scales, shifts and a repulsion of nuclei that all have."""

    def made(backbone: str, arguments: dict[str, object]) -> Potential:
        scale, shift = dict.fromkeys(ELEMENTS, 0.8), dict.fromkeys(ELEMENTS, -2.0)
        of = {"reference_energies": REFERENCES, "energy_scale": scale, "energy_shift": shift}
        return Potential(backbone, arguments, **of, repulsion=True, cutoff=CUTOFF).double()

    torch.manual_seed(0)
    members = [made("painn", ARGUMENTS | own) for own in OWN]
    about = {"member": "painn", "arguments": ARGUMENTS, "n_members": len(OWN), "member_arguments": OWN}
    mean = made("committee", about)
    mean.backbone.load_state_dict(member_states([member.backbone.state_dict() for member in members]))
    return mean.freeze(), [member.freeze() for member in members]


@pytest.mark.parametrize("atoms", [ethanol(), copper()], ids=["molecule", "crystal"])
def test_the_spread_is_that_of_the_members(atoms: Atoms) -> None:
    mean, members = mean_and_members()
    atoms.calc = MLPotCalculator(mean)
    forces = atoms.get_forces()
    assert not set(atoms.calc.results) & set(SPREADS)  # nobody asked
    found = [evaluate(member, atoms) for member in members]
    np.testing.assert_allclose(np.mean([out.forces for out in found], axis=0), forces, atol=1e-12)
    expected = {
        "energy_std": np.std([out.energy.item() for out in found]),
        "forces_std": np.std([out.forces.numpy() for out in found], axis=0),
    }
    if atoms.pbc.any():
        stresses = [full_3x3_to_voigt_6_stress(out.stress[0].numpy()) for out in found]
        expected["stress_std"] = np.std(stresses, axis=0)
    for calculator in (atoms.calc, pickle.loads(pickle.dumps(atoms.calc))):
        for name, value in expected.items():
            assert np.max(value) > 1e-4
            np.testing.assert_allclose(calculator.get_property(name, atoms), value, rtol=1e-9, atol=1e-11)
    assert (atoms.get_forces() == forces).all()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("forces_std", "this potential is one network[.] Train several"),
        ("stress_std", "no stress without a periodic"),
    ],
)
def test_a_spread_that_does_not_exist_is_refused_in_words(name: str, told: str) -> None:
    potential = new_potential("schnet") if name == "forces_std" else mean_and_members()[0]
    with pytest.raises(PropertyNotImplementedError, match=told):
        MLPotCalculator(potential).get_property(name, ethanol())


def written(tmp_path: Path, frames: list[Atoms], source: str, output: str, potential: Potential) -> list[Atoms]:
    """What `mlpot predict` writes of frames, as it is read again."""
    save_potential(potential, tmp_path / "model.safetensors")
    write_structures(tmp_path / source, frames)
    predict_file(tmp_path / "model.safetensors", tmp_path / source, tmp_path / output)
    if not output.endswith(".db"):
        return read(tmp_path / output) if output.endswith(".h5") else ase.io.read(tmp_path / output, ":")
    rows = ase.db.connect(tmp_path / output).select()
    return [row.toatoms(add_additional_information=True) for row in rows]


def spread_of(atoms: Atoms) -> tuple[float, np.ndarray] | None:
    """Where each format keeps it."""
    results = {} if atoms.calc is None else atoms.calc.results
    places = (results, {**atoms.info, **atoms.arrays}, atoms.info.get("data", {}))
    found = [(p["energy_std"], p["forces_std"]) for p in places if "energy_std" in p and "forces_std" in p]
    return found[0] if found else None


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("in.h5", "out.h5"),
        ("in.xyz", "out.h5"),
        ("in.h5", "out.xyz"),
        ("in.xyz", "out.traj"),
        ("in.xyz", "out.db"),
    ],
)
def test_predictions_of_a_committee_are_written_with_their_spread(
    tmp_path: Path, source: str, output: str
) -> None:
    mean, members = mean_and_members()
    frames = [ethanol(), copper(), ethanol(1)]
    for atoms, own in zip(frames, written(tmp_path, frames, source, output, mean), strict=True):
        found = [evaluate(member, atoms) for member in members]
        energy_std, forces_std = spread_of(own)
        assert energy_std == pytest.approx(np.std([out.energy.item() for out in found]), rel=1e-6)
        expected = np.std([out.forces.numpy() for out in found], axis=0)
        np.testing.assert_allclose(forces_std, expected, atol=1e-6)
        assert own.get_potential_energy() == pytest.approx(np.mean([out.energy.item() for out in found]))


@pytest.mark.parametrize("output", ["out.h5", "out.xyz"])
def test_one_network_does_not_pass_on_the_spread_that_another_wrote(tmp_path: Path, output: str) -> None:
    mean, members = mean_and_members()
    frames = written(tmp_path, [ethanol()], "in.h5", output, mean)
    (tmp_path / output).unlink()
    assert [spread_of(own) for own in written(tmp_path, frames, "again.h5", output, members[0])] == [None]


def test_a_spread_follows_weights_and_is_left_out_on_demand() -> None:
    mean, _ = mean_and_members()
    (_, first), (_, again) = (next(predict_structures(mean, [ethanol()])) for _ in range(2))
    assert torch.equal(first.forces_std, again.forces_std)
    with torch.no_grad():
        mean.energy_scale.mul_(2)
    _, scaled = next(predict_structures(mean, [ethanol()]))
    torch.testing.assert_close(scaled.forces_std, 2 * first.forces_std, rtol=0.2, atol=0.1)
    assert not torch.equal(scaled.forces_std, first.forces_std)
    assert next(predict_structures(mean, [ethanol()], spread=False))[1].forces_std is None
    assert next(predict_structures(new_potential("schnet"), [ethanol()]))[1].energy_std is None


def test_a_unit_corrected_of_predictions_is_that_of_their_spread_too(tmp_path: Path) -> None:
    written(tmp_path, [ethanol()], "in.h5", "out.h5", mean_and_members()[0])
    before = read(tmp_path / "out.h5")[0]
    convert(tmp_path / "out.h5", tmp_path / "new.h5", corrections={"energy": "hartree", "forces": "-eV/Angstrom"})
    (energy, forces), (old, old_forces) = spread_of(read(tmp_path / "new.h5")[0]), spread_of(before)
    assert energy == pytest.approx(units.Hartree * old)
    np.testing.assert_array_equal(forces, old_forces)
