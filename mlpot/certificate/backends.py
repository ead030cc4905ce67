"""Every backend and precision gives the same results."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mlpot.calculator import MLPotCalculator
from mlpot.certificate.bars import BACKENDS, TYPES
from mlpot.certificate.check import Check, Measurement, NothingToCheckError, Structures, verdict, worst
from mlpot.certificate.tested import Answer, CalculatorUnderTest
from mlpot.forces import AtomicEnergies, predict
from mlpot.graph import Edges
from mlpot.neighbors import build_graph
from mlpot.potential import Potential

Backend = Callable[[Atoms], Answer]


class Compiled:
    """A potential whose energies are compiled, without the step that needs a C++ compiler."""

    def __init__(self, potential: Potential):
        self.potential, self.compiled = potential, torch.compile(potential, backend="aot_eager")

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.potential.dtype

    def __call__(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """Atomic energies (n_atoms,) eV."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler warns of its own code
            energies: Tensor = self.compiled(numbers, edges, vectors)
        return energies

    def reference_energies(self, numbers: Tensor) -> Tensor:
        """(n_atoms,) eV."""
        return self.potential.reference_energies(numbers)


def agreement(tested: CalculatorUnderTest, structures: Structures, compiled: bool = False) -> Check:
    """P30: both precisions, native calls, modules, devices and the compiler give the same results.

    Compilation is slow, so only the smallest structure is compiled.
    """
    if tested.potential is None:
        raise NothingToCheckError("not a potential of this package")
    backends, figures = dict(_backends(tested.potential)), list[Measurement]()
    for name, atoms in structures.items():
        out = tested(atoms)
        if tested.exact is not None:
            figures += _departures(out, tested.exact(atoms), f"{name}, float64", TYPES)
        for backend, answer in backends.items():
            figures += _departures(out, answer(atoms), f"{name}, {backend}", BACKENDS[tested.single])
    beside = [*(["float64"] if tested.exact is not None else []), *backends]
    if compiled and structures:
        name, atoms = min(structures.items(), key=lambda item: (len(item[1]) == 1, len(item[1])))
        torch.compiler.reset()
        other = _predicted(Compiled(tested.potential), tested.potential, atoms)
        figures += _departures(tested(atoms), other, f"{name}, torch.compile", BACKENDS[tested.single])
        beside.append("torch.compile")
    return verdict("P30", "equal however computed", figures, f"beside {', '.join(beside)}")


def _backends(potential: Potential) -> Iterator[tuple[str, Backend]]:
    plain = deepcopy(potential).train()  # the modules that training differentiates
    yield "modules", lambda atoms: _predicted(plain, potential, atoms, native=False)
    if torch.cuda.is_available():
        other = "cpu" if on_gpu(potential) else "cuda"
        elsewhere = CalculatorUnderTest(
            other, lambda: MLPotCalculator(potential, device=other, extrapolation_grade=None), potential.elements
        )
        yield other, elsewhere


def on_gpu(potential: Potential | None) -> bool:
    """Whether a potential computes on a CUDA device."""
    return potential is not None and next(potential.parameters()).is_cuda


def _predicted(potential: AtomicEnergies, of: Potential, atoms: Atoms, native: bool = True) -> Answer:
    graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, of.cutoff)
    out = predict(potential, graph.to(next(of.parameters()).device), native=native).to("cpu")
    return Answer(out.energy.item(), out.forces.numpy(), out.stress[0].numpy())


def _departures(out: Answer, other: Answer, where: str, bars: tuple[float, float, float]) -> Iterator[Measurement]:
    energy, absolute, relative = bars
    bar = absolute + relative * worst(other.forces)
    yield Measurement("energy, eV", where, worst(out.energy, other.energy), energy * len(out.forces))
    yield Measurement("forces, eV/Å", where, worst(out.forces, other.forces), bar)
    if not np.isnan(out.stress).all():
        yield Measurement("stress, eV/Å³", where, worst(out.stress, other.stress), min(bar, 1e-5))
