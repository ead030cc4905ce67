"""Compiled code beside the same networks in PyTorch: processor milliseconds of one thread, all in turn.

    python bench/native.py [--rounds 7] [--frames FRAMES.extxyz] [--only WORD]

Figures are the least of the rounds, which other work on the machine disturbs least. FRAMES are those of the
training step of ACE and its kind; without them five molecules of butane stand for them.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from ase import Atoms
from ase.build import molecule
from ase.io import read
from plain_egnn import PlainEGNN
from systems import batches, system

from mlpot.forces import predict
from mlpot.graph import AtomGraph, collate
from mlpot.neighbors import build_graph
from mlpot.potential import Potential

CUTOFF, ELEMENTS = 5.0, (1, 6, 8, 14)
WIDE = {"n_features": 128, "message_degree": 1}
Call = Callable[[], object]


def graph_of(frames: list[Atoms]) -> AtomGraph:
    """All frames in one graph."""
    return collate([build_graph(a.numbers, a.positions, a.cell.array, a.pbc, CUTOFF) for a in frames])


def potential_of(backbone: str, **arguments: object) -> Potential:
    """Without training."""
    return Potential(backbone, {"cutoff": CUTOFF, **arguments}, reference_energies=dict.fromkeys(ELEMENTS, 0.0))


def plain(potential: Potential) -> Potential:
    """The same EGNN as it is usually written."""
    out = copy.deepcopy(potential)
    out.backbone = PlainEGNN(out.backbone)  # type: ignore[arg-type]  # as in bench/workers
    return out


def use(potential: Potential, graph: AtomGraph) -> Call:
    """Energies and forces."""
    frozen = copy.deepcopy(potential).freeze()
    return lambda: predict(frozen, graph)


def step(potential: Potential, graph: AtomGraph, *, native: bool = True) -> Call:
    """Energies, forces, and the gradient of a loss on both."""
    own = copy.deepcopy(potential)
    weights = [p for p in own.parameters() if p.requires_grad]

    def run() -> None:
        out = predict(own, graph, training=True, native=native)
        (out.energy.square().mean() + out.forces.square().mean()).backward(inputs=weights)
        own.zero_grad()

    return run


def comparisons(frames: list[Atoms]) -> Iterator[tuple[str, list[Call]]]:
    """What is measured: compiled code, and perhaps PyTorch's."""
    egnn, silicon, ethanols = potential_of("egnn"), graph_of([system(1000)]), graph_of(batches()["32 ethanols"])
    yield "EGNN, 1000 atoms", [use(egnn, silicon), use(plain(egnn), silicon)]
    yield "EGNN, training step, 32 ethanols", [step(egnn, ethanols), step(egnn, ethanols, native=False)]
    for n in (9, 27, 216, 1000):
        yield f"SchNet, {n} atoms", [use(potential_of("schnet"), graph_of([system(n)]))]
        yield f"neighbor list, {n} atoms", [partial(graph_of, [system(n)])]
    yield "SchNet, training step, 32 ethanols", [step(potential_of("schnet"), ethanols)]
    own = graph_of(frames)
    tensors, attention = potential_of("nequip"), potential_of("se3_transformer")  # of equal channels and layers
    crystal = graph_of([system(216)])
    yield "NequIP; SE(3)-Transformer, 216 atoms", [use(tensors, crystal), use(attention, crystal)]
    yield f"NequIP; SE(3)-Transformer, step, {len(own.numbers)} atoms", [step(tensors, own), step(attention, own)]
    for backbone in ("ace", "painn", "mace"):
        yield f"{backbone}, training step, {len(own.numbers)} atoms", [step(potential_of(backbone), own)]
    yield "ace, 1000 atoms", [use(potential_of("ace"), silicon)]
    yield "mace 128x0e+128x1o, 216 atoms", [use(potential_of("mace", **WIDE), graph_of([system(216)]))]


def least(calls: list[Call], rounds: int) -> list[float]:
    """Processor milliseconds of each call, in turn."""
    found = [[0.0] * len(calls) for _ in range(rounds)]
    for call in calls:
        call()
    for one in found:
        for k, call in enumerate(calls):
            n, start = 0, time.process_time()
            while n == 0 or time.process_time() - start < 0.2:
                call()
                n += 1
            one[k] = 1e3 * (time.process_time() - start) / n
    return [min(times) for times in zip(*found, strict=True)]


def main() -> None:
    """Print a line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frames", help="a file that ASE reads")
    parser.add_argument("--only", default="", help="measure only what has this word in its name")
    given = parser.parse_args()
    torch.set_num_threads(1)
    butane = [molecule("trans-butane") for _ in range(5)]
    frames = read(given.frames, ":") if given.frames else butane
    print(f"{'':40}{'compiled, ms':>14}{'PyTorch':>10}{'ratio':>8}")
    for name, calls in comparisons(frames):
        if given.only in name:
            times = least(calls, given.rounds)
            rest = f"{times[1]:10.1f}{times[1] / times[0]:8.2f}" if len(times) > 1 else ""
            print(f"{name:40}{times[0]:14.3f}{rest}", flush=True)


if __name__ == "__main__":
    main()
