"""Attention over neighbors whose weights end smoothly at the cutoff."""

from __future__ import annotations

import torch
from torch import Tensor

from mlpot.graph import Edges
from mlpot.kernels.reductions import gather, sum_at_centers

SMALLEST = 1e-30
"""Of an envelope; what is less counts as nothing, as 1 / u would overflow in float32."""


def attention_weights(logits: Tensor, envelope: Tensor, edges: Edges) -> Tensor:
    """α_ij = u_ij exp(s_ij) / (1 + Σ_k u_ik exp(s_ik)).

    A softmax alone is one for an atom's only neighbor up to the cutoff, and jumps to nothing there. With u on each
    weight and a constant in the denominator every α is as smooth as u, and goes to zero with it. The constant is
    what a neighbor that sends nothing would add, whose logit is zero.

    Args:
        logits: s (n_edges, n_heads).
        envelope: u (n_edges,), zero at the cutoff and beyond.
        edges: of the graph.

    Returns:
        (n_edges, n_heads), finite however large the logits are; zero where u is.
    """
    inside = (envelope > SMALLEST)[:, None]  # close to the cutoff rounding may leave less than nothing
    u = torch.where(inside, envelope[:, None], 0.0)
    s = torch.where(inside, logits, 0.0)
    top = _largest(s.detach() + torch.where(inside, u, 1.0).log().detach(), edges)  # of which α is no function
    part = u * torch.exp(s - gather(top, edges.center))
    total = torch.exp(-top) + sum_at_centers(part, edges)  # one of its terms is one
    return part / gather(total, edges.center)


def _largest(scores: Tensor, edges: Edges) -> Tensor:
    """The largest score of each atom's edges (n_atoms, n_heads), zero at least."""
    rows = edges.center[:, None].expand_as(scores)
    return scores.new_zeros(edges.n_atoms, scores.shape[1]).scatter_reduce(0, rows, scores, "amax")
