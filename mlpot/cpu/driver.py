"""The walk over a list of stages: forward, back to the forces, and the gradient of a loss.

Only a `NeighborSum` and an `EdgeNetwork` read other atoms, and they serve a part of them at once. So between two
of them a block of atoms goes through all stages while its rows are in the cache, and threads meet before each
alone. The parts do not depend on the number of threads, and so no sum does.
"""

from __future__ import annotations

from mlpot.cpu import edge_network, edge_tiles, linear, neighbor_sum, outer, pointwise, products
from mlpot.cpu.plan import (
    ACTIVATION,
    EDGE_COLLECT,
    EDGE_NETWORK,
    EMBEDDING,
    KIND,
    LINEAR,
    NEIGHBOR_SUM,
    PRODUCTS,
    READOUT,
    STATIC,
)
from mlpot.kernels.simd import bare, compiled, wait_for_all


@bare
def _value(begin, end, s, plan, room):
    kind = s[KIND]
    if kind == LINEAR:
        linear.value(begin, end, s, plan, room)
    elif kind == PRODUCTS:
        products.value(begin, end, s, plan, room)
    elif kind == ACTIVATION:
        pointwise.value(begin, end, s, plan, room)
    elif kind == EMBEDDING:
        pointwise.embed(begin, end, s, plan, room)
    elif kind == READOUT:
        pointwise.read(begin, end, s, plan, room)
    elif kind != EDGE_COLLECT:
        pointwise.copy(begin, end, s, room.values, room)


@bare
def _adjoint(begin, end, s, plan, room):
    kind = s[KIND]
    if s[STATIC] or kind == EDGE_NETWORK:
        return
    if kind == LINEAR:
        linear.adjoint(begin, end, s, plan, room, room.adjoints)
    elif kind == PRODUCTS:
        products.adjoint(begin, end, s, plan, room)
    elif kind == ACTIVATION:
        pointwise.adjoint(begin, end, s, plan, room)
    elif kind == READOUT:
        pointwise.unread(begin, end, s, plan, room, room.seeds, room.adjoints)
    elif kind != EMBEDDING:
        pointwise.copy_back(begin, end, s, room.adjoints, room)


@bare
def _tangent(begin, end, s, plan, room):
    kind = s[KIND]
    if s[STATIC] or kind in (EMBEDDING, READOUT, EDGE_COLLECT):
        return
    if kind == LINEAR:
        linear.tangent(begin, end, s, plan, room)
    elif kind == PRODUCTS:
        products.tangent(begin, end, s, plan, room)
    elif kind == ACTIVATION:
        pointwise.tangent(begin, end, s, plan, room)
    else:
        pointwise.copy(begin, end, s, room.dots, room)


@bare
def _both_adjoints(begin, end, s, plan, room, w_bar):
    kind = s[KIND]
    if kind == EDGE_NETWORK:
        return
    if kind == LINEAR:
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


@bare
def _clear(array, begin, end, plan, n_atoms, segment, back, is_sum):
    """Zeros for some atoms in the arrays that a segment, or the sum that it begins with, is the first to touch."""
    base = 0
    for k in range(len(plan.rows)):
        row = plan.rows[k]
        if plan.first[k, back] == segment and plan.first[k, 2 + back] == is_sum:
            array[base * n_atoms + begin * row : base * n_atoms + end * row] = 0
        base += row


@bare
def _meet(counter, n_threads):
    if n_threads > 1:
        wait_for_all(counter, n_threads)


@compiled
def energies(first, last, n_threads, counter, parts, plan, room, near, around, answer):
    """b, energies, forces and virials of atoms and ∂E/∂r of all edges, for the parts first ≤ p < last."""
    room.b[parts[first] : parts[last]] = 0
    near.gradient[near.row_ptr[parts[first]] : near.row_ptr[parts[last]]] = 0
    for part in range(first, last):
        outer.find(parts[part], parts[part + 1], plan, around, room, near)
        if plan.edge_networks:
            edge_tiles.lay(parts[part], parts[part + 1], near)
        if around.cutoff > 0:
            outer.seed(parts[part], parts[part + 1], around, room, near, answer)
    for n in range(len(plan.segments)):
        if n > 0:
            _meet(counter, n_threads)
        for part in range(first, last):
            _forward(parts[part], parts[part + 1], n, first, plan, room, near)
    for n in range(len(plan.segments_back)):
        if n > 0:
            _meet(counter, n_threads)
        for part in range(first, last):
            _back(parts[part], parts[part + 1], n, first, plan, room, near)
    outer.to_vectors(parts[first], parts[last], plan, near)
    if around.cutoff > 0:
        outer.energies(parts[first], parts[last], around, room, answer)
        _meet(counter, n_threads)
        for part in range(first, last):
            outer.forces(parts[part], parts[part + 1], around, room, near, answer)


