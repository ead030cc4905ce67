"""A list of stages as numbers that compiled loops read: found once for all networks of one shape.

Every array at atoms stands in one arena: array k of atom n begins at base_k · n_atoms + n · row_k, with base_k the
sum of the rows before it. Channels are padded with zeros to whole panels. A step is a row of integers; lists of
terms are integers, and the weights of all stages stand in one array, in the order in which the loops read them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

from mlpot.kernels.simd import bare

Array = NDArray[Any]

# What the integers of a step are.
KIND, SOURCE, SOURCE_ROW, READ, TARGET, TARGET_ROW, WRITE = range(7)
"""Kind of the stage; base and row of the arrays, first number of a row that is read or added to."""
CHANNELS, OUT_CHANNELS = 7, 8
"""Numbers of a padded component that is read and that is written."""
N_READ, N_WRITTEN, WEIGHTS, LISTS, BY_ELEMENT, N_ROWS = range(9, 15)
"""Components; where weights and lists begin; whether there are weights for each element, and rows of each."""
BIAS, BIAS_BY_ELEMENT, BACK, N_IN, N_OUT, FUNCTION = range(15, 21)
"""Of `Linear`: where bias (or -1) and transposed matrices are, channels without padding. Of `Activation`: f."""
STRIDE, N_COEFFICIENTS, GRID, N_FACTORS, KAPPA, FIRST_TERM, IS_PLAIN = range(21, 28)
"""Of `NeighborSum`: see `neighbor_sum`; whether it is one plain group."""
STATIC, PANEL = 28, 29
"""Whether no edge moves what is read; numbers of a panel."""
FRESH, FRESH_BACK = 30, 31
"""Whether the step is the first to write the array of its target, or the adjoints of its source, and writes all of
it: then nothing is cleared before and nothing is added to."""
N_INTEGERS = 32

COEFFICIENTS = 16
"""Numbers of an edge for the rows that it reads: at most 6 of T and 6 of T′, and zeros up to a line."""

EMBEDDING, LINEAR, PRODUCTS, ACTIVATION, READOUT, NEIGHBOR_SUM, COPY, EDGE_NETWORK, EDGE_COLLECT = range(9)
"""An `EdgeNetwork` takes two steps: on the backward pass threads meet between them, see `edge_network`."""


class Plan(NamedTuple):
    """What the loops read that no structure changes."""

    steps: Array  # (n_steps, N_INTEGERS) int64
    rows: Array  # (n_arrays,) int64, numbers of an atom in each array
    # (n_arrays, 6) int64: the segment that first touches each array, forward and back, whether it does so by the
    # `NeighborSum` that it begins with, and whether a step writes all of it first: FRESH
    first: Array
    segments: Array  # (n_segments, 2) int64, steps between two meetings of threads: from, to
    segments_back: Array  # (n_segments, 2) int64, likewise downwards: from, to (not reached)
    lists: Array  # int64
    numbers: Array  # coupling coefficients and factors, of the type of the network
    grids: Array  # (n_grids, 2) int64, knots and coefficients of the splines of each grid
    per_length: Array  # (n_grids,) float64, knots per Å
    polynomials: Array  # (n_grids, 6, COEFFICIENTS), of t, by power: those of T, then those of T′
    weights: Array  # of the type of the network
    cutoff: float  # Å, of the longest table
    block: int  # atoms that go through the stages together
    harmonics: int  # whether any stage reads them


class Extent(NamedTuple):
    """Which part of the passes a call runs, see `driver`: both, or what lies between two exchanges."""

    begins: int  # whether it finds the edges
    forward: int  # the first segment, and the one behind the last
    forward_end: int
    # Halves of the segments back, from and to (not reached): 2 n is the sum that segment n begins with, 2 n + 1
    # the rest of it
    back: int
    back_end: int
    ends: int  # whether it adds up energies and forces
    own: int  # parts whose atoms are computed; atoms of those behind are ghosts


class Workspace(NamedTuple):
    """What one evaluation computes at atoms; arrays of the type of the network unless said."""

    n_atoms: int
    element: Array  # (n_atoms,) int64, for the network
    kind: Array  # (n_atoms,) int64, for the terms around it: `models.native.Elements`
    values: Array  # (arena,)
    adjoints: Array  # ∂E of each value
    dots: Array  # tangents; empty without training
    backs: Array  # adjoints of the loss; empty without training
    b: Array  # (n_atoms,) float64
    seeds: Array  # (n_atoms,) ∂E/∂b
    b_bar: Array  # (n_atoms,) of the loss


class Near(NamedTuple):
    """The list of edges, and the edges within the cutoff that each atom takes: see `outer.find`.

    Those of an atom fill up groups of `edge_writer.EDGES` with edges to itself that read nothing.
    """

    row_ptr: Array  # (n_atoms + 1,) int64
    listed: Array  # (n_listed,) int64, neighbors of the whole list
    reverse: Array  # (n_listed,) int64, in the list the edge that points back
    positions: Array  # (n_atoms, 3) float64, Å
    offset: Array  # (n_listed, 3) float64, shift · cell; empty if nothing is periodic
    ends: Array  # (n_atoms, 4) int64, where the edges to other parts begin and end, and those of pairs
    other: Array  # (n_edges,) int64, the neighbor
    original: Array  # (n_edges,) int64, the place of the edge in the list
    exact: Array  # (n_edges, 5) float64: d in Å, d as the network sees it, see `terms.core_repulsion`; u
    knots: Array  # (n_grids · n_edges,) int64
    coefficients: Array  # (n_grids · n_edges · COEFFICIENTS,), of T, then of T′
    harmonics: Array  # (n_edges, 16)
    by_distance: Array  # (n_edges,), ∂E/∂d
    by_harmonic: Array  # (n_edges, 16)
    # (n_listed, 3) float64, ∂E/∂r at the place in the list: of what the center gives to the neighbor, or of both
    # where the edge serves both, and then 0 at its reverse
    gradient: Array
    d_dot: Array  # (n_edges,), how the distance moves; empty without training
    harmonics_dot: Array  # (n_edges, 16), likewise
    # Of `EdgeNetwork`, which takes every edge from its center; without one all are empty. See `edge_tiles`.
    n_near: Array  # (n_atoms,) int64, edges of a part within the cutoff, at the place of its first atom
    center: Array  # (n_listed,) int64, of these, from the place row_ptr of that atom on
    edge: Array  # (n_listed,) int64, their places in the list
    separation: Array  # (n_listed, 4) float64: d as the network sees it, u
    separation_dot: Array  # (n_listed, 4) float64: how d and r move; empty without training
    tape: Array  # what is kept of each edge; empty if that is computed again
    tape_dot: Array  # tangents of that, likewise
    work: Array  # (n_parts, numbers) for a tile of edges
    edge_bars: Array  # (2, n_listed, channels of the widest) z̄ at the places in the list
    edge_moves: Array  # (2, n_listed, 3) float64, R̄, likewise


@bare
def source_of(n, s, workspace):
    """Where that begins in the arena which step s reads of atom n."""
    return s[SOURCE] * workspace.n_atoms + n * s[SOURCE_ROW] + s[READ]


@bare
def target_of(n, s, workspace):
    """Where that begins which step s adds to."""
    return s[TARGET] * workspace.n_atoms + n * s[TARGET_ROW] + s[WRITE]
