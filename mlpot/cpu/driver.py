"""The passes over a list of stages: forward, backward to the forces, and the gradient of a loss.

Only a `NeighborSum` and an `EdgeNetwork` read other atoms, and they serve a part of them at once. So between two
of them a block of atoms goes through all stages while its rows are in the cache, and threads meet before each
alone. The parts do not depend on the number of threads, and so no sum does.

Ghosts are atoms of which another process computes the features: here they have those of their element, and what is
sent between two calls, see `exchange`. `plan.Extent` says which part of the passes a call runs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from mlpot.cpu import edge_network, edge_tiles, linear, neighbor_sum, outer, pointwise, products
from mlpot.cpu.plan import (
    ACTIVATION,
    EDGE_COLLECT,
    EDGE_NETWORK,
    EMBEDDING,
    FRESH,
    FRESH_BACK,
    KIND,
    LINEAR,
    NEIGHBOR_SUM,
    PRODUCTS,
    READOUT,
    STATIC,
)
from mlpot.kernels.simd import bare, compiled, wait_for_all

Kinds = frozenset[int]
SUMS: Kinds = frozenset({NEIGHBOR_SUM, PRODUCTS})


def kinds_in(steps: list[list[int]]) -> Kinds:
    """Kinds of stages that loops for some steps know, of those that take long to compile: one of three sets."""
    own = frozenset(s[KIND] for s in steps)
    if EDGE_NETWORK not in own:
        return SUMS
    return SUMS | {EDGE_NETWORK} if own & SUMS else frozenset({EDGE_NETWORK})


@cache
def _value(kinds: Kinds) -> Any:
    """Forward through a stage that reads no other atom."""
    has_products = PRODUCTS in kinds

    @bare
    def value(begin, end, s, plan, workspace):
        kind = s[KIND]
        if kind == LINEAR:
            linear.value(begin, end, s, plan, workspace)
        elif has_products and kind == PRODUCTS:
            products.value(begin, end, s, plan, workspace)
        elif kind == ACTIVATION:
            pointwise.value(begin, end, s, plan, workspace)
        elif kind == EMBEDDING:
            pointwise.embed(begin, end, s, plan, workspace)
        elif kind == READOUT:
            pointwise.read(begin, end, s, plan, workspace)
        elif kind != EDGE_COLLECT:
            pointwise.copy(begin, end, s, workspace.values, workspace, s[FRESH])

    return value


@cache
def _adjoint(kinds: Kinds) -> Any:
    """Back to the forces."""
    has_products = PRODUCTS in kinds

    @bare
    def adjoint(begin, end, s, plan, workspace):
        kind = s[KIND]
        if s[STATIC] or kind == EDGE_NETWORK:
            return
        if kind == LINEAR:
            linear.adjoint(begin, end, s, plan, workspace, workspace.adjoints, s[FRESH_BACK])
        elif has_products and kind == PRODUCTS:
            products.adjoint(begin, end, s, plan, workspace)
        elif kind == ACTIVATION:
            pointwise.adjoint(begin, end, s, plan, workspace)
        elif kind == READOUT:
            pointwise.unread(begin, end, s, plan, workspace, workspace.seeds, workspace.adjoints, s[FRESH_BACK])
        elif kind != EMBEDDING:
            pointwise.copy_back(begin, end, s, workspace.adjoints, workspace, s[FRESH_BACK])

    return adjoint


@cache
def _tangent(kinds: Kinds) -> Any:
    """Forward, of tangents."""
    has_products = PRODUCTS in kinds

    @bare
    def tangent(begin, end, s, plan, workspace):
        kind = s[KIND]
        if s[STATIC] or kind in (EMBEDDING, READOUT, EDGE_COLLECT):
            return
        if kind == LINEAR:
            linear.tangent(begin, end, s, plan, workspace)
        elif has_products and kind == PRODUCTS:
            products.tangent(begin, end, s, plan, workspace)
        elif kind == ACTIVATION:
            pointwise.tangent(begin, end, s, plan, workspace)
        else:
            pointwise.copy(begin, end, s, workspace.dots, workspace, 0)

    return tangent


@cache
def _both_adjoints(kinds: Kinds) -> Any:
    """Back of the loss."""
    has_products = PRODUCTS in kinds

    @bare
    def both_adjoints(begin, end, s, plan, workspace, w_bar):
        kind = s[KIND]
        if kind == EDGE_NETWORK:
            return
        if kind == LINEAR:
            linear.adjoint(begin, end, s, plan, workspace, workspace.backs, 0)
            linear.weights_back(begin, end, s, plan, workspace, w_bar)
        elif has_products and kind == PRODUCTS:
            products.both_adjoints(begin, end, s, plan, workspace, w_bar)
        elif kind == ACTIVATION:
            pointwise.both_adjoints(begin, end, s, plan, workspace)
        elif kind == EMBEDDING:
            pointwise.embed_back(begin, end, s, plan, workspace, w_bar)
        elif kind == READOUT:
            pointwise.unread(begin, end, s, plan, workspace, workspace.b_bar, workspace.backs, 0)
            pointwise.unread_weights(begin, end, s, plan, workspace, w_bar)
        else:
            pointwise.copy_back(begin, end, s, workspace.backs, workspace, 0)

    return both_adjoints


@bare
def _clear(array, begin, end, plan, n_atoms, segment, back, is_sum, fresh):
    """Zeros for some atoms in the arrays that a segment, or the sum that it begins with, is the first to touch.

    Those that a step then writes anew are left as they are if `fresh`.
    """
    base = 0
    for k in range(len(plan.rows)):
        row = plan.rows[k]
        is_first = plan.first[k, back] == segment and plan.first[k, 2 + back] == is_sum
        if is_first and not (fresh and plan.first[k, 4 + back]):
            array[base * n_atoms + begin * row : base * n_atoms + end * row] = 0
        base += row


@bare
def _meet(counter, n_threads):
    if n_threads > 1:
        wait_for_all(counter, n_threads)


@cache
def _forward(kinds: Kinds) -> Any:
    """A segment of the forward pass for the atoms of a part; edges work at a place that this thread has."""
    has_sums, has_networks = NEIGHBOR_SUM in kinds, EDGE_NETWORK in kinds
    through = _value(kinds)

    @bare
    def forward(begin, end, n, place, plan, workspace, near, own):
        k, stop = plan.segments[n]
        _clear(workspace.values, begin, end, plan, workspace.n_atoms, n, 0, 1, own)
        if has_sums and plan.steps[k, KIND] == NEIGHBOR_SUM:
            if own:
                neighbor_sum.value(begin, end, plan.steps[k], plan, workspace, near)
            k += 1
        elif has_networks and plan.steps[k, KIND] == EDGE_NETWORK:
            if own:
                edge_network.value(begin, end, place, plan.steps[k], plan, workspace, near)
            k += 1
        for block in range(begin, end, plan.block):
            _clear(workspace.values, block, min(block + plan.block, end), plan, workspace.n_atoms, n, 0, 0, own)
            for step in range(k, stop):
                if own or plan.steps[step, STATIC]:
                    through(block, min(block + plan.block, end), plan.steps[step], plan, workspace)

    return forward


@cache
def _back(kinds: Kinds) -> Any:
    """A segment of the backward pass to the forces, or one half of it: its sum over neighbors, and the rest."""
    has_sums, has_networks = NEIGHBOR_SUM in kinds, EDGE_NETWORK in kinds
    through = _adjoint(kinds)

    @bare
    def back(begin, end, n, place, plan, workspace, near, own, with_sum, with_rest):
        k, stop = plan.segments_back[n]
        is_sum = has_sums and plan.steps[k, KIND] == NEIGHBOR_SUM
        is_network = has_networks and plan.steps[k, KIND] == EDGE_COLLECT
        if with_sum:
            _clear(workspace.adjoints, begin, end, plan, workspace.n_atoms, n, 1, 1, own)
            if is_sum:
                neighbor_sum.adjoint(begin, end, plan.steps[k], plan, workspace, near)
            elif is_network:
                reads = not plan.steps[k, STATIC]
                edge_network.collect(begin, end, plan.steps[k], plan, workspace, near, workspace.adjoints, reads)
        if not with_rest:
            return
        if is_sum or is_network:
            k -= 1
        for block in range(begin, end, plan.block):
            _clear(workspace.adjoints, block, min(block + plan.block, end), plan, workspace.n_atoms, n, 1, 0, own)
            for step in range(k, stop if own else k, -1):
                through(block, min(block + plan.block, end), plan.steps[step], plan, workspace)
        if has_networks and stop + 1 < len(plan.steps) and plan.steps[stop + 1, KIND] == EDGE_NETWORK:
            if own:
                edge_network.adjoint(begin, end, place, plan.steps[stop + 1], plan, workspace, near)
            else:
                edge_network.silence(begin, plan.steps[stop + 1], plan, near)

    return back


@cache
def _tangents(kinds: Kinds) -> Any:
    """A segment of the forward pass of the tangents."""
    has_sums, has_networks = NEIGHBOR_SUM in kinds, EDGE_NETWORK in kinds
    through = _tangent(kinds)

    @bare
    def tangents(begin, end, n, place, plan, workspace, near):
        k, stop = plan.segments[n]
        _clear(workspace.dots, begin, end, plan, workspace.n_atoms, n, 0, 1, False)
        if has_sums and plan.steps[k, KIND] == NEIGHBOR_SUM:
            neighbor_sum.tangent(begin, end, plan.steps[k], plan, workspace, near)
            k += 1
        elif has_networks and plan.steps[k, KIND] == EDGE_NETWORK:
            edge_network.tangent(begin, end, place, plan.steps[k], plan, workspace, near)
            k += 1
        for block in range(begin, end, plan.block):
            _clear(workspace.dots, block, min(block + plan.block, end), plan, workspace.n_atoms, n, 0, 0, False)
            for step in range(k, stop):
                through(block, min(block + plan.block, end), plan.steps[step], plan, workspace)

    return tangents


@cache
def _gradients(kinds: Kinds) -> Any:
    """A segment of the backward pass of the loss."""
    has_sums, has_networks = NEIGHBOR_SUM in kinds, EDGE_NETWORK in kinds
    through = _both_adjoints(kinds)

    @bare
    def gradients(begin, end, n, place, plan, workspace, near, w_bar):
        k, stop = plan.segments_back[n]
        _clear(workspace.backs, begin, end, plan, workspace.n_atoms, n, 1, 1, False)
        if has_sums and plan.steps[k, KIND] == NEIGHBOR_SUM:
            neighbor_sum.both_adjoints(begin, end, plan.steps[k], plan, workspace, near, w_bar)
            k -= 1
        elif has_networks and plan.steps[k, KIND] == EDGE_COLLECT:
            edge_network.collect(begin, end, plan.steps[k], plan, workspace, near, workspace.backs, True)
            k -= 1
        for block in range(begin, end, plan.block):
            _clear(workspace.backs, block, min(block + plan.block, end), plan, workspace.n_atoms, n, 1, 0, False)
            for step in range(k, stop, -1):
                through(block, min(block + plan.block, end), plan.steps[step], plan, workspace, w_bar)
        if has_networks and stop + 1 < len(plan.steps) and plan.steps[stop + 1, KIND] == EDGE_NETWORK:
            edge_network.both_adjoints(begin, end, place, plan.steps[stop + 1], plan, workspace, near, w_bar)

    return gradients


@cache
def energies(kinds: Kinds) -> Any:
    """b, energies, forces and virials of atoms and ∂E/∂r of all edges, for the parts first ≤ p < last."""
    has_networks = EDGE_NETWORK in kinds
    forward, back = _forward(kinds), _back(kinds)

    @bare
    def _begin(begin, end, plan, workspace, near, around, answer):
        workspace.b[begin:end] = 0
        near.gradient[near.row_ptr[begin] : near.row_ptr[end]] = 0
        outer.find(begin, end, plan, around, workspace, near)
        if has_networks:
            edge_tiles.lay(begin, end, near)
        if around.cutoff > 0:
            outer.seed(begin, end, around, workspace, near, answer)

    @compiled
    def energies_and_forces(first, last, n_threads, counter, parts, plan, workspace, near, around, answer, extent):
        if extent.begins:
            for part in range(first, last):
                _begin(parts[part], parts[part + 1], plan, workspace, near, around, answer)
        for n in range(extent.forward, extent.forward_end):
            if n > extent.forward:
                _meet(counter, n_threads)
            for part in range(first, last):
                forward(parts[part], parts[part + 1], n, first, plan, workspace, near, part < extent.own)
        for n in range(extent.back // 2, (extent.back_end + 1) // 2):
            if n > extent.back // 2:
                _meet(counter, n_threads)
            with_sum, with_rest = 2 * n >= extent.back, 2 * n + 1 < extent.back_end
            for part in range(first, last):
                own = part < extent.own
                back(parts[part], parts[part + 1], n, first, plan, workspace, near, own, with_sum, with_rest)
        if not extent.ends:
            return
        outer.to_vectors(parts[first], parts[last], plan, near)
        if around.cutoff > 0:
            outer.energies(parts[first], parts[last], around, workspace, answer)
            _meet(counter, n_threads)
            for part in range(first, last):
                outer.forces(parts[part], parts[part + 1], around, workspace, near, answer)

    return energies_and_forces


@cache
def loss_gradient(kinds: Kinds) -> Any:
    """The tangents, and the adjoints of the loss, for groups of parts: first ≤ g < last.

    w_bar (n_groups, n_weights). Without rows in it the tangents alone, of a motion of the atoms by −forces.
    """
    has_networks = EDGE_NETWORK in kinds
    tangents, gradients = _tangents(kinds), _gradients(kinds)

    @compiled
    def gradient_of_loss(
        first, last, n_threads, counter, groups, parts, plan, workspace, near, forces, virials, w_bar
    ):
        begin, end = groups[first], groups[last]
        outer.move(parts[begin], parts[end], forces, virials, plan, near)
        if has_networks:
            for part in range(begin, end):
                edge_tiles.move(parts[part], forces, virials, near)
        for n in range(len(plan.segments)):
            if n > 0:
                _meet(counter, n_threads)
            for part in range(begin, end):
                tangents(parts[part], parts[part + 1], n, begin, plan, workspace, near)
        if len(w_bar) == 0:
            return
        for group in range(first, last):
            w_bar[group] = 0
        for n in range(len(plan.segments_back)):
            if n > 0:
                _meet(counter, n_threads)
            for group in range(first, last):
                for part in range(groups[group], groups[group + 1]):
                    gradients(parts[part], parts[part + 1], n, begin, plan, workspace, near, w_bar[group])

    return gradient_of_loss


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
