"""Potentials in several processes and threads: forked, spawned, sent; right numbers, no waiting for ever."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from processes import PATIENCE

from mlpot.calculator import MLPotCalculator
from mlpot.kernels import loops, threads
from mlpot.model_file import save_potential
from mlpot.potential import Potential

N_WORKERS = 4
POOLS = ("fork", "spawn", "forkserver")
QUICK = {"fork": 2, "joblib multiprocessing": 2, "spawn": 1, "forkserver": 1, "joblib loky": 1}
"""How many workers are enough where tests have to be quick; those of the last three import all anew."""
BACKBONES = {
    "schnet": {"n_interactions": 2, "n_knots": 32},
    "egnn": {"n_layers": 2},
    "deepsets": {},
    "se3_transformer": {"max_degree": 1, "n_interactions": 2},
    "painn": {"n_interactions": 1, "n_knots": 32},
    "ace": {"max_degree": 1, "n_knots": 32},
    "mace": {"max_degree": 1, "radial_layers": [8], "n_knots": 32},
}


def crystal(backbone: str = "schnet", n: int = 1) -> Atoms:
    """8 n atoms of silicon with a calculator."""
    torch.manual_seed(0)
    arguments = {"n_features": 16, "n_radial": 8, **BACKBONES[backbone]}
    atoms = bulk("Si", cubic=True) * (n, 1, 1)
    atoms.rattle(0.1, seed=0)
    atoms.calc = MLPotCalculator(Potential(backbone, arguments, reference_energies={14: -7870.0}))
    return atoms


def asked(atoms: Atoms) -> tuple[float, np.ndarray, int]:
    """Energy and forces with two threads, and how many kernels this process compiled."""
    threads.ONE_THREAD = 0  # share even so little work
    torch.set_num_threads(2)
    atoms.calc.reset()  # or a worker would give the answer that was sent along
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    torch.set_num_threads(1)
    compiler = sys.modules.get("mlpot.kernels.compiler")
    return energy, forces, len(compiler.compiled_here) if compiler is not None else 0


@pytest.mark.parametrize("backbone", BACKBONES)
def test_calculators_and_atoms_can_be_sent(backbone: str) -> None:
    atoms = crystal(backbone)
    expected = atoms.get_forces()
    for thing in (atoms, atoms.calc, atoms.calc.potential):
        again = pickle.loads(pickle.dumps(thing))
        copy = atoms.copy()
        copy.calc = (
            again.calc
            if isinstance(again, Atoms)
            else MLPotCalculator(again)
            if thing is not atoms.calc
            else again
        )
        assert np.array_equal(copy.get_forces(), expected)


def all_asked(crystals: list[Atoms]) -> list[tuple[float, np.ndarray, int]]:
    """The task of a worker."""
    return [asked(atoms) for atoms in crystals]


def by_pool(method: str, n: int, task: list[Atoms]) -> list[list[tuple[float, np.ndarray, int]]]:
    """The answers of all workers."""
    with ProcessPoolExecutor(n, mp_context=multiprocessing.get_context(method)) as pool:
        waiting = [pool.submit(all_asked, task) for _ in range(n)]
        try:
            return [future.result(timeout=PATIENCE) for future in waiting]
        finally:
            for process in list(pool._processes.values()):
                if any(not future.done() for future in waiting):
                    process.kill()


def by_joblib(method: str, n: int, task: list[Atoms]) -> list[list[tuple[float, np.ndarray, int]]]:
    """The answers of all workers of joblib: processes of its own kind (loky), or forked ones (multiprocessing)."""
    joblib = pytest.importorskip("joblib", reason="needs joblib: pip install joblib")
    tasks = [joblib.delayed(all_asked)(task) for _ in range(n)]
    try:
        return joblib.Parallel(n_jobs=max(n, 2), backend=method.split()[1], timeout=PATIENCE)(tasks)
    finally:
        joblib.externals.loky.get_reusable_executor().shutdown(kill_workers=True)


@pytest.mark.parametrize(
    ("method", "n"),
    [
        # joblib starts its processes by fork or by a kind of spawn
        *(pytest.param(*way, marks=[pytest.mark.slow] * way[0].startswith("joblib")) for way in QUICK.items()),
        *(pytest.param(name, N_WORKERS, marks=pytest.mark.slow) for name in QUICK),
    ],
)
def test_workers_answer_whatever_started_them(method: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "ONE_THREAD", 0)
    crystals = [crystal(backbone, 13) for backbone in BACKBONES]
    expected = all_asked(crystals)  # the parent has used its threads, and PyTorch's
    task = [atoms.copy() for atoms in crystals]
    for fresh, atoms in zip(task, crystals, strict=True):
        fresh.calc = atoms.calc
    n_before = (
        expected[-1][2] if method in ("fork", "joblib multiprocessing") else 0
    )  # what is forked has compiled
    for answers in (by_pool if method in POOLS else by_joblib)(method, n, task):
        for (energy, forces, _), (there, forces_there, n_compiled) in zip(expected, answers, strict=True):
            assert there == energy
            assert np.array_equal(forces_there, forces)
            assert n_compiled == n_before


def test_threads_that_share_a_calculator_each_get_the_results_of_their_structure() -> None:
    atoms = crystal("deepsets")
    structures = [bulk("Si", cubic=True) * (1 + k % 3, 1, 1) for k in range(60)]
    for k, structure in enumerate(structures):
        structure.rattle(0.1, seed=k)
    expected = [atoms.calc.get_potential_energy(structure.copy()) for structure in structures]
    for structure in structures:
        structure.calc = atoms.calc
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda a: (a.get_potential_energy(), a.get_forces().shape), structures))
    assert [energy for energy, _ in found] == expected
    assert [shape for _, shape in found] == [(len(a), 3) for a in structures]


def test_a_fork_after_threads_of_pytorch_goes_on() -> None:
    torch.set_num_threads(2)
    x = torch.randn(400, 400, dtype=torch.float64)
    expected = torch.exp(x).sum().item()
    process = multiprocessing.get_context("fork").Process(target=_exp_sum, args=(x, expected))
    process.start()
    torch.set_num_threads(1)
    process.join(PATIENCE)
    code = process.exitcode
    process.kill()
    assert code == 0


LOADED_ALONE = """
import os, signal, sys
import torch
import mlpot

