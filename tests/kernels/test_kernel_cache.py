"""Compiled kernels: one set of bits whoever compiles, kept where it can be, and never in the way of an answer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import PROJECT

NETWORKS = """
import hashlib
import torch
from ase.build import bulk
from mlpot.forces import predict
from mlpot.kernels import compiler
from mlpot.neighbors import build_graph
from mlpot.potential import Potential

def digest(*tensors):
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()[:16]

torch.set_num_threads(1)
atoms = bulk("Si", cubic=True)
atoms.rattle(0.1, seed=0)
graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, 5.0)
for backbone, arguments, dtype, trains in ASKED:
    torch.manual_seed(0)
    arguments = {"n_features": 20, "n_radial": 8, **arguments}
    potential = Potential(backbone, arguments, reference_energies={14: -7870.0}, repulsion=True).to(dtype)
    if trains:
        out = predict(potential, graph, training=True)
        (out.energy.sum() + out.forces.square().sum() + out.stress.square().sum()).backward()
        gradients = [p.grad for p in potential.parameters() if p.grad is not None]
        print("step", digest(out.energy, out.forces, *gradients))
    out = predict(potential.freeze(), graph)
    print(backbone, digest(out.energy, out.forces, out.stress))
print("compiled", len(compiler.compiled_here), compiler.BYTES)
"""
EGNN = '("egnn", {"n_layers": 2, "attention": True}, torch.float32, False)'
SCHNET = '("schnet", {"n_knots": 32, "n_interactions": 2}, torch.float32, True)'
OTHERS = ", ".join(f'("{name}", {{"n_knots": 32}}, torch.float32, True)' for name in ("painn", "ace", "mace"))
ALL = f"{EGNN.replace('False', 'True')}, {SCHNET}, {OTHERS}"
SMALL = """
import resource
from mlpot.kernels import compiler, loops
if LATE:
    compiler._home()  # finds room, which is gone when kernels are written
if FULL:
    resource.setrlimit(resource.RLIMIT_FSIZE, (FULL, FULL))
mode = loops.subnormals.mode()
loops.subnormals.set_mode(mode)
assert loops.subnormals.mode() == mode
print("compiled", len(compiler.compiled_here))
"""
LOOPS = """
import numpy as np
from mlpot.cpu import vectors
from mlpot.kernels import compiler, simd

@simd.compiled
def loops(a, packed, out, n_rows, sums, e):
    simd.dense(a, packed, out, n_rows)
    sums[0] = vectors.dot(a[0], 0, a.shape[1], a[1], 0)
    for k in range(len(e)):
        e[k] = simd.exp(e[k])

for kind, bar in ((np.float32, 2e-5), (np.float64, 1e-13)):
    panel = simd.LINE // np.dtype(kind).itemsize
    for n_panels in (1, 2, 3):
        for n_rows in (2, 5, 6, 13):
            rng = np.random.default_rng(n_rows)
            a = rng.normal(size=(n_rows, 3 * panel)).astype(kind)
            matrix = rng.normal(size=(3 * panel, n_panels * panel)).astype(kind)
            packed = np.ascontiguousarray(matrix.reshape(3 * panel, n_panels, panel).swapaxes(0, 1))
            out, sums = np.ones((n_rows, n_panels * panel), kind), np.zeros(1, kind)
            x = np.linspace(-80, 80, 50).astype(kind)
            e = x.copy()
            loops(a, packed, out, n_rows, sums, e)
            exact = a.astype(np.float64)
            assert np.abs(out - 1 - exact @ matrix).max() < bar
            assert np.allclose(sums, exact[0] @ exact[1], rtol=0, atol=bar)
            assert np.allclose(e, np.exp(x.astype(np.float64)), rtol=bar / 10, atol=0)
            print(out.tobytes().hex(), sums.tobytes().hex(), e.tobytes().hex())
