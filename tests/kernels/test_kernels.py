"""Do the fast kernels compute what the reference defines, and nothing that nobody asked for?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mlpot.forces import predict
from mlpot.graph import AtomGraph, edge_vectors
from mlpot.kernels import cpu, ops, reference, threads
from mlpot.neighbors import build_graph
from mlpot.potential import Potential
from mlpot.stages.spline_grid import SPLINES, KnotEdges

CUTOFF, N_KNOTS, N_FEATURES = 4.0, 12, 5


def small_crystal(seed: int = 0) -> AtomGraph:
    """Four atoms in a small cell: images, and atoms with several edges to one neighbor."""
    rng = np.random.default_rng(seed)
    cell = 3.6 * np.eye(3) + rng.uniform(-0.2, 0.2, (3, 3))
    corners = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    positions = corners @ cell + rng.uniform(-0.2, 0.2, (4, 3))
    return build_graph(np.full(4, 14), positions, cell, [True] * 3, CUTOFF)


def tensors(graph: AtomGraph, degree: int, dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    # One distance a pair: an edge and its reverse are equally long.
    pair = torch.minimum(torch.arange(len(graph.edges)), graph.edges.reverse)
    return {
        "x": normal(graph.n_atoms, N_FEATURES),
        "g": normal(graph.n_atoms, N_FEATURES),
        "table": normal(SPLINES[degree].n_rows(N_KNOTS), N_FEATURES),
        "weights": normal(len(graph.edges)),
        "d": edge_vectors(graph).norm(dim=-1)[pair].to(dtype).requires_grad_(),
    }


def apply(name: str, graph: AtomGraph, degree: int, order: int, t: dict[str, Tensor]) -> Tensor:
    pair = torch.minimum(torch.arange(len(graph.edges)), graph.edges.reverse)
    on = KnotEdges(graph.edges, t["d"][pair], cutoff=CUTOFF, n_knots=N_KNOTS, degree=degree)
    if name == "conv":
        return ops.conv(t["x"], t["table"], on, t["weights"], order)
    if name == "edge_dot":
        return ops.edge_dot(t["x"], t["g"], t["table"], on, order)
    return ops.table_grad(t["x"], t["g"], on, t["weights"], order)


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-300)).item()


@pytest.mark.parametrize("home", [reference, cpu], ids=["reference", "numba"])
@pytest.mark.parametrize("degree", [3, 5])
@pytest.mark.parametrize("name", ["conv", "edge_dot", "table_grad"])
def test_first_and_second_derivatives_are_right(monkeypatch, home, name, degree):
    monkeypatch.setattr(ops, "_home", lambda *_: home)
    graph = small_crystal()
    t = tensors(graph, degree, torch.float64)
    names = [k for k in t if not (k == "table" and name == "table_grad")]

    def f(*values: Tensor) -> Tensor:
        # All edges, with weights that break every symmetry, in one number each
        out = apply(name, graph, degree, 0, t | dict(zip(names, values, strict=True)))
        return (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)).sum()

    # The distances of a pair enter twice, so gradients are taken in the leaves that move both alike.
    values = tuple(t[k] for k in names)
    assert torch.autograd.gradcheck(f, values, eps=1e-6, atol=1e-6, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, values, eps=1e-6, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, 1e-11), (torch.float32, 2e-6)])
@pytest.mark.parametrize("degree", [3, 5])
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("name", ["conv", "edge_dot", "table_grad"])
def test_numba_equals_reference(monkeypatch, name, order, degree, dtype, bar):
    graph = small_crystal()
    found = []
    for home in (reference, cpu):
        monkeypatch.setattr(ops, "_home", lambda *_, home=home: home)
        t = tensors(graph, degree, dtype)
        value = apply(name, graph, degree, order, t)
        first = torch.autograd.grad(value.square().sum(), list(t.values()), create_graph=True, allow_unused=True)
        first = [g for g in first if g is not None]
        second = torch.autograd.grad(sum(g.square().sum() for g in first), list(t.values()), allow_unused=True)
        found.append([value, *first, *(g for g in second if g is not None)])
    assert len(found[0]) >= 7
    for a, b in zip(*found, strict=True):
        assert relative(b, a) <= bar


def test_results_do_not_depend_on_threads(monkeypatch):
    monkeypatch.setattr(threads, "ONE_THREAD", 0)
    graph, before = small_crystal(), torch.get_num_threads()
    found = []
    try:
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            t = tensors(graph, 3, torch.float32)
            found.append([apply(name, graph, 3, 0, t) for name in ("conv", "edge_dot", "table_grad")])
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("home", [reference, cpu], ids=["reference", "numba"])
def test_edges_beyond_the_cutoff_give_exactly_nothing_and_nan_stays_nan(monkeypatch, home):
    monkeypatch.setattr(ops, "_home", lambda *_: home)
    graph = small_crystal()
    t = tensors(graph, 3, torch.float64)
    for d, wanted in ((CUTOFF, 0.0), (CUTOFF + 1, 0.0), (torch.inf, 0.0), (torch.nan, torch.nan)):
        far = t | {"d": torch.full_like(t["d"], d)}
        for name in ("conv", "edge_dot"):
            for order in (0, 1):
                out = apply(name, graph, 3, order, far)
                torch.testing.assert_close(out, torch.full_like(out, wanted), rtol=0, atol=0, equal_nan=True)


def count_calls(monkeypatch) -> list[tuple[str, int]]:
    calls = []

    def counted(name: str, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args):
            calls.append((name, args[-1]))
            return original(*args)

        return call

    for name in ("conv", "edge_dot", "table_grad"):
        monkeypatch.setattr(reference, name, counted(name, getattr(reference, name)))
    monkeypatch.setattr(ops, "_home", lambda *_: reference)
    return calls


def test_forces_compute_no_gradient_of_the_table(monkeypatch):
    calls = count_calls(monkeypatch)
    potential = Potential(
        "schnet", {"n_features": 8, "cutoff": CUTOFF, "n_knots": 64}, reference_energies={14: 0.0}
    )
    predict(potential, small_crystal(), training=True, native=False)
    assert [name for name, _ in calls].count("table_grad") == 0
    # three layers; the first has nothing below it that depends on positions
    assert calls.count(("conv", 0)) == 3 + 2  # energy, forces
    assert calls.count(("edge_dot", 1)) == 3


def test_a_loss_on_forces_computes_no_curvature(monkeypatch):
    calls = count_calls(monkeypatch)
    potential = Potential(
        "schnet", {"n_features": 8, "cutoff": CUTOFF, "n_knots": 64}, reference_energies={14: 0.0}
    )
    loss = predict(potential, small_crystal(), training=True, native=False).forces.square().sum()
    loss.backward(inputs=list(potential.parameters()))
    assert ("table_grad", 1) in calls
    assert max(order for _, order in calls) == 1


def test_importing_models_does_not_import_numba():
    code = "import sys, mlpot.models, mlpot.potential; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_kernel_is_compiled_anew_when_one_that_it_calls_has_changed(tmp_path):
    package = shutil.copytree(
        Path(cpu.__file__).parents[1], tmp_path / "mlpot", ignore=shutil.ignore_patterns("__pycache__")
    )
    caller = "from mlpot.kernels.called import one\nfrom mlpot.kernels.simd import compiled\n"
    (package / "kernels/caller.py").write_text(f"{caller}\n@compiled\ndef twice(): return 2 * one()\n")
    for value in (1.0, 1.0, 3.0):
        called = f"from mlpot.kernels.simd import inner\n\n@inner\ndef one(): return {value}\n"
        (package / "kernels/called.py").write_text(called)
        command = [sys.executable, "-c", "from mlpot.kernels.caller import twice; print(twice())"]
        run = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, check=False
        )
        assert run.stdout.split() == [str(2 * value).encode()], run.stderr.decode()