torch.set_num_threads(2)
mlpot.load(sys.argv[1])
assert "mlpot.kernels.threads" not in sys.modules  # which is imported with the first energy
x = torch.ones(400, 400)
expected = torch.exp(x).sum().item()
if (child := os.fork()) == 0:
    signal.alarm(int(sys.argv[2]))  # who waits for threads of its parent is ended
    os._exit(0 if torch.exp(x).sum().item() == expected else 1)
sys.exit(os.waitpid(child, 0)[1] != 0)
"""


def test_a_process_that_has_only_loaded_a_model_can_be_forked(tmp_path: Path) -> None:
    model = str(tmp_path / "model.safetensors")
    save_potential(crystal("ace").calc.potential, model, {})
    done = subprocess.run(
        [sys.executable, "-c", LOADED_ALONE, model, str(PATIENCE)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def _exp_sum(x: torch.Tensor, expected: float) -> None:
    os._exit(0 if torch.exp(x).sum().item() == pytest.approx(expected) else 1)


def test_a_thread_that_waits_lets_others_run() -> None:
    """The second thread begins only after the first has given up its processor."""
    counter = np.zeros(2, np.int64)
    waits = _compiled_wait()
    first = threading.Thread(target=waits, args=(counter, 2))
    first.start()
    while counter[1] == 0:
        first.join(1e-3)
    assert first.is_alive()
    waits(counter, 2)
    first.join(PATIENCE)
    assert not first.is_alive()


def _compiled_wait():  # type: ignore[no-untyped-def]
    from mlpot.kernels.compiler import numba
    from mlpot.kernels.simd import wait_for_all

    @numba.njit(nogil=True)
    def wait(counter, n_threads):  # type: ignore[no-untyped-def]
        wait_for_all(counter, n_threads)

    return wait


def test_threads_are_as_many_as_the_cgroup_gives_processors(tmp_path: Path) -> None:
    def with_files(name: str, **files: str) -> int:
        for path, content in files.items():
            place = tmp_path / name / path.replace("__", "/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content)
        return threads.quota(tmp_path / name)

    most = threads.MOST_THREADS
    proc, two = "proc__self__cgroup", "0::/a/b\n"
    assert with_files("none") == most
    assert with_files("v2", **{proc: two, "sys__fs__cgroup__a__b__cpu.max": "max 100000\n"}) == most
    assert with_files("v2 own", **{proc: two, "sys__fs__cgroup__a__b__cpu.max": "100000 100000\n"}) == 1
    assert with_files("v2 above", **{proc: two, "sys__fs__cgroup__a__cpu.max": "50000 100000\n"}) == 1
    one = "5:memory:/x\n3:cpu,cpuacct:/x\n"
    folder = "sys__fs__cgroup__cpu,cpuacct__x__cpu.cfs_"
    assert with_files("v1", **{proc: one, f"{folder}quota_us": "20000", f"{folder}period_us": "100000"}) == 1
    assert with_files("v1 none", **{proc: one, f"{folder}quota_us": "-1", f"{folder}period_us": "100000"}) == most


def test_threads_are_as_many_as_the_affinity_has_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    torch.set_num_threads(2)
    try:
        assert threads.processors() == 1
        assert len(threads.shares(np.array([0, 10**9, 2 * 10**9]), 128)) == 1
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("before", [False, True])
def test_subnormal_numbers_vanish_in_loops_and_nowhere_else(before: bool) -> None:
    def half_of_the_least() -> float:
        return sys.float_info.min * float("0.5")

    torch.set_flush_denormal(before)
    try:
        outside = half_of_the_least()
        assert (outside == 0) == before
        assert loops.subnormals.flushed(half_of_the_least) == 0
        assert half_of_the_least() == outside
        with pytest.raises(ZeroDivisionError):
            loops.subnormals.flushed(lambda: 1 / 0)
        assert half_of_the_least() == outside
        crystal("egnn").get_forces()
        assert half_of_the_least() == outside
    finally:
        torch.set_flush_denormal(False)


def test_subnormal_numbers_vanish_on_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[int, float] = {}

    def loop(begin: int, end: int) -> None:
        found[begin] = sys.float_info.min * float("0.5")

    threads.run(loop, [(0, 1), (1, 2)])
    assert found == {0: 0.0, 1: 0.0}
