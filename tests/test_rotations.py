"""Tables of rotations are groups, random rotations are uniform, and what is turned turns as a tensor."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from potentials import Morse
from structures import batch_of, copper, ethanol, slab

from mlpot.forces import predict
from mlpot.rotations import GENERATORS, group, random_rotations, rotated, rotated_labels
from mlpot.training.losses import Labels

SIZES = {"octahedral": 24, "icosahedral": 60}
GROUPS = pytest.mark.parametrize(("name", "reflections"), [(n, r) for n in GENERATORS for r in (False, True)])


def place(table: np.ndarray, matrix: np.ndarray) -> int:
    """Where a matrix stands in a table, in which it is once."""
    found = np.flatnonzero(np.abs(table - matrix).max(axis=(1, 2)) < 1e-12)
    assert len(found) == 1
    return int(found[0])


@GROUPS
def test_a_table_is_a_group(name: str, reflections: bool) -> None:
    table = group(name, reflections=reflections)
    n = SIZES[name] * (2 if reflections else 1)
    assert table.shape == (n, 3, 3)
    assert place(table, np.eye(3)) == 0
    np.testing.assert_allclose(table @ table.transpose(0, 2, 1), np.tile(np.eye(3), (n, 1, 1)), atol=2e-15)
    signs = np.linalg.det(table)
    np.testing.assert_allclose(signs, np.sign(signs), atol=1e-14)
    assert (signs < 0).sum() == (n // 2 if reflections else 0)
    for g in table:
        place(table, g.T)  # its inverse
        assert sorted(place(table, g @ h) for h in table) == list(range(n))  # closed, and each once


def test_an_icosahedron_and_a_cube_are_what_their_groups_leave_alone() -> None:
    phi = (1 + 5**0.5) / 2
    corners = np.array([np.roll((0, a, b * phi), k) for a in (-1, 1) for b in (-1, 1) for k in range(3)])
    cube = np.array([(a, b, c) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)])
    for name, body in (("icosahedral", corners), ("octahedral", cube)):
        for g in group(name, reflections=True):
            far = np.linalg.norm(body @ g.T - body[:, None], axis=2)
            assert (far < 1e-12).sum() == len(body)


def test_no_unknown_group() -> None:
    with pytest.raises(KeyError):
        group("cubic")


@pytest.mark.parametrize("reflections", [False, True])
def test_random_rotations_are_uniform(reflections: bool) -> None:
    turns = random_rotations(20_000, np.random.default_rng(0), reflections=reflections)
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.tile(np.eye(3), (20_000, 1, 1)), atol=1e-14)
    assert (np.linalg.det(turns) > 0).mean() == pytest.approx(0.5 if reflections else 1.0, abs=0.02)
    np.testing.assert_allclose(turns.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose((turns**2).mean(axis=0), 1 / 3, atol=0.02)
    np.testing.assert_allclose((turns**4).mean(axis=0), 1 / 5, atol=0.02)
    trace = np.trace(turns, axis1=1, axis2=2)
    assert (trace**2).mean() == pytest.approx(1.0, abs=0.03)  # of SO(3) and O(3) alike


def test_labels_turn_with_their_structures() -> None:
    """A potential that rotates with its structures gives the turned labels of the turned structures."""
    graph = batch_of([ethanol(seed=1), copper(seed=2), slab(seed=3)])
    out = predict(Morse(), graph)
    turns = torch.from_numpy(random_rotations(3, np.random.default_rng(3), reflections=True))
    expected, found = rotated_labels(out, graph, turns), predict(Morse(), rotated(graph, turns))
    torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=1e-11)
    torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.stress, expected.stress, rtol=0, atol=1e-12, equal_nan=True)
    assert found.stress[0].isnan().all()


def test_every_tensor_among_the_labels_is_known_to_turn() -> None:
    """Whoever adds a label says here how it turns: energy and weight do not, forces and stress do."""
    assert {f.name for f in fields(Labels)} == {"energy", "forces", "stress", "weight"}


def test_a_label_that_is_partly_unknown_is_unknown_in_another_direction() -> None:
    graph = batch_of([ethanol(seed=1)])
    out = predict(Morse(), graph)
    forces = out.forces.clone()
    forces[2, 1] = torch.nan
    turn = torch.from_numpy(random_rotations(1, np.random.default_rng(3)))
    turned = rotated_labels(replace(out, forces=forces), graph, turn).forces
    assert turned[2].isnan().all()
    assert turned[[0, 1, 3, 4, 5, 6, 7, 8]].isfinite().all()
