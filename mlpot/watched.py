"""Whoever asks for many calculations is told, once, of a structure unlike the training set."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from mlpot.extrapolation import BETWEEN, OUTSIDE, outside_words
from mlpot.forces import predict, predict_and_grade
from mlpot.graph import AtomGraph, Properties
from mlpot.potential import Potential


class Watch:
    """Looks at extrapolation grades of the first calculation, of one in `BETWEEN`, and of atoms that are new.

    Args:
        limit: the grade above which it warns; None never warns.
        advice: how not to be told, the end of a sentence.
    """

    def __init__(self, limit: float | None = OUTSIDE, advice: str = "."):
        self._limit, self._advice = limit, advice
        self._calls, self._next = 0, 1
        self._numbers: Tensor | None = None

    def wants(self, numbers: Tensor | None = None) -> bool:
        """Whether to look at this calculation; by its atomic numbers too, or by how many there were alone."""
        self._calls += 1
        is_other = numbers is not None and (self._numbers is None or not torch.equal(numbers, self._numbers))
        if self._limit is None or not (is_other or self._calls >= self._next):
            return False
        self._next, self._numbers = self._calls + BETWEEN, numbers
        return True

    def tell(self, grades: Tensor | None, name: Callable[[int], str]) -> None:
        """Warn, once, if one of the grades (n,) is above the limit.

        Args:
            grades: of structures or of atoms; None where the potential cannot tell.
            name: what is told of the one with the highest grade, such as "An atom of system 3".
        """
        if self._limit is None or grades is None or not len(grades) or not float(grades.max()) > self._limit:
            return
        worst, self._limit = int(grades.argmax()), None
        told = outside_words(name(worst), float(grades[worst]))
        warnings.warn(f"{told} This is said once{self._advice}", stacklevel=3)


def predict_watched(
    potential: Potential, graph: AtomGraph, watch: Watch, name: Callable[[int], str]
) -> Properties:
    """As `predict`, with a look at extrapolation grades where the watch wants one.

    Args:
        potential, graph: as there.
        watch: of the door by which the structures come.
        name: of a structure of the graph, as of `Watch.tell`.
    """
    if not watch.wants(graph.numbers.cpu()):
        return predict(potential, graph)
    out = predict_and_grade(potential, graph)
    watch.tell(out.extrapolation_grade, name)
    return out
