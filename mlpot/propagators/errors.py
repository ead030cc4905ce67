"""Errors of propagators on pairs of frames, and the loss that they are trained by."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mlpot.propagators.frame_pairs import FramePairs
from mlpot.propagators.propagator import Propagator, tensors_of

BATCH = 500  # pairs judged at once


def scales_of(pairs: FramePairs) -> tuple[float, float]:
    """Root mean squares of what free flight gets wrong: of x' − x − v·interval, and of v' − v."""
    missing = pairs.later_positions - pairs.positions - pairs.velocities * pairs.interval
    changes = pairs.later_velocities - pairs.velocities
    return float(np.sqrt(np.square(missing).mean())), float(np.sqrt(np.square(changes).mean()))


def loss_of(
    found: tuple[Tensor, Tensor],
    wanted: tuple[Tensor, Tensor],
    scales: tuple[float, float],
    velocity_weight: float,
) -> Tensor:
    """Mean squared errors of positions and velocities over those of free flight, the latter by their weight."""
    of_positions = ((found[0] - wanted[0]) / scales[0]).square().mean()
    if not velocity_weight:  # velocities that are not learned may have no gradient
        return of_positions
    return of_positions + velocity_weight * ((found[1] - wanted[1]) / scales[1]).square().mean()


def errors_of(propagator: Propagator, pairs: FramePairs) -> dict[str, float]:
    """Mean squared errors of the components of positions and velocities, in the units of the pairs."""
    totals = np.zeros(2)
    for k in range(0, len(pairs), BATCH):
        given, wanted = tensors_of(pairs[k : k + BATCH], propagator)
        with torch.no_grad():
            found = propagator(*given)
        totals += [float((a - b).double().square().sum()) for a, b in zip(found, wanted, strict=True)]
    of_positions, of_velocities = (totals / pairs.positions.size).tolist()
    told = {"positions_mse": of_positions}
    return told | ({"velocities_mse": of_velocities} if propagator.network.tells_velocities else {})


def free_flight_time(pairs: FramePairs) -> float:
    """The t for which x + v·t errs least: the linear model of Satorras 2021."""
    moves = pairs.later_positions - pairs.positions
    return float((moves * pairs.velocities).sum() / np.square(pairs.velocities).sum())


def free_flight_mse(pairs: FramePairs, t: float) -> float:
    """Mean squared error of the components of x + v·t."""
    return float(np.square(pairs.later_positions - pairs.positions - pairs.velocities * t).mean())
