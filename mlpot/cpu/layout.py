"""From a list of stages to the numbers that the loops read (see `plan`), its weights in their order, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mlpot.cpu import plan as p
from mlpot.cpu.edge_functions import BASIS_NUMBERS
from mlpot.cpu.edge_tiles import n_work
from mlpot.cpu.packing import Combination, pack_matrices
from mlpot.cpu.pointwise import NUMBERS
from mlpot.cpu.products import tree
from mlpot.kernels.simd import BYTES, LINE
from mlpot.stages.edge_network import EdgeNetwork
from mlpot.stages.harmonics import degree_of
from mlpot.stages.linear import Linear
from mlpot.stages.neighbor_sum import NeighborSum, Term
from mlpot.stages.pointwise import Activation
from mlpot.stages.products import Products
from mlpot.stages.radial import PolynomialEnvelope
from mlpot.stages.readout import Embedding, Readout
from mlpot.stages.run import ENERGY, Program, Step
from mlpot.stages.spline_grid import SPLINES, SplineGrid

Pack = Callable[[Tensor], Tensor]

BLOCK = 48  # atoms that go through the stages together, and a third of them if their arrays are large
AHEAD, BEHIND = (p.NEIGHBOR_SUM, p.EDGE_NETWORK), (p.NEIGHBOR_SUM, p.EDGE_COLLECT)
"""What reads other atoms, forward and back: a segment begins with it."""
NARROW = 4096  # numbers of an atom in all arrays that are not


@dataclass
class Slot:
    """A weight of a stage within the flat array."""

    weight: int  # among those of the program
    place: int
    shape: tuple[int, ...]  # with padding
    pack: Pack  # to that shape
    unpack: Pack  # of a gradient of that shape
    sizes: tuple[int, int] = (0, 0)  # of matrices: padded, in and out
    back: int = -1  # the place of their transposes
    filled: bool = True  # whether matrices have rows of zeros, up to those sizes


@dataclass
class Layout:
    """The shape of a network: everything but its weights."""

    dtype: torch.dtype
    arrays: dict[str, tuple[int, int, int]]  # name -> base, components, padded channels
    steps: list[list[int]] = field(default_factory=list)
    touched: list[tuple[str | None, str]] = field(default_factory=list)  # arrays that each step reads and adds to
    lists: list[int] = field(default_factory=list)
    numbers: list[float] = field(default_factory=list)
    grids: list[SplineGrid] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    constants: list[tuple[int, Tensor]] = field(default_factory=list)  # places and rows that no weight changes
    n_weights: int = 0  # numbers of all, and of transposed matrices
    n_tape: int = 0  # numbers that all `EdgeNetwork`s keep of an edge
    n_bar: int = 0  # channels of the widest of them
    n_work: int = 0  # numbers that a tile of the largest takes
    cutoff: float = 0.0  # Å, of the longest table

    @property
    def panel(self) -> int:
        """Numbers of a panel of a matrix: two vectors."""
        return 2 * BYTES // self.dtype.itemsize

    @cached_property
    def n_arena(self) -> int:
        """Numbers of an atom in all arrays."""
        return sum(k * c for _, k, c in self.arrays.values())

    def padded(self, n: int) -> int:
        """In whole panels and lines."""
        whole = max(self.panel, LINE // self.dtype.itemsize)
        return -(-n // whole) * whole

    def slot(self, weight: int, shape: Sequence[int], pack: Pack, unpack: Pack) -> int:
        """A place for a weight; where it begins."""
        place = self.n_weights
        self.slots.append(Slot(weight, place, tuple(shape), pack, unpack))
        self.n_weights += self.padded(int(np.prod(shape)))
        return place

    def matrices(self, weight: int, shape: Sequence[int], *, filled: bool) -> tuple[int, int]:
        """A place for matrices (…, n_in, n_out) in panels, and for their transposes; where both begin.

        `filled` asks for rows of zeros up to a whole panel, in each.
        """
        n, n_in, n_out = int(np.prod(shape[:-2])), *shape[-2:]
        sizes, place = (self.padded(n_in), self.padded(n_out)), self.n_weights
        rows, rows_back = sizes if filled else (n_in, n_out)
        back = place + n * rows * sizes[1]

        def unpack(t: Tensor) -> Tensor:
            return t.transpose(1, 2).reshape(n, rows, sizes[1])[:, :n_in, :n_out].reshape(tuple(shape))

        packed = (n, sizes[1] // self.panel, rows, self.panel)
        self.slots.append(Slot(weight, place, packed, lambda t: t, unpack, sizes, back, filled))
        self.n_weights = back + n * rows_back * sizes[0]
        return place, back

    def pack(self, weights: Sequence[Tensor], flat: Tensor | None = None) -> np.ndarray:
        """All weights as the loops read them, in new memory or where others stood."""
        if flat is None:
            flat = torch.empty(self.n_weights + self.panel, dtype=self.dtype, device="cpu")
        for slot in self.slots:
            weight = weights[slot.weight].detach()
            if slot.back >= 0:
                there, back = flat[slot.place :], flat[slot.back :]
                pack_matrices(weight, slot.sizes, self.panel, there, back, filled=slot.filled)
                continue
            out = flat[slot.place : slot.place + int(np.prod(slot.shape))].view(slot.shape)
            out.copy_(slot.pack(weight))
        for place, rows in self.constants:
            flat[place : place + rows.numel()] = rows.flatten()
        return flat.numpy()

    def plan(self, weights: Sequence[Tensor], flat: Tensor | None = None) -> p.Plan:
        """With the weights of now."""
        return self._without_weights._replace(weights=self.pack(weights, flat))

    @cached_property
    def _without_weights(self) -> p.Plan:
        kind = torch.empty(0, dtype=self.dtype, device="cpu").numpy().dtype
        n = len(self.steps)
        kinds = [s[p.KIND] for s in self.steps]  # what reads other atoms is never the first
        sums, sums_back = ([k for k, kind in enumerate(kinds) if kind in both] for both in (AHEAD, BEHIND))
        forward = list(zip([0, *sums], [*sums, n], strict=True))
        tops = [n - 1, *(k for k in reversed(sums_back) if k < n - 1)]
        back = list(zip(tops, [*tops[1:], -1], strict=True))
        return p.Plan(
            steps=np.array(self.steps, np.int64),
            rows=np.array([k * c for _, k, c in self.arrays.values()], np.int64),
            first=np.array(self._first(forward, back), np.int64).reshape(-1, 6),
            segments=np.array(forward, np.int64),
            segments_back=np.array(back, np.int64),
            lists=np.array(self.lists or [0], np.int64),
            numbers=np.array(self.numbers or [0.0], kind),
            grids=np.array([(g.n_knots, g.degree + 1) for g in self.grids], np.int64).reshape(-1, 2),
            per_length=np.array([g.n_knots / g.cutoff for g in self.grids]),
            polynomials=np.array([_polynomials(g) for g in self.grids], kind).reshape(-1, 6, p.COEFFICIENTS),
            weights=np.empty(0, kind),
            cutoff=self.cutoff,
            block=BLOCK if self.n_arena <= NARROW else BLOCK // 3,
            harmonics=int(any(s[p.KIND] == p.NEIGHBOR_SUM and s[p.N_FACTORS] for s in self.steps)),
        )

    def ends_of(self, name: str) -> tuple[int, int]:
        """The first step that writes an array, and the last one that reads or writes it."""
        written = (k for k, (_, target) in enumerate(self.touched) if target == name)
        return next(written), max(k for k, both in enumerate(self.touched) if name in both)

    def _first(self, forward: list[tuple[int, int]], back: list[tuple[int, int]]) -> list[tuple[int, ...]]:
        """The rows of `Plan.first`."""
        out: list[tuple[int, ...]] = []
        kinds = [s[p.KIND] for s in self.steps]
        for name in self.arrays:
            written, last = self.ends_of(name)
            ahead = next(n for n, (start, stop) in enumerate(forward) if start <= written < stop)
            behind = next(n for n, (start, stop) in enumerate(back) if start >= last > stop)
            by_sum = int(kinds[written] in AHEAD), int(kinds[last] in BEHIND)
            source, _ = self.touched[last]
            fresh = self.steps[written][p.FRESH], self.steps[last][p.FRESH_BACK] if source == name else 0
            out.append((ahead, behind, *by_sum, *fresh))
        return out


def layout_of(program: Program, dtype: torch.dtype) -> Layout:
    """Everything but the weights."""
    out, base = Layout(dtype, {}), 0
    for name, shape in program.shapes.items():
        if name != ENERGY:
            row = shape.n_components, out.padded(shape.n_channels)
            out.arrays[name] = (base, *row)
            base += row[0] * row[1]
    static: dict[str, bool] = {}
    first_weight = 0
    for step in program.steps:
        is_static = step.source is None or static[step.source]
        moved = isinstance(step.stage, NeighborSum | EdgeNetwork)
        static[step.target] = static.get(step.target, True) and is_static and not moved
        numbers = _places(out, program, step)
        numbers[p.STATIC] = int(is_static)
        if step.stage is None:
            numbers[p.KIND] = p.COPY
        else:
            _ADD[type(step.stage)](out, numbers, step.stage, first_weight)
            first_weight += len(step.stage.weights)
        if numbers[p.KIND] == p.EDGE_NETWORK:
            out.steps.append([p.EDGE_COLLECT, *numbers[1:]])
            out.touched.append((step.source, str(step.source)))
        out.steps.append(numbers)
        out.touched.append((step.source, step.target))
    _mark_fresh(out)
    return out


def _mark_fresh(out: Layout) -> None:
    """Find the steps before which nothing must be cleared."""
    for name, (_, *row) in out.arrays.items():
        written, last = out.ends_of(name)
        out.steps[written][p.FRESH] = int(_writes_all(out, out.steps[written], row, back=False))
        if out.touched[last][0] == name and not out.steps[last][p.STATIC]:
            out.steps[last][p.FRESH_BACK] = int(_writes_all(out, out.steps[last], row, back=True))


def _writes_all(out: Layout, s: list[int], row: list[int], *, back: bool) -> bool:
    """Whether a step writes each number of the row of an atom once, of its target or of its source."""
    first, n, channels = (
        (s[p.READ], s[p.N_READ], s[p.CHANNELS]) if back else (s[p.WRITE], s[p.N_WRITTEN], s[p.OUT_CHANNELS])
    )
    if (first, n, channels) != (0, *row):
        return False
    if s[p.KIND] != p.LINEAR:
        return s[p.KIND] in ((p.ACTIVATION, p.COPY, p.READOUT) if back else (p.ACTIVATION, p.COPY, p.EMBEDDING))
    at, places = s[p.LISTS] + 1, []
    for _ in range(out.lists[at - 1]):
        n_blocks = out.lists[at + 1]
        places += out.lists[at + 2 + (not back) : at + 2 + 2 * n_blocks : 2]
        at += 2 + 2 * n_blocks
    return sorted(places) == list(range(0, n * channels, channels))


def _places(out: Layout, program: Program, step: Step) -> list[int]:
    row = [0] * p.N_INTEGERS
    read, write = program.windows(step)
    row[p.PANEL] = out.panel
    row[p.N_READ], row[p.N_WRITTEN] = read.stop - read.start, write.stop - write.start
    if step.source is not None:
        base, k, c = out.arrays[step.source]
        row[p.SOURCE], row[p.SOURCE_ROW], row[p.READ], row[p.CHANNELS] = base, k * c, read.start * c, c
    if step.target != ENERGY:
        base, k, c = out.arrays[step.target]
        row[p.TARGET], row[p.TARGET_ROW], row[p.WRITE], row[p.OUT_CHANNELS] = base, k * c, write.start * c, c
    return row


def _wide(out: Layout, n: int) -> tuple[Pack, Pack, int]:
    """How the last axis of n numbers is padded, and cropped."""
    width = out.padded(n)
    return lambda t: _filled(t, width), lambda t: t[..., :n], width


def _filled(t: Tensor, width: int) -> Tensor:
    """With zeros up to so many numbers in the last axis."""
    n = t.shape[-1]
    return t if n == width else functional.pad(t, (0, width - n))


def _embedding(out: Layout, row: list[int], stage: Embedding, w: int) -> None:
    pack, unpack, width = _wide(out, stage.weight.shape[2])
    row[p.KIND] = p.EMBEDDING
    row[p.WEIGHTS] = out.slot(w, (*stage.weight.shape[:2], width), pack, unpack)


def _linear(out: Layout, row: list[int], stage: Linear, w: int) -> None:
    n_elements, n_matrices, n_in, n_out = stage.weight.shape
    row[p.KIND], row[p.N_IN], row[p.N_OUT], row[p.N_ROWS] = p.LINEAR, n_in, n_out, n_matrices
    row[p.BY_ELEMENT] = n_elements if n_elements > 1 else 0
    row[p.WEIGHTS], row[p.BACK] = out.matrices(w, stage.weight.shape, filled=False)
    row[p.BIAS] = -1
    if stage.bias is not None:
        pack, unpack, width = _wide(out, n_out)
        row[p.BIAS] = out.slot(w + 1, (*stage.bias.shape[:2], width), pack, unpack)
        row[p.BIAS_BY_ELEMENT] = int(len(stage.bias) > 1)
    row[p.LISTS] = len(out.lists)
    numbers = sorted({b.matrix for b in stage.blocks})
    out.lists.append(len(numbers))
    for number in numbers:
        own = [b for b in stage.blocks if b.matrix == number]
        out.lists += [number, len(own)]
        for b in own:
            out.lists += [b.source * row[p.CHANNELS], b.target * row[p.OUT_CHANNELS]]


def _products(out: Layout, row: list[int], stage: Products, w: int) -> None:
    width = row[p.CHANNELS]
    numbers, kappa = tree(stage, width)
    row[p.KIND], row[p.LISTS], row[p.N_ROWS] = p.PRODUCTS, len(out.lists), len(kappa)
    out.lists += numbers
    if stage.weight is None:
        row[p.WEIGHTS] = out.n_weights
        out.constants.append((out.n_weights, kappa.expand(-1, width).to(out.dtype)))
        out.n_weights += len(kappa) * width
        return
    n_elements, _, n = stage.weight.shape
    row[p.BY_ELEMENT] = n_elements if n_elements > 1 else 0
    nodes = Combination(kappa, out.dtype)
    row[p.WEIGHTS] = out.slot(
        w, (n_elements, len(kappa), width), lambda t: nodes.forth(t, width), lambda t: nodes.back(t, n)
    )


def _activation(out: Layout, row: list[int], stage: Activation, w: int) -> None:
    row[p.KIND], row[p.FUNCTION], row[p.KAPPA] = p.ACTIVATION, NUMBERS[stage.function], len(out.numbers)
    out.numbers.append(stage.factor)


def _readout(out: Layout, row: list[int], stage: Readout, w: int) -> None:
    pack, unpack, width = _wide(out, stage.weight.shape[1])
    row[p.KIND], row[p.BIAS] = p.READOUT, -1
    row[p.WEIGHTS] = out.slot(w, (len(stage.weight), width), pack, unpack)
    row[p.BY_ELEMENT] = len(stage.weight) if len(stage.weight) > 1 else 0
    if stage.bias is not None:
        row[p.BIAS] = out.slot(w + 1, stage.bias.shape, lambda t: t, lambda t: t)
        row[p.BIAS_BY_ELEMENT] = int(len(stage.bias) > 1)


def _neighbor_sum(out: Layout, row: list[int], stage: NeighborSum, w: int) -> None:
    grid, (n_rows, n_paths, n) = stage.grid, stage.table.shape
    pack, unpack, width = _wide(out, n)
    if grid not in out.grids:
        out.grids.append(grid)
    row[p.KIND], row[p.STRIDE], row[p.GRID] = p.NEIGHBOR_SUM, SPLINES[grid.degree].stride, out.grids.index(grid)
    row[p.N_COEFFICIENTS], row[p.N_ROWS] = grid.degree + 1, n_paths * width
    row[p.WEIGHTS] = out.slot(w, (n_rows, n_paths, width), pack, unpack)
    out.cutoff = max(out.cutoff, grid.cutoff)
    groups: dict[tuple[int, int, int], list[Term]] = {}
    for t in stage.terms:
        groups.setdefault((t.path, t.source, (-1) ** degree_of(t.harmonic)), []).append(t)
    factors = sorted({(t.harmonic, t.value) for own in groups.values() if not _is_plain(own) for t in own})
    row[p.KAPPA], row[p.N_FACTORS], row[p.LISTS] = len(out.numbers), len(factors), len(out.lists)
    out.numbers += [value for _, value in factors]
    out.lists += [b for b, _ in factors]
    row[p.FIRST_TERM] = len(out.lists)
    place = {factor: u for u, factor in enumerate(factors)}
    out.lists.append(len(groups))
    row[p.IS_PLAIN] = int(n_paths == len(groups) == 1 and not factors)
    for (path, source, sign), own in sorted(groups.items()):
        out.lists += [path, source * width, 0 if _is_plain(own) else sign, len(own)]
        for t in own:
            out.lists += [place.get((t.harmonic, t.value), 0), t.target]


def _is_plain(terms: list[Term]) -> bool:
    """Whether a group of terms is a single one without a factor."""
    return len(terms) == 1 and terms[0].harmonic == 0 and terms[0].value == 1


def _edge_network(out: Layout, row: list[int], stage: EdgeNetwork, w: int) -> None:
    n_radial, n = stage.from_radial.shape
    parity = sum(s[p.KIND] == p.EDGE_NETWORK for s in out.steps) % 2
    parts = [part is not None for part in (stage.second, stage.gate, stage.move)]
    deep, _, moves = parts
    exponent = stage.envelope.exponent if isinstance(stage.envelope, PolynomialEnvelope) else 0
    width, kind = row[p.CHANNELS], BASIS_NUMBERS[type(stage.basis)]
    row[p.KIND], row[p.LISTS], row[p.KAPPA] = p.EDGE_NETWORK, len(out.lists), len(out.numbers)
    places = [_row_slot(out, n_radial, w + 1), *out.matrices(w, (n_radial, n), filled=True)]
    w += 2
    for there, weights in zip(parts, ("mr", "rb", "mrr"), strict=True):
        for letter in weights:
            if letter == "m":
                places += out.matrices(w, (n, n), filled=True) if there else (0, 0)
            else:
                places.append(_row_slot(out, n if letter == "r" else 1, w) if there else 0)
            w += int(there)
    flags = [int(flag) for flag in (*parts, stage.softening is not None)]
    out.lists += [NUMBERS[stage.function], *flags, kind, exponent, n_radial, out.padded(n_radial), *places]
    out.lists += [parity, out.n_tape, width, out.panel]
    out.numbers += [stage.factor, stage.envelope.cutoff, *stage.basis.constants, stage.softening or 0.0]
    out.n_tape += (1 + deep + moves) * width
    out.n_work = max(out.n_work, n_work(width, out.padded(n_radial)))
    out.n_bar, out.cutoff = max(out.n_bar, width), max(out.cutoff, stage.envelope.cutoff)


def _row_slot(out: Layout, n: int, w: int) -> int:
    pack, unpack, width = _wide(out, n)
    return out.slot(w, (width,), pack, unpack)


def _polynomials(grid: SplineGrid) -> np.ndarray:
    """(6, COEFFICIENTS), by power of t: coefficients of rows for the value, then for its slope by the distance."""
    spline, out = SPLINES[grid.degree], np.zeros((6, p.COEFFICIENTS))
    for order in (0, 1):
        rows = np.array(spline.derivative(order, grid.n_knots / grid.cutoff))
        out[: rows.shape[1], order * len(rows) : (order + 1) * len(rows)] = rows.T
    return out


_ADD: dict[type, Callable[[Layout, list[int], Any, int], None]] = {
    Embedding: _embedding,
    Linear: _linear,
    Products: _products,
    Activation: _activation,
    Readout: _readout,
    NeighborSum: _neighbor_sum,
    EdgeNetwork: _edge_network,
}
