"""Are users of i-PI, TorchSim and ML-IAP told of what is unlike training, as those of a calculator are?"""

from __future__ import annotations

import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from lammps_runs import needs_lammps
from ranks import potential_of
from structures import copper, graph_of, quartz
from test_other_engines import optional

from mlpot.extrapolation import BETWEEN, domain_of
from mlpot.forces import predict
from mlpot.model_file import save_potential
from mlpot.potential import Potential
from mlpot.watched import Watch, predict_watched

OUT = "has extrapolation grade .* Do not trust what is calculated for it. This is said once"


def squeezed(atoms: Atoms, part: float = 0.74) -> Atoms:
    """A copy at a part of its lengths, or 0.4 of the volume."""
    atoms = atoms.copy()
    atoms.set_cell(part * atoms.cell.array, scale_atoms=True)
    return atoms


def knows(*structures: Atoms, variant: str = "painn") -> Potential:
    """A potential with the domain of some structures."""
    potential = potential_of(variant, nuclei=False)
    graphs = [graph_of(atoms) for atoms in structures]
    potential.domain = domain_of(potential.atom_features, potential.element_index, len(potential.elements), graphs)
    return potential


def test_grades_are_looked_at_now_and_then_and_told_once() -> None:
    atoms, potential, watch = copper(), knows(*(copper(seed=k) for k in range(8))), Watch()

    def told(one: Atoms) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = predict_watched(potential, graph_of(one), watch, lambda k: f"An atom of number {k}")
        assert torch.equal(found.forces, predict(potential, graph_of(one)).forces)
        return [str(one.message) for one in caught]

    later = [told(squeezed(atoms, 1 - 0.007 * k)) for k in range(BETWEEN + 1)]  # as little as in dynamics
    assert not any(later[:-1])
    assert later[-1][0].startswith("An atom of number 0 has extrapolation grade")
    assert not any(told(squeezed(atoms)) for _ in range(2 * BETWEEN))


@pytest.mark.parametrize("part", [0.74, 0.95])
def test_another_structure_is_looked_at_at_once(part: float) -> None:
    """As in a scan of volumes, where each calculation is of the same atoms."""
    potential, watch = knows(*(copper(seed=k) for k in range(8))), Watch(limit=0.0)
    assert watch.wants(graph_of(copper()))
    assert not watch.wants(graph_of(copper()))
    with pytest.warns(UserWarning, match="^scan has extrapolation grade"):
        predict_watched(potential, graph_of(squeezed(copper(), part)), watch, lambda k: "scan")


def test_other_atoms_are_looked_at_at_once() -> None:
    potential, watch = knows(copper(), *(quartz(seed=k) for k in range(8))), Watch()
    predict_watched(potential, graph_of(copper()), watch, str)
    with pytest.warns(UserWarning, match="^7 has extrapolation grade"):
        predict_watched(potential, graph_of(squeezed(quartz())), watch, lambda k: "7")


def test_ipi_is_told(tmp_path: Path) -> None:
    optional("ipi", "ipi")
    from ipi.utils.units import unit_to_internal

    from mlpot.engines.path_integrals import MLPotDriver

    save_potential(knows(*(copper(seed=k) for k in range(8))), tmp_path / "model.safetensors")
    atoms = copper()
    atoms.info = {}
    ase.io.write(tmp_path / "start.xyz", atoms)
    for n, name in ((1, "structure"), (2, "structure 1 of 2")):
        driver = MLPotDriver(str(tmp_path / "model.safetensors"), str(tmp_path / "start.xyz"))
        beads = [atoms, squeezed(atoms)][-n:]
        cells = [unit_to_internal("length", "angstrom", one.cell.array.T) for one in beads]
        with pytest.warns(UserWarning, match=f"An atom of i-PI's {name} {OUT}"):
            driver(cells, [unit_to_internal("length", "angstrom", one.positions) for one in beads])


def test_torchsim_is_told() -> None:
    optional("torch_sim", "torchsim")
    import torch_sim

    from mlpot.engines.torchsim import MLPotModel

    structures = [copper(seed=1), squeezed(copper(seed=2)), copper(seed=3)]
    state = torch_sim.io.atoms_to_state(structures, torch.device("cpu"), torch.float64)
    with pytest.warns(UserWarning, match=f"An atom of system 1 {OUT}"):
        MLPotModel(knows(*(copper(seed=k) for k in range(8))))(state)


def test_mliap_is_told_by_the_rank_that_has_the_atom() -> None:
    """All ranks look in the same step, since features travel for it; also one without atoms."""
    needs_lammps()
    from test_mliap import Kokkos, computed, owners_of

    atoms = squeezed(quartz() * (2, 1, 1))
    potential = knows(*(quartz(seed=k) for k in range(8)), variant="nequip")
    with pytest.warns(UserWarning, match=f"An atom of (O|Si) {OUT}"):
        world = computed(potential, atoms, owners_of(atoms, 3), Kokkos)
    assert min(world.n_exchanges) == max(world.n_exchanges)
    whole = predict(potential, graph_of(atoms))
    forces = np.zeros((len(atoms), 3))
    for rank in world.ranks:
        np.add.at(forces, rank.index, rank.f)
    np.testing.assert_allclose(forces, whole.forces, atol=1e-10)
