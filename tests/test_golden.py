"""Numbers that must not change, with who computed them and when, and foreign judges of our own.

`golden/golden_v1_*.safetensors` are potentials as format version 1 stores them, and `golden_v1.json` what they
predicted. Made by `python tests/test_golden.py`: run it again only for a new format version, beside the old files.
"""

from __future__ import annotations

import json
import platform
from datetime import date
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.lj import LennardJones as AseLennardJones
from numpy.typing import NDArray
from places import TESTS
from potentials import Morse, new_potential, training_graph
from structures import CUTOFF, STRUCTURES, batch_of, ethanol, evaluate, graph_of, isolated_atom, worst
from torch import Tensor

from mlpot.forces import hessian, predict, predict_atoms
from mlpot.graph import Edges
from mlpot.model_file import FORMAT_VERSION, load_potential, save_potential
from mlpot.potential import Potential
from mlpot.version import __version__

DATA = TESTS / "golden"
KINDS = ("schnet", "egnn_attention", "deepsets")
Array = NDArray[np.float64]


class LennardJones:
    """E = ½ Σ_ij 4ε [(σ/d)¹² − (σ/d)⁶] − e₀, cut and shifted at the cutoff, as ASE's."""

    dtype = torch.float64
    epsilon, sigma, cutoff = 0.7, 1.9, 4.5  # eV, Å, Å

    def __call__(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """Atomic energies (n_atoms,) eV."""
        pair = self.of((self.sigma / vectors.norm(dim=-1)) ** 6) - self.of((self.sigma / self.cutoff) ** 6)
        return vectors.new_zeros(edges.n_atoms).index_add(0, edges.center, pair / 2)

    def of(self, c6):  # type: ignore[no-untyped-def]
        """4ε (c² − c), c = (σ/d)⁶."""
        return 4 * self.epsilon * (c6 * c6 - c6)

    def reference_energies(self, numbers: Tensor) -> Tensor:
        """None."""
        return torch.zeros(len(numbers), dtype=torch.float64)


@pytest.mark.parametrize("matter", STRUCTURES)
def test_lennard_jones_equals_ase(matter: str) -> None:
    ours, atoms = LennardJones(), STRUCTURES[matter]()
    out, atomic = evaluate(ours, atoms), predict_atoms(ours, graph_of(atoms, ours.cutoff))
    atoms.calc = AseLennardJones(epsilon=ours.epsilon, sigma=ours.sigma, rc=ours.cutoff)
    size = max(1.0, abs(atoms.get_potential_energy()))
    assert worst(out.energy, atoms.get_potential_energy()) <= 1e-12 * size
    assert worst(atomic.energies, atoms.get_potential_energies()) <= 1e-12 * size
    assert worst(out.forces, atoms.get_forces()) <= 1e-12 * max(1.0, np.abs(atoms.get_forces()).max())
    if atoms.pbc.all():
        assert worst(out.stress, atoms.get_stress(voigt=False)) <= 1e-12


def test_the_hessian_of_a_lennard_jones_dimer_is_the_textbook_one() -> None:
    ours, d = LennardJones(), 2.3
    curvature = hessian(ours, graph_of(Atoms("Ar2", positions=[(0, 0, 0), (0, 0, d)]), ours.cutoff))
    s6 = (ours.sigma / d) ** 6
    along = 4 * ours.epsilon * (156 * s6**2 - 42 * s6) / d**2
    across = 4 * ours.epsilon * (-12 * s6**2 + 6 * s6) / d**2
    assert worst(curvature[5, 5], along) <= 1e-12 * along
    assert worst(curvature[3, 3], across) <= 1e-12 * along
    assert worst(curvature[2, 5], -along) <= 1e-12 * along


# --- Backbones written once more, from the papers, in NumPy and loops over pairs


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def dense(weights: dict[str, Array], name: str, x: Array) -> Array:
    return weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", 0.0)


def mlp(weights: dict[str, Array], name: str, x: Array, layers: tuple[int, ...] = (0, 2)) -> Array:
    for k in layers[:-1]:
        x = silu(dense(weights, f"{name}.{k}", x))
    return dense(weights, f"{name}.{layers[-1]}", x)


def gaussians(weights: dict[str, Array], d: float) -> Array:
    centers = weights["basis.centers"]
    return np.exp(-((d - centers) ** 2) / (2 * (CUTOFF / (len(centers) - 1)) ** 2))


def envelope(d: float) -> float:
    x = d / CUTOFF
    return 1 - 28 * x**6 + 48 * x**7 - 21 * x**8 if x < 1 else 0.0


def schnet(w: dict[str, Array], numbers: NDArray[np.int64], r: Array) -> Array:
    d = np.linalg.norm(r[:, None] - r, axis=-1)
    pairs = [(i, j) for i, j in np.ndindex(d.shape) if i != j and d[i, j] < CUTOFF]
    x = w["embedding.weight"][numbers]
    for layer in ("interactions.0", "interactions.1"):
        m = np.zeros_like(x)
        for i, j in pairs:
            filters = mlp(w, f"{layer}.filter", gaussians(w, d[i, j])) * envelope(d[i, j])
            m[i] += dense(w, f"{layer}.to_message", x[j]) * filters
        x = x + np.stack([mlp(w, f"{layer}.update", m_i) for m_i in m])
    return np.concatenate([mlp(w, "readout", x_i) for x_i in x])


def deepsets(w: dict[str, Array], numbers: NDArray[np.int64], r: Array) -> Array:
    d = np.linalg.norm(r[:, None] - r, axis=-1)
    z = w["embedding.weight"][numbers]
    m = np.zeros_like(z)
    for i, j in np.ndindex(d.shape):
        if i != j and d[i, j] < CUTOFF:
            first = dense(w, "from_center", z[i]) + dense(w, "from_neighbor", z[j])
            first += dense(w, "from_distance", gaussians(w, d[i, j]))
            m[i] += silu(dense(w, "pair.1", silu(first))) * envelope(d[i, j])
    return np.concatenate([mlp(w, "atom", np.concatenate(pair), (0, 2, 4)) for pair in zip(z, m, strict=True)])


def egnn(w: dict[str, Array], numbers: NDArray[np.int64], r: Array) -> Array:
    """Satorras et al., eqs. 3-6 and 8; coordinates x move, the envelope is of the true distance."""
    d = np.linalg.norm(r[:, None] - r, axis=-1)
    pairs = [(i, j) for i, j in np.ndindex(d.shape) if i != j and d[i, j] < CUTOFF]
    h, x = w["embedding.weight"][numbers], r.copy()
    for k in range(2):
        layer, m, step = f"layers.{k}", np.zeros_like(h), np.zeros_like(x)
        for i, j in pairs:
            length = d[i, j] if k == 0 else np.sqrt(np.sum((x[i] - x[j]) ** 2) + 1e-6)
            first = dense(w, f"{layer}.from_center", h[i]) + dense(w, f"{layer}.from_neighbor", h[j])
            first += dense(w, f"{layer}.from_distance", gaussians(w, length))
            message = silu(dense(w, f"{layer}.edge.1", silu(first)))  # eq. 3
            weight = envelope(d[i, j]) / np.sqrt(8)
            if k == 0:
                step[i] += (x[i] - x[j]) * mlp(w, f"{layer}.move", message) * weight  # eq. 4
            gate = 1 / (1 + np.exp(-dense(w, f"{layer}.gate.0", message)))  # eq. 8
            m[i] += message * gate * weight  # eq. 5
        x = x + step
        h = h + np.stack([mlp(w, f"{layer}.update", np.concatenate(hm)) for hm in zip(h, m, strict=True)])  # eq. 6
    return np.concatenate([mlp(w, "readout", h_i) for h_i in h])


PAPERS = {"schnet": schnet, "egnn_attention": egnn, "deepsets": deepsets}


@pytest.mark.parametrize("kind", KINDS)
def test_a_backbone_is_its_paper_written_out_in_numpy(kind: str) -> None:
    backbone = load_potential(DATA / f"golden_v1_{kind}.safetensors", dtype=torch.float64).backbone
    weights = {name: tensor.numpy() for name, tensor in backbone.state_dict().items()}
    atoms = ethanol()
    graph = graph_of(atoms)
    vectors = graph.positions[graph.edges.neighbor] - graph.positions[graph.edges.center]
    ours = backbone(graph.numbers, graph.edges, vectors)
    assert worst(ours, PAPERS[kind](weights, atoms.numbers, atoms.positions)) <= 1e-12


# --- Numbers that were right once


def golden(version: int) -> dict[str, Any]:
    return json.loads((DATA / f"golden_v{version}.json").read_text())


VERSIONS = pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))


