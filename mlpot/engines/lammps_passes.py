"""How messages pass between ranks of LAMMPS: chosen when the script comes to the line of the potential."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlpot.engines.message_costs import Costs, costs
from mlpot.engines.own_energies import ExchangedFeatures, LargeGhosts, OwnEnergies
from mlpot.potential import Potential
from mlpot.stages.network import StagedNetwork

KEYWORD, EXCHANGE, GHOSTS = "passes", "exchange", "ghosts"


def split(words: Sequence[str]) -> tuple[list[str], str | None]:
    """Elements of the line of the potential, and what it says after `passes`.

    Raises:
        ValueError: it says neither `exchange` nor `ghosts`, or something after it.
    """
    if KEYWORD not in words:
        return list(words), None
    at = words.index(KEYWORD)
    elements, rest = list(words[:at]), list(words[at + 1 :])
    if rest not in ([EXCHANGE], [GHOSTS]):
        raise ValueError(
            f"The potential's line has `{' '.join([KEYWORD, *rest])}`. Write `{KEYWORD} {EXCHANGE}` or "
            f"`{KEYWORD} {GHOSTS}` at its end, or leave it out: the cheaper way is found."
        )
    return elements, rest[0]


class Passes:
    """The ways of one instance of LAMMPS, each made once.

    Args:
        lmp: of class `lammps.lammps`.
        potential: frozen.
    """

    def __init__(self, lmp: Any, potential: Potential):
        self._lmp, self._potential, self._comm = lmp, potential, lmp.get_mpi_comm()
        self._made: dict[str, OwnEnergies] = {}

    def check(self, wanted: str | None) -> None:
        """Raise ValueError if an exchange is wanted of a network that is no list of stages."""
        if wanted == EXCHANGE and (obstacle := self._obstacle()):
            raise ValueError(f"`{KEYWORD} {EXCHANGE}`: {obstacle}. Write `{KEYWORD} {GHOSTS}`, or leave it out.")

    def choose(self, wanted: str | None) -> OwnEnergies:
        """The way that is wanted, checked, or the cheaper one; all ranks ask, and the first tells which it is."""
        n, obstacle = self._potential.n_passes, self._obstacle()
        if n == 1 or obstacle:
            why = obstacle or "one pass exchanges nothing"
            self._tell(f"ghosts out to {n} cutoffs, as {why}", n > 1 or wanted)
            return self._way(GHOSTS)
        found = self._costs()
        cheaper = EXCHANGE if found is None or found.exchange <= found.ghosts else GHOSTS
        way = wanted or cheaper
        words = "features exchanged after each" if way == EXCHANGE else f"ghosts out to {n} cutoffs"
        if found is not None:
            words += f" (counted: {1e3 * found.exchange:.3g} ms a step with exchanges of {found.n_bytes:.3g} bytes"
            words += f" a rank, {1e3 * found.ghosts:.3g} ms with ghosts)"
        self._tell(words, True)
        return self._way(way)

    def _obstacle(self) -> str | None:
        """Why features cannot be exchanged; None if they can."""
        backbone = self._potential.backbone
        return None if isinstance(backbone, StagedNetwork) else f"{type(backbone).__name__} is not made of stages"

    def _way(self, name: str) -> OwnEnergies:
        if name not in self._made:
            one = name == EXCHANGE
            self._made[name] = (
                ExchangedFeatures(self._potential, self._comm) if one else LargeGhosts(self._potential)
            )
        return self._made[name]

    def _costs(self) -> Costs | None:
        """From the box and the ranks as they are; None without atoms."""
        n_atoms = int(self._lmp.get_natoms())
        low, high, xy, yz, xz, *_ = self._lmp.extract_box()
        x, y, z = np.subtract(high, low)
        cell = np.array([[x, 0, 0], [xy, y, 0], [xz, yz, z]])
        if n_atoms == 0:
            return None
        heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
        grid = np.array(self._lmp.extract_global("procgrid"), np.int64)
        return costs(self._potential, n_atoms, heights, grid)

    def _tell(self, words: str, is_news: object) -> None:
        if is_news and self._comm.Get_rank() == 0:
            print(f"mlpot: {self._potential.n_passes} passes of messages: {words}", flush=True)
