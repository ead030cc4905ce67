"""The arithmetic that energy and forces of SchNet on knots cannot do without, frozen weights, per atom."""

from __future__ import annotations


def flops_per_atom(n_neighbors: float, *, n_features: int = 128, n_interactions: int = 3) -> float:
    """Floating-point operations for one atom's energy and its share of the forces.

    A product of an n-vector with an n × m matrix takes 2 n m. The value of a cubic spline takes 4 products and 3
    sums; its slope, one degree lower, 3 and 2.
    """
    f, layers = n_features, n_interactions
    dense = 2 * f * f
    # Forward: x W_in (of the first layer: a table of the elements), two layers of the update; backward: the same.
    on_atoms = 2 * (3 * layers - 1) * dense
    readout = 2 * (2 * f * (f // 2))
    convolution = 7 + 2  # w; w x_j, added to the sum
    slope = 5 + 3  # w'; w' x_j g_i, added to dE/dd
    # The gradient with respect to the features of the first layer is that of the elements: not needed.
    on_edges = f * (layers * convolution + (layers - 1) * convolution + layers * slope)
    return on_atoms + readout + n_neighbors * on_edges
