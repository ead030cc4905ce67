"""Results depend on the structure only, not on earlier calls, and a call has no side effects."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from mlpot.certificate.backends import on_gpu
from mlpot.certificate.bars import HISTORY, REPEATED_ON_GPU
from mlpot.certificate.check import Check, Measurement, Structures, verdict, worst
from mlpot.certificate.structures import shaken
from mlpot.certificate.tested import Answer, CalculatorUnderTest, answer

N_REPEATS = 100
N_STEPS = 24  # of 0.05 Å each: in all many times any skin


def determinism(tested: CalculatorUnderTest, structures: Structures, n_repeats: int = N_REPEATS) -> Check:
    """P28: repeated calls give the same results, on a CPU to the last bit."""
    figures, gpu = [], on_gpu(tested.potential)
    for name, atoms in structures.items():
        first, other = tested(atoms), shaken(atoms, seed=9)
        bars = (REPEATED_ON_GPU[0] * len(atoms), REPEATED_ON_GPU[1]) if gpu else (0.0, 0.0)
        for k in range(n_repeats):
            if k % 10 == 0:
                tested(other)
            tested.calculator.reset()
            again = tested(atoms)
            figures.append(Measurement("energy, eV", name, worst(again.energy, first.energy), bars[0]))
            figures.append(Measurement("forces, eV/Å", name, worst(again.forces, first.forces), bars[1]))
    return verdict("P28", "determinism", figures, f"{n_repeats} repeats")


def side_effects(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P29: loading and a call, failed or not, change neither the structure nor any state of the process."""
    figures = []
    if tested.load is not None:
        before = _surroundings()
        tested.load()
        figures.append(_changes_since(before, "loading"))
    for name, atoms in structures.items():
        before, asked = _surroundings(), atoms.copy()
        asked.positions[0] -= asked.cell.array[0]  # outside the cell; some codes wrap positions back
        asked.info["mine"] = 1
        asked.set_array("mine", np.arange(len(atoms)))
        kept = asked.copy()
        asked.calc = tested.make()
        out = answer(asked)
        mine = np.array(asked.get_forces())
        asked.get_forces()[:] = np.nan  # the caller may change its copy
        figures.append(Measurement("forces changed through a result", name, worst(asked.get_forces(), mine), 0.0))
        _ask_in_vain(tested, atoms)
        figures.append(_changes_since(before, name, _changed_arrays(asked, kept)))
        assert len(out.forces) == len(atoms)
    return verdict("P29", "no side effects", figures)


def _changes_since(before: dict[str, object], where: str, more: Sequence[str] = ()) -> Measurement:
    after = _surroundings()
    changed = [*(what for what in before if before[what] != after[what]), *more]
    return Measurement(f"changed: {', '.join(changed) or 'nothing'}", where, float(len(changed)), 0.0)


def _changed_arrays(asked: Atoms, kept: Atoms) -> list[str]:
    same = asked.info == kept.info and set(asked.arrays) == set(kept.arrays)
    changed = [] if same else ["atoms.info or arrays"]
    changed += [key for key in kept.arrays if not np.array_equal(asked.arrays[key], kept.arrays[key])]
    return changed + ([] if np.array_equal(asked.cell.array, kept.cell.array) else ["cell"])


def memory(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P31: after any change in place and along any path, results are those of a new calculator."""
    figures: list[Measurement] = []
    for name, start in structures.items():
        atoms, bar = start.copy(), HISTORY[tested.single]
        atoms.set_constraint()
        atoms.calc = tested.make()
        for what, change in [*_changes(tested, atoms), *_walk(atoms)]:
            change(atoms)
            out, fresh = answer(atoms), tested(atoms, tested.make())
            where, relative = f"{name}, {what}", max(1.0, worst(fresh.forces))
            figures += _departures(out, fresh, where, bar * len(atoms), bar * relative)
    return verdict("P31", "no stale memory", figures)


def _departures(
    out: Answer, fresh: Answer, where: str, bar_energy: float, bar_forces: float
) -> Iterator[Measurement]:
    yield Measurement("energy, eV", where, worst(out.energy, fresh.energy), bar_energy)
    yield Measurement("forces, eV/Å", where, worst(out.forces, fresh.forces), bar_forces)
    if not np.isnan(fresh.stress).all():
        yield Measurement("stress, eV/Å³", where, worst(out.stress, fresh.stress), bar_forces)


Change = tuple[str, Callable[[Atoms], object]]


def _changes(tested: CalculatorUnderTest, atoms: Atoms) -> Iterator[Change]:
    """Changes in place, by name: of everything that results may depend on, and of what they must not depend on."""
    others = [z for z in tested.elements if z != atoms.numbers[0]]
    yield "as it was", lambda a: None
    yield "one position", lambda a: a.positions.__setitem__((0, 1), a.positions[0, 1] + 0.05)
    yield "one position a little", lambda a: a.positions.__setitem__((0, 1), a.positions[0, 1] + 1e-8)
    if others:
        yield "numbers", lambda a: a.numbers.__setitem__(0, others[0])
    if atoms.pbc.all():
        yield "cell", lambda a: a.set_cell(a.cell.array * 1.02)
        yield "cell and positions", lambda a: a.set_cell(a.cell.array * 0.96, scale_atoms=True)
        yield "pbc", lambda a: a.set_pbc((True, True, False))
        yield "pbc again", lambda a: a.set_pbc(True)
        yield "wrapped", lambda a: a.wrap()
    yield "info", lambda a: a.info.__setitem__("comment", "other")
    yield "momenta", lambda a: a.set_momenta(np.ones((len(a), 3)))


def _walk(atoms: Atoms) -> Iterator[Change]:
    """Steps each too small to trigger a rebuild of the neighbor list, then one large displacement."""
    rng = np.random.default_rng(8)
    aim = rng.normal(size=(len(atoms), 3))
    aim *= 0.05 / np.linalg.norm(aim, axis=1).max()
    for k in range(N_STEPS):
        sign = 1 if k < N_STEPS // 2 else -1  # out and back, so that atoms do not collide
        yield f"step {k + 1}", partial(_displace, by=sign * aim)
    if len(atoms) > 1 and not atoms.pbc.any():
        yield "an atom left", lambda a: a.positions.__setitem__(-1, a.positions[-1] + 30.0)
        yield "it came back", lambda a: a.positions.__setitem__(-1, a.positions[-1] - 30.0)


def _displace(atoms: Atoms, by: NDArray[np.float64]) -> None:
    atoms.positions += by


def _ask_in_vain(tested: CalculatorUnderTest, atoms: Atoms) -> None:
    """Call the calculator with a structure that it should refuse."""
    wrong = atoms.copy()
    wrong.positions[0] = np.nan
    wrong.calc = tested.make()
    try:
        wrong.get_potential_energy()
    except Exception:  # of any kind; the check looks at what the call changed
        return


def _surroundings() -> dict[str, object]:
    return {
        "default dtype": torch.get_default_dtype(),
        "number of threads": torch.get_num_threads(),
        "TF32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "gradient mode": torch.is_grad_enabled(),
        "warnings' filters": list(warnings.filters),
        "matrix precision": torch.get_float32_matmul_precision(),
        "import path": list(sys.path),
        "signal handlers": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
        "logging": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "random state": random.getstate(),
        "NumPy's random state": str(np.random.get_state()),  # noqa: NPY002  (what other packages draw from)
        "NumPy's error handling": np.geterr(),
        "torch's random state": torch.get_rng_state().tolist(),
    }
