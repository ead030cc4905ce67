"""Who tells a structure from its mirror image? Nobody with parity; without it whoever has a pseudoscalar."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from potentials import ROTATING, new_potential
from structures import CUTOFF, REFERENCES, batch_of, evaluate, worst
from test_staged_networks import NETWORKS, new

from mlpot.forces import predict
from mlpot.potential import Potential
from mlpot.stages.handedness import EVEN, parities
from mlpot.stages.network import StagedNetwork
from mlpot.stages.run import ENERGY
from mlpot.training.expectation import say_handedness
from mlpot.training.messages import LOG, Messages, TrainingWarning

MIRROR = np.diag([1.0, 1.0, -1.0])
SMALL = {"cutoff": CUTOFF, "n_features": 5, "n_knots": 32, "n_radial": 4, "radial_layers": [6], "n_neighbors": 0.3}
# Name of the backbone and arguments -> whether a pseudoscalar can reach the energy.
WITHOUT_PARITY = [
    ("nequip", {"n_interactions": 1}, False),
    ("nequip", {"n_interactions": 2}, False),  # cross products need vectors as messages, and a third vector
    ("nequip", {"n_interactions": 3, "max_degree": 1}, True),
    ("nequip", {"n_interactions": 3, "max_degree": 2}, True),
    ("mace", {"n_interactions": 1}, False),  # products of up to three equal factors, degree 3: none is odd
    ("mace", {"n_interactions": 2, "message_degree": 0}, False),
    ("mace", {"n_interactions": 2, "message_degree": 1, "max_degree": 1, "correlation": 1}, False),
    ("mace", {"n_interactions": 2, "message_degree": 1, "max_degree": 1, "correlation": 2}, True),
    ("mace", {"n_interactions": 2, "message_degree": 1, "max_degree": 2}, True),
    ("mace", {"n_interactions": 2, "message_degree": 2, "max_degree": 3, "correlation": 2}, True),
]


def chiral() -> Atoms:
    """Carbon with four different neighbors."""
    corners = [(1.3, 0.1, 0.9), (-1.1, 0.2, 0.8), (0.2, 1.4, -1.1), (-0.1, -1.2, -0.7)]
    return Atoms("CHOSiCu", [(0, 0, 0), *corners])


def mirrored(atoms: Atoms) -> Atoms:
    return Atoms(atoms.numbers, atoms.positions @ MIRROR)


def without_parity(backbone: str, arguments: dict[str, object], *, parity: bool = False) -> Potential:
    torch.manual_seed(2)
    both = {**SMALL, **arguments, "parity": parity}
    return Potential(backbone, both, reference_energies=REFERENCES).double()


@pytest.mark.parametrize("name", [*NETWORKS, *ROTATING])
def test_with_parity_mirror_images_have_one_energy(name: str) -> None:
    potential = (new(name) if name in NETWORKS else new_potential(name)).freeze()
    one, other = (evaluate(potential, atoms) for atoms in (chiral(), mirrored(chiral())))
    assert worst(one.energy, other.energy) < 1e-12 * abs(one.energy.item())
    assert worst(one.forces @ torch.from_numpy(MIRROR), other.forces) < 1e-12 * float(one.forces.abs().max())
    assert potential.mirror_images == "have one energy"
    if isinstance(potential.backbone, StagedNetwork):
        assert parities(potential.backbone.program())[ENERGY] == [EVEN]  # whatever the weights


def test_with_parity_no_component_is_a_sum_of_both_kinds() -> None:
    potential = without_parity("nequip", {"n_interactions": 6, "max_degree": 1}, parity=True)
    assert isinstance(potential.backbone, StagedNetwork)
    found = parities(potential.backbone.program())
    assert all(len(own) == 1 for components in found.values() for own in components)
    assert {sign for components in found.values() for own in components for sign in own} == {1, -1}


@pytest.mark.parametrize(("backbone", "arguments", "told"), WITHOUT_PARITY)
def test_without_parity_a_setting_that_cannot_tell_says_so(
    backbone: str, arguments: dict[str, object], told: bool, tmp_path: Path
) -> None:
    potential = without_parity(backbone, arguments).freeze()
    left, right = chiral(), mirrored(chiral())
    one, other = (evaluate(potential, atoms) for atoms in (left, right))
    size, differ = float(one.forces.abs().max()), worst(one.energy, other.energy)
    assert differ > 1e-7 * size if told else differ < 1e-12 * abs(one.energy.item())
    messages = Messages(show=False)
    messages.write_to(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error" if told else "ignore", TrainingWarning)
        say_handedness(potential, messages)
    log = (tmp_path / LOG).read_text()
    if told:
        assert log == "Handedness: mirror images are told apart\n"
    else:
        assert (
            "Warning: Handedness: mirror images have one energy (parity is false, but a pseudoscalar needs" in log
        )
        assert "n_interactions of" in log
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))  # rotations change nothing
    turned = evaluate(potential, Atoms(left.numbers, left.positions @ turn.T))
    assert worst(turned.energy, one.energy) < 1e-11
    assert worst(turned.forces, one.forces @ torch.from_numpy(turn).T) < 1e-11 * max(1.0, size)
    plain = predict(potential, batch_of([left, right]), native=False)
    assert worst(plain.energy, torch.cat([one.energy, other.energy])) < 1e-10
    assert worst(plain.forces, torch.cat([one.forces, other.forces])) < 1e-10


@pytest.mark.parametrize("parity", [False, True])
@pytest.mark.parametrize(
    ("backbone", "arguments"),
    [("nequip", {"n_interactions": 3, "max_degree": 1}), ("mace", {"message_degree": 1, "max_degree": 1})],
)
def test_enantiomers_with_different_energies(backbone: str, arguments: dict[str, object], parity: bool) -> None:
    """A training tells them apart by the whole difference without parity, and by nothing with it."""
    potential = without_parity(backbone, arguments, parity=parity)
    pair, wanted = batch_of([chiral(), mirrored(chiral())]), 0.4  # eV
    start = predict(potential, pair).energy.mean().item()
    labels = start + torch.tensor([0.5, -0.5], dtype=torch.float64) * wanted
    optimizer = torch.optim.Adam(potential.parameters(), lr=1e-2)
    for _ in range(20 if parity else 200):  # what parity forbids, no step can learn
        optimizer.zero_grad()
        wrong = predict(potential, pair, training=True).energy - labels
        wrong.square().sum().backward()
        optimizer.step()
    one, other = predict(potential, pair).energy.tolist()
    assert abs(one - other - (0.0 if parity else wanted)) < (1e-9 if parity else 0.02)
