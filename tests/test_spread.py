"""Does a calculator tell how far the members of a committee disagree, as they do one by one?"""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.stress import full_3x3_to_voigt_6_stress
from potentials import new_potential
from structures import CUTOFF, ELEMENTS, REFERENCES, copper, ethanol, evaluate

from mlpot import MLPotCalculator, Potential
from mlpot.calculator import SPREADS
from mlpot.models.committee import member_states

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
