"""Energies do not depend on origin, orientation, handedness or order of atoms; forces sum to zero."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, islice

import numpy as np
import torch
from ase import Atoms

from mlpot.certificate.bars import BATCH, NET_FORCE, PERMUTATION, ROTATION, TRANSLATION, Bars
from mlpot.certificate.check import Check, Measurement, NothingToCheckError, Structures, free, verdict, worst
from mlpot.certificate.structures import shaken
from mlpot.certificate.tested import Answer, CalculatorUnderTest
from mlpot.equivariance import LARGEST, graphs_of, rotation_error, structures_of
from mlpot.forces import predict
from mlpot.graph import collate
from mlpot.neighbors import build_graph

N_ROTATIONS = 20
N_BATCH, MOST_ATOMS = 64, 2000


def translation(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P1: translation by up to 1000 Å changes nothing."""

    def moves(atoms: Atoms, rng: np.random.Generator) -> Iterator[tuple[Atoms, Answer]]:
        out = tested(atoms)
        for by in [np.array([1000.0, 0, 0]), *rng.uniform(-1000, 1000, (3, 3)) / np.sqrt(3)]:
            moved = atoms.copy()
            moved.positions += by
            yield moved, out

    return verdict("P1", "translation", _compare(tested, structures, moves, TRANSLATION))


def rotation(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P2: forces and stress rotate with the structure, in rotations and reflections."""

    def rotations(atoms: Atoms, rng: np.random.Generator) -> Iterator[tuple[Atoms, Answer]]:
        out = tested(atoms)
        for _ in range(N_ROTATIONS):
            q, r = np.linalg.qr(rng.normal(size=(3, 3)))
            q = q * np.sign(np.diag(r))  # uniform over O(3)
            rotated = atoms.copy()
            rotated.set_cell(atoms.cell.array @ q.T)
            rotated.positions = atoms.positions @ q.T
            yield rotated, Answer(out.energy, out.forces @ q.T, q @ out.stress @ q.T)

    return verdict("P2", "rotation and reflection", _compare(tested, structures, rotations, ROTATION))


def learned_rotation(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P32: forces of rotated copies are near rotated forces, in a network that learned rotations.

    On the validation structures in the model's file, if it has them: the figure is that of its card.
    """
    potential = tested.potential
    if potential is None or potential.backbone.equivariant:
        raise NothingToCheckError("rotations are not learned, and P2 checks them")
    held = structures_of(potential.header)
    given = [
        {"numbers": a.numbers, "positions": a.positions, "cell": a.cell.array, "pbc": a.pbc}
        for a in structures.values()
    ]
    error = rotation_error(potential, *graphs_of(held or given, potential.cutoff))
    where = "validation structures of its training" if held else "all structures"
    figure = Measurement("forces, relative to their root mean square", where, error.relative, LARGEST)
    return verdict("P32", "learned rotations", [figure], str(error))


def permutation(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P3: the order of atoms does not matter."""

    def orders(atoms: Atoms, rng: np.random.Generator) -> Iterator[tuple[Atoms, Answer]]:
        out = tested(atoms)
        for order in [np.arange(len(atoms))[::-1], *(rng.permutation(len(atoms)) for _ in range(4))]:
            yield atoms[order], Answer(out.energy, out.forces[order], out.stress)

    return verdict("P3", "permutation", _compare(tested, structures, orders, PERMUTATION))


def batches(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P4: a structure has the same results in a batch, independent of the other structures."""
    potential = tested.potential
    if potential is None:
        raise NothingToCheckError("a calculator takes one structure at a time")
    mixed = list(islice(_many(structures), N_BATCH))
    graphs = [build_graph(a.numbers, a.positions, a.cell.array, a.pbc, potential.cutoff) for _, a in mixed]
    whole, first = collate(graphs), len(mixed[0][1])
    together = predict(potential, whole)
    forces = torch.split(together.forces, [len(a) for _, a in mixed])
    bar_energy, bar_forces, relative = BATCH[tested.single]
    figures: list[Measurement] = []
    for k, (name, atoms) in enumerate(mixed):
        out = predict(potential, graphs[k])
        alone = Answer(out.energy.item(), out.forces.numpy(), out.stress[0].numpy())
        part = Answer(together.energy[k].item(), forces[k].numpy(), together.stress[k].numpy())
        figures += differences(part, alone, name, bar_energy * len(atoms), bar_forces, relative)
    moved = whole.positions.clone()
    moved[first:] += 1e-3 * torch.from_numpy(np.random.default_rng(2).normal(size=moved[first:].shape))
    other = predict(potential, replace(whole, positions=moved))
    change = worst(other.forces[:first], together.forces[:first]) + worst(other.energy[0], together.energy[0])
    figures.append(Measurement("felt when the others move, eV and eV/Å", mixed[0][0], change, 0.0))
    return verdict("P4", "batches", figures, f"{len(mixed)} structures")


def _many(structures: Structures) -> Iterator[tuple[str, Atoms]]:
    """Displaced copies of every structure, until the batch has enough atoms."""
    n_atoms = 0
    for seed in count():
        for name, atoms in structures.items():
            n_atoms += len(atoms)
            if seed > 1 and n_atoms > MOST_ATOMS:
                return
            yield name, shaken(atoms, seed=seed)


def momentum(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P16: forces sum to zero, and in vacuum torques do."""
    figures = []
    for name, atoms in structures.items():
        forces = tested(atoms).forces
        rms = float(np.sqrt((forces**2).sum(axis=1).mean()))
        bar = len(atoms) * (NET_FORCE[True] * max(rms, 1.0) if tested.single else NET_FORCE[False])
        figures.append(Measurement("net force, eV/Å", name, worst(forces.sum(axis=0)), bar))
        if name in free(structures):
            arms = atoms.positions - atoms.positions.mean(axis=0)
            # In float32 the force of a pair is along its vector to 1e-7 only, however exactly it is summed.
            bar *= 10 if tested.single else max(1.0, float(np.linalg.norm(arms, axis=1).max()))
            figures.append(Measurement("torque, eV", name, worst(np.cross(arms, forces).sum(axis=0)), bar))
    return verdict("P16", "net force and torque", figures)


Same = Callable[[Atoms, np.random.Generator], Iterator[tuple[Atoms, Answer]]]


def _compare(
    tested: CalculatorUnderTest, structures: Structures, same: Same, bars: dict[bool, Bars]
) -> Iterator[Measurement]:
    bar_energy, bar_forces, relative = bars[tested.single]
    for name, atoms in structures.items():
        rng = np.random.default_rng(1)
        for other, expected in same(atoms, rng):
            yield from differences(tested(other), expected, name, bar_energy * len(atoms), bar_forces, relative)


def differences(
    out: Answer, expected: Answer, where: str, bar_energy: float, bar_forces: float, relative: float = 0.0
) -> Iterator[Measurement]:
    """Of energy, forces and, where there is one, stress; `relative` to the largest force."""
    bar = bar_forces + relative * worst(expected.forces)
    yield Measurement("energy, eV", where, worst(out.energy, expected.energy), bar_energy)
    yield Measurement("forces, eV/Å", where, worst(out.forces, expected.forces), bar)
    if not np.isnan(expected.stress).all() or not np.isnan(out.stress).all():
        yield Measurement("stress, eV/Å³", where, worst(out.stress, expected.stress), bar)
