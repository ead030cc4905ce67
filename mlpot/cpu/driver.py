"""The walk over a list of stages: forward, back to the forces, and the gradient of a loss.

Only a `NeighborSum` reads other atoms. So between two of them a block of atoms goes through all stages while its
rows are in the cache, and threads meet before each of them alone. Atoms are shared by parts that do not depend on
the number of threads, and so are all sums.
"""

from __future__ import annotations

from mlpot.cpu import linear, neighbor_sum, outer, pointwise, products
from mlpot.cpu.plan import ACTIVATION, EMBEDDING, KIND, LINEAR, NEIGHBOR_SUM, PRODUCTS, READOUT, STATIC
from mlpot.kernels.simd import compiled, inner, wait_for_all

BLOCK = 16  # atoms that go through the stages together


@inner
def _value(begin, end, s, plan, room):  # type: ignore[no-untyped-def]
    kind = s[KIND]
    if kind == NEIGHBOR_SUM:
        neighbor_sum.value(begin, end, s, plan, room)
    elif kind == LINEAR:
        linear.value(begin, end, s, plan, room)
    elif kind == PRODUCTS:
        products.value(begin, end, s, plan, room)
    elif kind == ACTIVATION:
        pointwise.value(begin, end, s, plan, room)
    elif kind == EMBEDDING:
        pointwise.embed(begin, end, s, plan, room)
    elif kind == READOUT:
        pointwise.read(begin, end, s, plan, room)
    else:
        pointwise.copy(begin, end, s, room.values, room)


@inner
def _adjoint(begin, end, s, plan, room):  # type: ignore[no-untyped-def]
    kind = s[KIND]
    if kind == NEIGHBOR_SUM:
        neighbor_sum.adjoint(begin, end, s, plan, room)
    elif s[STATIC]:
        return
    elif kind == LINEAR:
        linear.adjoint(begin, end, s, plan, room, room.adjoints)
    elif kind == PRODUCTS:
        products.adjoint(begin, end, s, plan, room)
    elif kind == ACTIVATION:
        pointwise.adjoint(begin, end, s, plan, room)
    elif kind == READOUT:
        pointwise.unread(begin, end, s, plan, room, room.seeds, room.adjoints)
    elif kind != EMBEDDING:
        pointwise.copy_back(begin, end, s, room.adjoints, room)


@inner
def _tangent(begin, end, s, plan, room):  # type: ignore[no-untyped-def]
    kind = s[KIND]
    if kind == NEIGHBOR_SUM:
        neighbor_sum.tangent(begin, end, s, plan, room)
    elif s[STATIC] or kind in (EMBEDDING, READOUT):
        return
    elif kind == LINEAR:
        linear.tangent(begin, end, s, plan, room)
    elif kind == PRODUCTS:
        products.tangent(begin, end, s, plan, room)
    elif kind == ACTIVATION:
        pointwise.tangent(begin, end, s, plan, room)
    else:
        pointwise.copy(begin, end, s, room.dots, room)


@inner
def _both_adjoints(begin, end, s, plan, room, w_bar):  # type: ignore[no-untyped-def]
    kind = s[KIND]
    if kind == NEIGHBOR_SUM:
        neighbor_sum.both_adjoints(begin, end, s, plan, room, w_bar)
    elif kind == LINEAR:
        linear.adjoint(begin, end, s, plan, room, room.backs)
        linear.bias_back(begin, end, s, room, w_bar)
    elif kind == PRODUCTS:
        products.both_adjoints(begin, end, s, plan, room, w_bar)
    elif kind == ACTIVATION:
        pointwise.both_adjoints(begin, end, s, plan, room)
    elif kind == EMBEDDING:
        pointwise.embed_back(begin, end, s, plan, room, w_bar)
    elif kind == READOUT:
        pointwise.unread(begin, end, s, plan, room, room.b_bar, room.backs)
        pointwise.unread_weights(begin, end, s, plan, room, w_bar)
    else:
        pointwise.copy_back(begin, end, s, room.backs, room)


@inner
def _clear(array, begin, end, plan, n_atoms, segment, back):  # type: ignore[no-untyped-def]
    """Zeros for some atoms in the arrays of an arena that a segment is the first to touch."""
    base = 0
    for k in range(len(plan.rows)):
        row = plan.rows[k]
        if plan.first[k, back] == segment:
            array[base * n_atoms + begin * row : base * n_atoms + end * row] = 0
        base += row


@inner
def _meet(counter, n_threads):  # type: ignore[no-untyped-def]
    if n_threads > 1:
        wait_for_all(counter, n_threads)


@compiled
def energies(first, last, n_threads, counter, parts, plan, room, around, answer):  # type: ignore[no-untyped-def]
    """b, energies, forces and virials of atoms and ∂E/∂r of all edges, for the parts first ≤ p < last."""
    begin, end = parts[first], parts[last]
    room.b[begin:end] = 0
    room.gradient[room.row_ptr[begin] : room.row_ptr[end]] = 0
    outer.find(begin, end, plan, around, room)
    if around.cutoff > 0:
        outer.seed(begin, end, around, room, answer)
    for n in range(len(plan.segments)):
        if n > 0:
            _meet(counter, n_threads)
        for block in range(begin, end, BLOCK):
            _clear(room.values, block, min(block + BLOCK, end), plan, room.n_atoms, n, 0)
            for k in range(plan.segments[n, 0], plan.segments[n, 1]):
                _value(block, min(block + BLOCK, end), plan.steps[k], plan, room)
    for n in range(len(plan.segments_back)):
        if n > 0:
            _meet(counter, n_threads)
        for block in range(begin, end, BLOCK):
            _clear(room.adjoints, block, min(block + BLOCK, end), plan, room.n_atoms, n, 1)
            for k in range(plan.segments_back[n, 0], plan.segments_back[n, 1], -1):
                _adjoint(block, min(block + BLOCK, end), plan.steps[k], plan, room)
    outer.to_vectors(begin, end, room)
    if around.cutoff > 0:
        outer.energies(begin, end, around, room, answer)
        _meet(counter, n_threads)
        outer.forces(begin, end, around, room, answer)


@compiled
def loss_gradient(first, last, n_threads, counter, parts, plan, room, forces, virials, w_bar):  # type: ignore[no-untyped-def]
    """The tangents, and the adjoints of the loss; w_bar (n_parts, n_weights) but for the matrices of `Linear`.

    Without rows in w_bar the tangents alone, of a motion of the atoms by −forces.
    """
    begin, end = parts[first], parts[last]
    outer.move(begin, end, forces, virials, room)
    for n in range(len(plan.segments)):
        if n > 0:
            _meet(counter, n_threads)
        for block in range(begin, end, BLOCK):
            _clear(room.dots, block, min(block + BLOCK, end), plan, room.n_atoms, n, 0)
            for k in range(plan.segments[n, 0], plan.segments[n, 1]):
                _tangent(block, min(block + BLOCK, end), plan.steps[k], plan, room)
    if len(w_bar) == 0:
        return
    for part in range(first, last):
        w_bar[part] = 0
    for n in range(len(plan.segments_back)):
        if n > 0:
            _meet(counter, n_threads)
        for part in range(first, last):
            for block in range(parts[part], parts[part + 1], BLOCK):
                stop = min(block + BLOCK, parts[part + 1])
                _clear(room.backs, block, stop, plan, room.n_atoms, n, 1)
                for k in range(plan.segments_back[n, 0], plan.segments_back[n, 1], -1):
                    _both_adjoints(block, stop, plan.steps[k], plan, room, w_bar[part])
