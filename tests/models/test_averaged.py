"""The mean over a finite group is exactly equivariant under it, and nearly so under all rotations."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from potentials import new_potential, small_potential
from structures import STRUCTURES, batch_of, copper, ethanol, evaluate, worst
from torch import nn
from typer.testing import CliRunner

import mlpot
from mlpot.averaging import average, averaged
from mlpot.cli.main import app
from mlpot.equivariance import rotated_copies, rotation_error
from mlpot.forces import native_obstacle, predict
from mlpot.model_file import save_potential
from mlpot.potential import Potential
from mlpot.rotations import GENERATORS, group, random_rotations, rotated, rotated_labels


@cache
def learned() -> Potential:
    return small_potential("transformer", trained=True).freeze()


@pytest.mark.pairs
@pytest.mark.parametrize("over", GENERATORS)
@pytest.mark.parametrize("reflections", [False, True])
@pytest.mark.parametrize("matter", ["ethanol", "quartz"])
def test_forces_and_stress_turn_exactly_with_the_group(over: str, reflections: bool, matter: str) -> None:
    mean = averaged(learned(), over=over, reflections=reflections)
    graph = batch_of([STRUCTURES[matter]()])
    out = predict(mean, graph)
    for turn in torch.from_numpy(group(over, reflections=reflections)[1::11].copy()):
        there, expected = predict(mean, rotated(graph, turn[None])), rotated_labels(out, graph, turn[None])
        assert worst(there.energy, out.energy) <= 1e-12 * float(out.energy.abs())
        assert worst(there.forces, expected.forces) <= 1e-12 * float(out.forces.abs().max())
        if graph.pbc.all():
            assert worst(there.stress, expected.stress) <= 1e-12 * float(out.stress.abs().max())


def test_the_average_is_that_of_rotated_structures() -> None:
    graph = batch_of([ethanol(), copper()])
    mean, parts = predict(averaged(learned(), over="octahedral"), graph), []
    for turn in torch.from_numpy(group("octahedral").copy()):
        turns = turn.expand(2, 3, 3)
        parts.append(rotated_labels(predict(learned(), rotated(graph, turns)), graph, turns.mT))
    torch.testing.assert_close(mean.energy, torch.stack([p.energy for p in parts]).mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(mean.forces, torch.stack([p.forces for p in parts]).mean(0), rtol=0, atol=1e-11)
    stress = torch.stack([p.stress for p in parts]).mean(0)
    torch.testing.assert_close(mean.stress, stress, rtol=0, atol=1e-12, equal_nan=True)


def test_sixty_rotations_lower_the_error_at_least_tenfold() -> None:
    graph = batch_of([ethanol(seed=7), ethanol(seed=8)])
    before = rotation_error(learned(), graph)
    errors = {
        over: rotation_error(averaged(learned(), over=over), graph).rms
        for over in ("octahedral", "icosahedral", "random")
    }
    assert before.relative > 0.01
    assert errors["icosahedral"] < before.rms / 10
    assert errors["octahedral"] < before.rms / 3
    assert errors["icosahedral"] < errors["random"] < before.rms


def test_all_copies_are_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    mean, calls = averaged(learned(), over="icosahedral", reflections=True), []
    network = mean.backbone.network  # type: ignore[attr-defined]
    assert isinstance(network, nn.Module)
    network.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    evaluate(mean, ethanol())
    assert calls == [120 * 9]


@pytest.mark.parametrize("variant", ["schnet", "egnn_moving", "deepsets", "nequip"])
def test_networks_that_rotate_by_construction_stay_what_they_are(variant: str) -> None:
    potential = new_potential(variant, repulsion=True).freeze()
    mean = averaged(potential, over="octahedral")
    one, other = (evaluate(p, ethanol(), copper()) for p in (potential, mean))
    assert worst(one.energy, other.energy) < 1e-10
    assert worst(one.forces, other.forces) < 1e-10
    assert native_obstacle(mean) == "24 rotated copies are averaged"
    assert mean.n_passes == potential.n_passes
    assert rotated_copies(mean) == "have one energy"


def test_features_are_those_of_the_structure_itself() -> None:
    graph = batch_of([ethanol(), copper()])
    features = averaged(learned(), over="octahedral").atom_features(graph)
    torch.testing.assert_close(features, learned().atom_features(graph), rtol=1e-12, atol=1e-12)


def test_reflections_remove_handedness_and_say_so() -> None:
    left = Atoms("CHOSiCu", [(0, 0, 0), (1.3, 0.1, 0.9), (-1.1, 0.2, 0.8), (0.2, 1.4, -1.1), (-0.1, -1.2, -0.7)])
    right = Atoms(left.numbers, -left.positions)
    for reflections, told in ((False, "are told apart"), (True, "have one energy (it is averaged over copies")):
        mean = averaged(learned(), over="icosahedral", reflections=reflections)
        assert mean.mirror_images.startswith(told)
        one, other = (evaluate(mean, atoms).energy.item() for atoms in (left, right))
        assert (abs(one - other) < 1e-12 * abs(one)) is reflections


def test_random_rotations_are_those_of_the_seed() -> None:
    one, same, other = (
        averaged(learned(), over="random", n_rotations=5, seed=seed).backbone.rotations  # type: ignore[attr-defined]  # its own
        for seed in (1, 1, 2)
    )
    assert (one == same).all()
    assert (one == random_rotations(5, np.random.default_rng(1))).all()
    assert not (one == other).any()


def test_the_command_writes_a_model_that_says_what_it_is(tmp_path: Path) -> None:
    plain, mean = tmp_path / "plain.safetensors", tmp_path / "mean.safetensors"
    held = [{"numbers": a.numbers.tolist(), "positions": a.positions.tolist(), "cell": a.cell.array.tolist(),
             "pbc": a.pbc.tolist()} for a in (ethanol(seed=7), ethanol(seed=8))]  # fmt: skip
    potential = small_potential("transformer", trained=True, dtype=torch.float32).freeze()
    save_potential(potential, plain, {"examples": held, "metrics": {"of": "the network"}})
    command = ["average", str(plain), str(mean), "--group", "icosahedral"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "costs 60 times as much" in result.stdout
    printed = CliRunner().invoke(app, ["info", "--json", str(mean)]).stdout
    assert not [line for line in printed.splitlines() if line.strip() and not line.strip("-+e,. 0123456789")]
    info = json.loads(printed)
    assert info["card"]["examples"] == held
    assert info["rotated copies"] in result.stdout.replace("\n", " ")
    assert info["card"]["averaged"]["copies"] == 60
    assert info["card"]["averaged"]["metrics_before"] == {"of": "the network"}
    assert "metrics" not in info["card"]
    assert info["computed on a CPU by"] == "PyTorch (60 rotated copies are averaged)"
    assert info["computed on a CUDA device by"] == info["computed on a CPU by"]
    found = mlpot.load(mean, dtype=torch.float64)  # in which the group is exact, though the file is of float32
    graph = batch_of([ethanol()], found.cutoff)
    turn = torch.from_numpy(group("icosahedral")[17].copy())
    out, there = predict(found, graph), predict(found, rotated(graph, turn[None]))
    assert worst(there.forces, out.forces @ turn.T) <= 1e-12 * float(out.forces.abs().max())
    assert "exists" in str(CliRunner().invoke(app, command).exception)
    again = CliRunner().invoke(app, ["average", str(mean), str(tmp_path / "twice.safetensors")])
    assert "averaged already" in str(again.exception)
    itself = CliRunner().invoke(app, ["average", str(plain), str(tmp_path / "." / plain.name), "--overwrite"])
    assert "would replace the model that it is made from" in str(itself.exception)
    nowhere = CliRunner().invoke(app, ["average", str(plain), str(tmp_path / "no" / "mean.safetensors")])
    assert "There is no folder" in str(nowhere.exception)
    odd = CliRunner().invoke(app, [*command[:-1], "cubic", "--overwrite"])
    assert "Unknown group 'cubic'" in str(odd.exception)
    for option in (["--rotations", "7"], ["--seed", "1"]):
        idle = CliRunner().invoke(app, [*command, "--overwrite", *option])
        assert "would do nothing to --group icosahedral" in str(idle.exception)


def test_before_and_after_are_compared_in_one_precision(tmp_path: Path) -> None:
    """A network that rotates by construction, of which compiled code and its float32 modules round unlike."""
    held = {"numbers": [29] * 4, "positions": copper().positions[:4].tolist(), "cell": copper().cell.tolist(),
            "pbc": [True] * 3}  # fmt: skip
    potential = small_potential("schnet", trained=True, dtype=torch.float32).freeze()
    save_potential(potential, tmp_path / "plain.safetensors", {"examples": [held]})
    found = average(tmp_path / "plain.safetensors", tmp_path / "mean.safetensors", over="octahedral")
    assert found.before is not None
    assert found.after is not None
    assert max(found.before.rms, found.after.rms) < 1e-12
    words = ["average", str(tmp_path / "plain.safetensors"), str(tmp_path / "other.safetensors")]
    assert "float64" in CliRunner().invoke(app, words).stdout


def test_an_isolated_atom_has_its_reference_energy() -> None:
    mean = averaged(learned(), over="octahedral")
    graph = replace(batch_of([Atoms("C", [(0, 0, 0)])]))
    assert predict(mean, graph).energy.item() == mean.reference[mean.elements.index(6)].item()


def test_an_average_does_not_take_the_name_of_structures(tmp_path):
    """A file of structures would be a potential, and the one that was there lost with --overwrite."""
    plain, data = tmp_path / "plain.safetensors", tmp_path / "frames.xyz"
    save_potential(new_potential("schnet", n_features=8, n_interactions=1), plain)
    data.write_text("1\n\nH 0 0 0\n")
    found = CliRunner().invoke(app, ["average", str(plain), str(data), "--overwrite"])
    assert "let its name end in .safetensors" in str(found.exception)
    assert data.read_text() == "1\n\nH 0 0 0\n"
    command = ["import", "mace", str(plain), str(data), "--python", "python", "--overwrite"]
    assert "let its name end in .safetensors" in str(CliRunner().invoke(app, command).exception)
    command = ["import", "mace", str(plain), str(tmp_path / "no" / "a.safetensors"), "--python", "python"]
    assert "There is no folder" in str(CliRunner().invoke(app, command).exception)