print(simd.BYTES, len(compiler.compiled_here))
"""


def run(script: str, folder: Path = PROJECT, **environment: str) -> tuple[list[str], list[str]]:
    """Lines that a new process printed, and what it said beside them."""
    of_tests = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "MLPOT_VECTOR_BYTES")
    kept = {name: value for name, value in os.environ.items() if name not in of_tests}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=folder,
        env={**kept, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr.splitlines()


def asked(*networks: str) -> str:
    return NETWORKS.replace("ASKED", f"[{', '.join(networks)}]")


def small(full: int = 0, late: bool = False) -> str:
    return SMALL.replace("FULL", str(full)).replace("LATE", str(late))


@pytest.mark.slow
@pytest.mark.parametrize(
    "network", [EGNN, ALL, ALL.replace("float32", "float64")], ids=["egnn", "all", "all_in_double"]
)
def test_the_process_that_compiles_gives_the_bits_of_all_later_ones(network: str, tmp_path: Path) -> None:
    cold, said = run(asked(network), NUMBA_CACHE_DIR=str(tmp_path))
    warm, silent = run(asked(network), NUMBA_CACHE_DIR=str(tmp_path))
    assert len(said) == 1
    assert "once" in said[0]
    assert str(tmp_path) in said[0]
    assert warm[:-1] == cold[:-1]
    assert (warm[-1].split()[1], silent) == ("0", [])


def test_loops_have_the_same_bits_in_the_process_that_compiles_and_later_and_in_any_width(tmp_path: Path) -> None:
    usual, said = run(LOOPS, NUMBA_CACHE_DIR=str(tmp_path))  # with the vectors that this CPU has
    assert len(said) == 1
    assert "once" in said[0]
    assert str(tmp_path) in said[0]
    assert usual[-1].split()[1] == "2"
    later, silent = run(LOOPS, NUMBA_CACHE_DIR=str(tmp_path))
    assert (later[-1].split()[1], silent) == ("0", [])
    assert later[:-1] == usual[:-1]
    for width in {"16", "32", "64"} - {usual[-1].split()[0]}:
        found = run(LOOPS, MLPOT_VECTOR_BYTES=width, NUMBA_CACHE_DIR=str(tmp_path))[0]
        assert found[-1].split() == [width, "2"]
        assert found[:-1] == usual[:-1]


@pytest.mark.slow
@pytest.mark.parametrize("width", ["16", "32", "64"])
def test_networks_on_a_cpu_of_any_width_give_the_same_bits(width: str) -> None:
    found, usual = (run(asked(ALL), **given)[0] for given in ({"MLPOT_VECTOR_BYTES": width}, {}))
    assert found[-1].endswith(width)
    assert found[:-1] == usual[:-1]


def test_a_width_that_is_none_is_refused() -> None:
    with pytest.raises(AssertionError, match="Set it to 16, 32 or 64"):
        run(small(), MLPOT_VECTOR_BYTES="128")


def test_kernels_are_compiled_where_nothing_can_be_kept(tmp_path: Path) -> None:
    """A file where the folder of the cache should be: what a read-only package and home are to other users."""
    shutil.copytree(PROJECT / "mlpot", tmp_path / "mlpot", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("mlpot/kernels/__pycache__", "home"):
        (tmp_path / file).touch()
    found, said = run(small(), folder=tmp_path, HOME=str(tmp_path / "home"))
    assert found == ["compiled 2"]
    assert len(said) == 1
    assert "NUMBA_CACHE_DIR" in said[0]
    assert "this process alone" in said[0]
    (tmp_path / "home").unlink()
    assert run(small(), folder=tmp_path, HOME=str(tmp_path / "home"))[0] == ["compiled 2"]
    assert run(small(), folder=tmp_path, HOME=str(tmp_path / "home")) == (["compiled 0"], [])


def test_kernels_are_compiled_where_the_disk_is_full(tmp_path: Path) -> None:
    found, said = run(small(full=100), NUMBA_CACHE_DIR=str(tmp_path))
    assert found == ["compiled 2"]
    assert len(said) == 1
    assert "this process alone" in said[0]
    found, said = run(small(full=100, late=True), NUMBA_CACHE_DIR=str(tmp_path))
    assert found == ["compiled 2"]
    assert len(said) == 2
    assert "NUMBA_CACHE_DIR" in said[1]
    assert "next process compiles again" in said[1]
    assert not list((tmp_path / "mlpot").iterdir())
    assert run(small(), NUMBA_CACHE_DIR=str(tmp_path))[0] == ["compiled 2"]


def test_damaged_kernels_are_compiled_again_and_told_in_one_line(tmp_path: Path) -> None:
    """One that is cut, empty or has another bit, and all of them."""
    run(small(), NUMBA_CACHE_DIR=str(tmp_path))
    (file,) = (tmp_path / "mlpot").glob("set_mode-*")
    content = file.read_bytes()
    for damaged in (content[:1000], b"", content[:-1] + bytes([content[-1] ^ 1])):
        file.write_bytes(damaged)
        found, said = run(small(), NUMBA_CACHE_DIR=str(tmp_path))
        assert found == ["compiled 1"]
        assert "damaged" in said[0]
        assert "NUMBA_CACHE_DIR" in said[0]
    for file in (tmp_path / "mlpot").iterdir():
        file.write_bytes(file.read_bytes()[:1000])
    found, said = run(small(), NUMBA_CACHE_DIR=str(tmp_path))
    assert found == ["compiled 2"]
    assert len(said) == 1
    assert "damaged" in said[0]
    assert run(small(), NUMBA_CACHE_DIR=str(tmp_path)) == (["compiled 0"], [])


@pytest.mark.parametrize("made", ["by another user", "writable by all"])
def test_kernels_that_others_could_have_made_do_not_run(made: str, tmp_path: Path) -> None:
    """Machine code of a folder that users share runs as whoever loads it."""
    if made == "by another user" and os.geteuid() != 0:
        pytest.skip("only root may give files to others")
    run(small(), NUMBA_CACHE_DIR=str(tmp_path))
    (file,) = (tmp_path / "mlpot").glob("set_mode-*")
    if made == "by another user":
        os.chown(file, 12345, -1)
    else:
        file.chmod(0o666)
    found, said = run(small(), NUMBA_CACHE_DIR=str(tmp_path))
    assert found == ["compiled 1"]
    assert len(said) == 1
    assert "belongs to another user, or others may write to it" in said[0]
    assert run(small(), NUMBA_CACHE_DIR=str(tmp_path)) == (["compiled 0"], [])  # it was replaced


def test_a_model_is_loaded_without_the_compiler_of_pytorch(tmp_path: Path) -> None:
    code = f"""
import sys
from mlpot.model_file import load_potential, save_potential
from mlpot.models import BACKBONES
from mlpot.potential import Potential
asked = [(name, {{}}) for name in BACKBONES]
for radial in ("bessel", "expnormal"):
    asked += [(name, {{"radial": radial}}) for name in ("schnet", "egnn", "deepsets")]
for backbone, more in asked:
    arguments = {{"n_features": 8, "n_radial": 8, **more}}
    save_potential(Potential(backbone, arguments, reference_energies={{1: -13.6}}), r"{tmp_path}/model")
    load_potential(r"{tmp_path}/model")
    print(backbone, sorted({{"torch._dynamo", "torch._inductor", "lightning", "sympy"}} & set(sys.modules)))
"""
    found = run(code)[0]
    assert len(found) > 10
    assert all(line.endswith(" []") for line in found), found
