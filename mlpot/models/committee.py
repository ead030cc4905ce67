"""A committee: the mean of networks that were trained from other random weights.

    b_i = 1/K Σ_k b_i^(k)

L. K. Hansen and P. Salamon, IEEE Trans. Pattern Anal. Mach. Intell. 12, 993 (1990): where members err
independently, their mean errs less. It is a list of stages, that of all members, each with arrays of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn

from mlpot.models.layers import check_arguments, choose
from mlpot.models.networks import NETWORKS
from mlpot.stages.network import StagedNetwork
from mlpot.stages.readout import Readout
from mlpot.stages.run import ENERGY, Step


class Committee(StagedNetwork):
    """The mean of networks of one kind; `training.committee` trains its members one by one.

    Args:
        elements: atomic numbers of the potential.
        member: backbone of the members, a name in `NETWORKS`.
        arguments: of each member.
        n_members: K.
        member_arguments: in which each differs; nothing by default.
    """

    def __init__(
        self,
        *,
        elements: tuple[int, ...],
        member: str,
        arguments: dict[str, Any],
        n_members: int = 4,
        member_arguments: list[dict[str, Any]] | None = None,
    ):
        network = choose(NETWORKS, member, "backbone of a committee")
        if not isinstance(arguments, dict):
            raise TypeError(f"arguments of the members are {str(arguments)[:20]!r}, expected names and values")
        own = [{}] * n_members if member_arguments is None else member_arguments
        if not (isinstance(own, list) and len(own) == n_members and all(isinstance(o, dict) for o in own)):
            raise ValueError(f"member_arguments are {str(own)[:40]}, expected those of {n_members} members")
        for one in (arguments, *own):
            check_arguments(one)
        members = [network(elements=elements, **(arguments | one)) for one in own]
        if why := next((why for m in members if (why := m.native_obstacle())), None):
            raise ValueError(f"committees are made of lists of stages, and {member} is none here: {why}")
        cutoff = max(member.cutoff for member in members)
        super().__init__(elements=elements, cutoff=cutoff, features=_of(0, members[0].features))
        self.members = nn.ModuleList(members)
        self.parity, self.for_handedness = all(m.parity for m in members), members[0].for_handedness

    def stages(self) -> list[Step]:
        """The lists of all members, one after another; each adds a share of its energies."""
        steps = []
        for k, member in enumerate(cast("list[StagedNetwork]", list(self.members))):
            for step in member.program().steps:
                source = None if step.source is None else _of(k, step.source)
                if step.target == ENERGY:
                    steps.append(step._replace(stage=self._share(cast("Readout", step.stage)), source=source))
                else:
                    steps.append(step._replace(source=source, target=_of(k, step.target)))
        return steps

    def widened(self, weights: Mapping[str, Tensor], elements: Sequence[int]) -> dict[str, Tensor]:
        """As those of each member."""
        wider: dict[str, Tensor] = {}
        for k, member in enumerate(cast("list[StagedNetwork]", list(self.members))):
            first = f"members.{k}."
            own = {name.removeprefix(first): w for name, w in weights.items() if name.startswith(first)}
            wider |= {first + name: weight for name, weight in member.widened(own, elements).items()}
        return wider

    def _share(self, readout: Readout) -> Readout:
        """A K-th of what a member reads out."""
        n = len(self.members)
        bias = None if readout.bias is None else readout.bias / n
        return replace(readout, weight=readout.weight / n, bias=bias)


def _of(member: int, array: str) -> str:
    return f"{member}/{array}"


def member_states(states: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The weights of a committee from those of its members, in their order."""
    return {f"members.{k}.{name}": weight for k, state in enumerate(states) for name, weight in state.items()}
