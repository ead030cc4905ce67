"""How far the members of a committee disagree, beside what it predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch

from mlpot.forces import predict, predict_and_grade
from mlpot.graph import AtomGraph, Prediction
from mlpot.module_state import ModuleState
from mlpot.potential import Potential

Predictor = Callable[[AtomGraph], Prediction]
_made: WeakKeyDictionary[Potential, tuple[list[Potential], ModuleState]] = WeakKeyDictionary()
"""Members of committees, and the weights of which they were made: to make them takes longer than a batch."""


def predictor(potential: Potential, spread: bool = True) -> Predictor:
    """As `predict_and_grade`; of a committee with the standard deviations over its members, if wanted."""
    members = _members(potential) if spread else []

    def predicted(graph: AtomGraph) -> Prediction:
        out = predict_and_grade(potential, graph)
        if not members:
            return out
        found = [predict(member, graph) for member in members]
        energies, forces = (torch.stack(own) for own in zip(*((f.energy, f.forces) for f in found), strict=True))
        return replace(out, energy_std=energies.std(0, correction=0), forces_std=forces.std(0, correction=0))

    return predicted


def _members(potential: Potential) -> list[Potential]:
    if (known := _made.get(potential)) is not None and known[1].holds():
        return known[0]
    if members := potential.members():
        _made[potential] = members, ModuleState(potential)
    return members
