"""Are the energies, forces and stresses of a structure the same bits whatever else is computed with it?"""

from __future__ import annotations

import pytest
import torch
from ase import Atoms
from potentials import VARIANTS, new_potential
from structures import CUTOFF, copper, ethanol, graph_of, quartz
from thread_runs import n_threads_for_anything

from mlpot.cpu import parts
from mlpot.forces import native_obstacle, predict
from mlpot.graph import collate
from mlpot.neighbors import build_graph

NATIVE = [name for name in VARIANTS if name not in ("deepsets", "se3_transformer", "transformer")]
BATCHES = {
    "molecules cut by a part of equal size": [ethanol(seed=seed) for seed in range(13)],
    "crystals of several parts beside molecules": [
        ethanol(seed=1),
        copper(seed=1).repeat(3),
        ethanol(seed=2)[:4],
        copper(seed=2).repeat((3, 5, 1)),
        quartz(seed=3),
    ],
    "an atom alone": [ethanol(seed=1), Atoms("H", [(0, 0, 0)]), ethanol(seed=2)],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", NATIVE)
def test_a_structure_is_the_same_in_every_batch(variant: str, dtype: torch.dtype) -> None:
    potential = new_potential(variant, dtype=dtype, repulsion=True).freeze()
    assert native_obstacle(potential) is None
    for what, structures in BATCHES.items():
        graphs = [build_graph(a.numbers, a.positions, a.cell.array, a.pbc, CUTOFF) for a in structures]
        together = predict(potential, collate(graphs))
        alone = [predict(potential, graph) for graph in graphs]
        for name in ("energy", "forces", "stress"):
            expected = torch.cat([getattr(out, name) for out in alone])
            torch.testing.assert_close(
                getattr(together, name), expected, rtol=0, atol=0, equal_nan=True, msg=f"{what}: {name}"
            )


def test_a_network_with_much_work_at_an_atom_cuts_smaller_structures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads share 27 atoms then; sums have one order whatever else is computed, and by how many threads."""
    whole = new_potential("mace", dtype=torch.float64).freeze()
    graphs = [graph_of(copper(seed=1).repeat((3, 3, 3))[:n]) for n in (27, 24, 41)]
    expected = predict(whole, collate(graphs))
    monkeypatch.setattr(parts, "LARGE", 27 * parts.FEW)  # numbers that a network of 27 at an atom has
    cut = new_potential("mace", dtype=torch.float64).freeze()
    alone = [predict(cut, graph) for graph in graphs]
    assert (alone[0].forces - expected.forces[:27]).abs().max() > 0  # sums have another order
    for n_threads in (1, 2, 3):
        with n_threads_for_anything(n_threads):
            together = predict(cut, collate(graphs))
            assert torch.equal(predict(cut, graphs[0]).forces, alone[0].forces)
        for name in ("energy", "forces", "stress"):
            own = torch.cat([getattr(out, name) for out in alone])
            torch.testing.assert_close(getattr(together, name), own, rtol=0, atol=0, equal_nan=True)
            torch.testing.assert_close(own, getattr(expected, name), rtol=1e-12, atol=1e-11, equal_nan=True)
