"""Are networks that are lists of stages potentials as any other?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from structures import CUTOFF, REFERENCES, batch_of, copper, ethanol, evaluate, isolated_atom, worst
from test_locality import dimer, jump_of_curvature
from test_symmetry import random_orthogonal, turned

from mlpot.forces import predict
from mlpot.model_file import load_potential, save_potential
from mlpot.models import build_backbone
from mlpot.potential import Potential

NETWORKS = {
    "ace": {"n_features": 12, "n_radial": 6},
    "ace, messages of degree 2": {"n_features": 5, "n_radial": 4, "message_degree": 2, "n_message": 3},
    "ace, degree 1": {"n_features": 7, "n_radial": 5, "max_degree": 1, "n_message": 3, "degree": 3},
    "mace": {"n_features": 6, "radial_layers": [8], "message_degree": 1, "n_neighbors": 1, "n_radial": 5},
    "mace, one residual layer": {"n_features": 5, "max_degree": 2, "n_interactions": 1, "residual_first": True},
    "mace, envelope last": {"n_features": 5, "max_degree": 1, "envelope_last": True, "degree": 3},
    "nequip": {"n_features": 6, "radial_layers": [8], "n_radial": 5, "n_neighbors": 1},
    "nequip, one layer": {"n_features": 5, "n_interactions": 1, "max_degree": 1, "degree": 3},
    "nequip, residual, degree 3": {"n_features": 3, "max_degree": 3, "residual": True, "n_interactions": 3},
    "painn": {"n_features": 12, "n_interactions": 2},
    "painn, one layer": {"n_features": 5, "n_interactions": 1},
}


def new(name: str, **changes: object) -> Potential:
    torch.manual_seed(1)
    arguments = {"cutoff": CUTOFF, "n_knots": 64, **NETWORKS[name], **changes}
    return Potential(name.partition(",")[0], arguments, reference_energies=REFERENCES).double()


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Potential:
    return new(request.param).freeze()


def test_rotations_and_reflections_turn_forces(network: Potential) -> None:
    atoms, q = copper(), random_orthogonal(np.random.default_rng(0))
    out, after = evaluate(network, atoms), evaluate(network, turned(atoms, q))
    assert worst(after.energy, out.energy) < 1e-11
    assert worst(after.forces, out.forces @ torch.from_numpy(q).T) < 1e-11
    assert out.forces.abs().max() > 1e-4  # or there is nothing to turn


def test_forces_are_differences_of_energies(network: Potential) -> None:
    atoms, h = ethanol(), 1e-4
    force = evaluate(network, atoms).forces[3, 1].item()
    energies = []
    for step in (-2, -1, 1, 2):
        moved = atoms.copy()
        moved.positions[3, 1] += step * h
        energies.append(evaluate(network, moved).energy.item())
    slope = (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * h)
    assert abs(force + slope) < 1e-8 * max(1.0, abs(force))


def test_two_derivatives_are_continuous_at_the_cutoff(network: Potential) -> None:
    jump, largest = jump_of_curvature(network, dimer, 1e-5)
    assert jump <= 1e-3 * largest + 1e-9


def test_an_isolated_atom_has_its_reference_energy(network: Potential) -> None:
    assert evaluate(network, isolated_atom()).energy.item() == REFERENCES[6]


def test_a_model_file_holds_the_network(network: Potential, tmp_path: Path) -> None:
    save_potential(network, tmp_path / "model.safetensors")
    again = load_potential(tmp_path / "model.safetensors")
    for atoms in (ethanol(), copper()):
        one, two = evaluate(network, atoms), evaluate(again, atoms)
        assert torch.equal(one.energy, two.energy)
        assert torch.equal(one.forces, two.forces)


@pytest.mark.parametrize("name", ["schnet", "egnn", "painn", "deepsets", "se3_transformer"])
def test_atoms_of_a_single_feature_attract_or_repel(name: str) -> None:
    """Its readout had half as many numbers, which is none: PyTorch gave no forces, and compiled code an error."""
    more = {"egnn": {"move_coordinates": False}, "se3_transformer": {"n_heads": 1}}
    torch.manual_seed(1)
    arguments = {"cutoff": CUTOFF, "n_features": 1, **more.get(name, {})}
    potential = Potential(name, arguments, reference_energies=REFERENCES).double().freeze()
    use, plain = (predict(potential, batch_of([ethanol()]), native=native) for native in (True, False))
    assert worst(use.forces, plain.forces) < 1e-11
    assert plain.forces.abs().max() > 1e-6


def test_vectors_as_messages_matter() -> None:
    """A second layer without vectors would not see what the vectors of the first point to."""
    atoms = ethanol()
    potential = new("ace")
    before = evaluate(potential, atoms).energy.item()
    with torch.no_grad():
        potential.backbone.vectors.zero_()
    assert abs(evaluate(potential, atoms).energy.item() - before) > 1e-6


def test_presets_are_what_is_not_given() -> None:
    small, other = (
        build_backbone("ace", elements=(1, 8), preset="small", **more) for more in ({}, {"max_degree": 1})
    )
    assert small.linear_weight("A2").shape[2] == other.linear_weight("A2").shape[2] == 32
    assert len(small.degrees) == 3
    assert len(other.degrees) == 2
    with pytest.raises(ValueError, match="Choose one of default, large, small"):
        build_backbone("ace", elements=(1,), preset="huge")


def test_arguments_that_make_no_network_are_refused() -> None:
    with pytest.raises(ValueError, match="max_degree is 4"):
        new("ace", max_degree=4)
    with pytest.raises(ValueError, match="message_degree is 2"):
        new("ace", max_degree=1, message_degree=2)
    with pytest.raises(ValueError, match="n_radial is 1: Gaussians"):
        new("ace", radial="gaussian", n_radial=1)
    for sizes in ([16, 0], [-3], [10**9]):
        with pytest.raises(ValueError, match=r"radial_layers is \[.* expected above 0"):
            new("mace", radial_layers=sizes)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", ["painn", "egnn"])
def test_autocast_to_a_coarse_type_changes_no_number(name: str, native: bool) -> None:
    torch.manual_seed(0)
    arguments = {"cutoff": CUTOFF, "n_features": 12}
    potential, graph = Potential(name, arguments, reference_energies=REFERENCES), batch_of([ethanol(), copper()])
    exact = predict(potential, graph, training=True, native=native)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = predict(potential, graph, training=True, native=native)
    for a, b in ((found.energy, exact.energy), (found.forces, exact.forces)):
        assert torch.equal(a, b)