@VERSIONS
@pytest.mark.parametrize("kind", KINDS)
def test_stored_potentials_predict_what_they_predicted(kind: str, version: int) -> None:
    potential = load_potential(DATA / f"golden_v{version}_{kind}.safetensors", dtype=torch.float64)
    expected = golden(version)["kinds"][kind]
    out = evaluate(potential, *[make() for make in STRUCTURES.values()], isolated_atom())
    assert worst(out.energy, expected["energy"]) <= 1e-9
    assert worst(out.forces, expected["forces"]) <= 1e-9
    assert worst(out.stress[1:4], expected["stress"]) <= 1e-9


@VERSIONS
def test_golden_values_say_where_they_come_from(version: int) -> None:
    assert {"by", "on", "mlpot", "torch", "python"} <= golden(version)["provenance"].keys()


def fitted(kind: str) -> Potential:
    """A potential of eight features after a few steps, float32 as users store them."""
    potential = new_potential(kind, n_features=8, n_radial=8, repulsion=kind == "schnet")
    graph = training_graph()
    truth = predict(Morse(), graph)
    optimizer = torch.optim.Adam(potential.parameters(), lr=1e-2)
    for _ in range(100):
        loss = (predict(potential, graph, training=True).forces - truth.forces).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return potential.float()


def make_golden() -> None:
    """Write the files of this version anew."""
    DATA.mkdir(exist_ok=True)
    kinds = {}
    for kind in KINDS:
        path = DATA / f"golden_v{FORMAT_VERSION}_{kind}.safetensors"
        save_potential(fitted(kind), path, {"made_by": "tests/test_golden.py"})
        graph = batch_of([*[make() for make in STRUCTURES.values()], isolated_atom()])
        out = predict(load_potential(path, dtype=torch.float64), graph)
        kinds[kind] = {
            "energy": out.energy.tolist(),
            "forces": out.forces.tolist(),
            "stress": out.stress[1:4].tolist(),
        }
    provenance = {
        "by": "tests/test_golden.py, on one CPU thread, float64; checked against NumPy formulas in the same file",
        "on": date.today().isoformat(),
        "mlpot": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    (DATA / f"golden_v{FORMAT_VERSION}.json").write_text(
        json.dumps({"provenance": provenance, "kinds": kinds}, indent=1) + "\n"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    make_golden()