@bare
def _forward(begin, end, n, place, plan, room, near):
    """A segment of the way forward for the atoms of a part; edges work at a place that this thread has."""
    k, stop = plan.segments[n]
    _clear(room.values, begin, end, plan, room.n_atoms, n, 0, 1)
    if plan.steps[k, KIND] == NEIGHBOR_SUM:
        neighbor_sum.value(begin, end, plan.steps[k], plan, room, near)
        k += 1
    elif plan.steps[k, KIND] == EDGE_NETWORK:
        edge_network.value(begin, end, place, plan.steps[k], plan, room, near)
        k += 1
    for block in range(begin, end, plan.block):
        _clear(room.values, block, min(block + plan.block, end), plan, room.n_atoms, n, 0, 0)
        for step in range(k, stop):
            _value(block, min(block + plan.block, end), plan.steps[step], plan, room)


@bare
def _back(begin, end, n, place, plan, room, near):
    """A segment of the way back to the forces."""
    k, stop = plan.segments_back[n]
    _clear(room.adjoints, begin, end, plan, room.n_atoms, n, 1, 1)
    if plan.steps[k, KIND] == NEIGHBOR_SUM:
        neighbor_sum.adjoint(begin, end, plan.steps[k], plan, room, near)
        k -= 1
    elif plan.steps[k, KIND] == EDGE_COLLECT:
        edge_network.collect(begin, end, plan.steps[k], plan, room, near, room.adjoints, not plan.steps[k, STATIC])
        k -= 1
    for block in range(begin, end, plan.block):
        _clear(room.adjoints, block, min(block + plan.block, end), plan, room.n_atoms, n, 1, 0)
        for step in range(k, stop, -1):
            _adjoint(block, min(block + plan.block, end), plan.steps[step], plan, room)
    if stop + 1 < len(plan.steps) and plan.steps[stop + 1, KIND] == EDGE_NETWORK:
        edge_network.adjoint(begin, end, place, plan.steps[stop + 1], plan, room, near)


@compiled
def totals(batch, energy, virial, energies, virials):
    """Energies and virials of the graphs from those of their atoms."""
    energies[:] = 0
    virials[:] = 0
    for i in range(len(batch)):
        energies[batch[i]] += energy[i]
        for a in range(3):
            for b in range(3):
                virials[batch[i], a, b] += virial[i, a, b]


@compiled
def loss_gradient(first, last, n_threads, counter, groups, parts, plan, room, near, forces, virials, w_bar):
    """The tangents, and the adjoints of the loss, for groups of parts: first ≤ g < last.

    w_bar (n_groups, n_weights) but for the matrices of `Linear`. Without rows in it the tangents alone, of a
    motion of the atoms by −forces.
    """
    begin, end = groups[first], groups[last]
    outer.move(parts[begin], parts[end], forces, virials, plan, near)
    if plan.edge_networks:
        for part in range(begin, end):
            edge_tiles.move(parts[part], forces, virials, near)
    for n in range(len(plan.segments)):
        if n > 0:
            _meet(counter, n_threads)
        for part in range(begin, end):
            _tangents(parts[part], parts[part + 1], n, begin, plan, room, near)
    if len(w_bar) == 0:
        return
    for group in range(first, last):
        w_bar[group] = 0
    for n in range(len(plan.segments_back)):
        if n > 0:
            _meet(counter, n_threads)
        for group in range(first, last):
            for part in range(groups[group], groups[group + 1]):
                _gradients(parts[part], parts[part + 1], n, begin, plan, room, near, w_bar[group])


@bare
def _tangents(begin, end, n, place, plan, room, near):
    """A segment of the way forward of the tangents."""
    k, stop = plan.segments[n]
    _clear(room.dots, begin, end, plan, room.n_atoms, n, 0, 1)
    if plan.steps[k, KIND] == NEIGHBOR_SUM:
        neighbor_sum.tangent(begin, end, plan.steps[k], plan, room, near)
        k += 1
    elif plan.steps[k, KIND] == EDGE_NETWORK:
        edge_network.tangent(begin, end, place, plan.steps[k], plan, room, near)
        k += 1
    for block in range(begin, end, plan.block):
        _clear(room.dots, block, min(block + plan.block, end), plan, room.n_atoms, n, 0, 0)
        for step in range(k, stop):
            _tangent(block, min(block + plan.block, end), plan.steps[step], plan, room)


@bare
def _gradients(begin, end, n, place, plan, room, near, w_bar):
    """A segment of the way back of the loss."""
    k, stop = plan.segments_back[n]
    _clear(room.backs, begin, end, plan, room.n_atoms, n, 1, 1)
    if plan.steps[k, KIND] == NEIGHBOR_SUM:
        neighbor_sum.both_adjoints(begin, end, plan.steps[k], plan, room, near, w_bar)
        k -= 1
    elif plan.steps[k, KIND] == EDGE_COLLECT:
        edge_network.collect(begin, end, plan.steps[k], plan, room, near, room.backs, True)
        k -= 1
    for block in range(begin, end, plan.block):
        _clear(room.backs, block, min(block + plan.block, end), plan, room.n_atoms, n, 1, 0)
        for step in range(k, stop, -1):
            _both_adjoints(block, min(block + plan.block, end), plan.steps[step], plan, room, w_bar)
    if stop + 1 < len(plan.steps) and plan.steps[stop + 1, KIND] == EDGE_NETWORK:
        edge_network.both_adjoints(begin, end, place, plan.steps[stop + 1], plan, room, near, w_bar)
