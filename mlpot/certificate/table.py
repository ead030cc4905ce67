"""The table of the certificate: what each check claims, and its bar."""

from __future__ import annotations

import inspect
from typing import NamedTuple

from mlpot.certificate.verify import FULL, QUICK, Run

BARS = {
    "P1": "1e-10 eV/Å (float32: 1e-5 eV/Å + 1e-6 |F|max)",
    "P2": "1e-10 eV/Å (float32: 2e-5 eV/Å + 1e-6 |F|max)",
    "P3": "1e-11 eV/Å (float32: 2e-5 eV/Å + 1e-6 |F|max)",
    "P4": "1e-11 eV/Å + 1e-12 |F|max (float32: 1e-5 eV/Å + 1e-6 |F|max)",
    "P5": "1e-7 eV/Å",
    "P6": "1e-8 eV/Å³",
    "P7": "1e-7",
    "P8": "1e-9",
    "P9": "jumps of 1e-9 eV, 1e-8 eV/Å, 1e-4 of the stiffness",
    "P10": "1e-7 of the largest value",
    "P11": "1e-10 eV/Å (float32: 2e-5 eV/Å + 1e-6 |F|max)",
    "P12": "1e-10 eV/Å (float32: 2e-5 eV/Å + 1e-6 |F|max)",
    "P13": "1e-10 eV/Å (float32: 2e-5 eV/Å + 1e-6 |F|max)",
    "P14": "1e-10 eV, 1e-10 eV/Å",
    "P15": "no step inwards lowers the energy",
    "P16": "1e-12 eV/Å an atom (float32: 1e-7 of the RMS force or 1 eV/Å)",
    "P17": "1 meV/atom/ns, 2 % of σ(E_kin) over the run",
    "P18": "0.005 meV/atom/ns (float32: 0.03)",
    "P19": "|ratio − 4| of 0.2 (coarser halving: 0.4)",
    "P20": "1e-6 Å, with a cell 1e-9 Å (float32: 1e-3 Å)",
    "P21": "1e-10 of Σ|p| (float32: 1e-6)",
    "P22": "distance at 1 % significance, 2.5 σ of a share",
    "P23": "1 %, or three standard errors",
    "P24": "3 σ, more for many runs",
    "P25": "5 meV/atom/ns",
    "P26": "1 % of the volume, 5 % of its variance, or three standard errors",
    "P27": "3 σ of the volumes, 2 σ of the pressure, more for many runs",
    "P28": "0 on a CPU (GPU: 1e-5 eV/Å)",
    "P29": "no difference",
    "P30": "1e-11 eV/Å (float32: 2e-5 eV/Å)",
    "P31": "1e-11 eV/Å (float32: 1e-5 eV/Å)",
}
"""The bars of each check in float64, in words; the check's own result states the bar of each measurement."""


class Row(NamedTuple):
    """One row of the table."""

    id: str
    level: str  # the first level that runs the check
    sentence: str
    bar: str


def rows() -> list[Row]:
    """All checks in order, each with the first sentence of its function's docstring."""
    ids = sorted(FULL, key=lambda id: int(id[1:]))
    return [Row(id, "quick" if id in QUICK else "full", _sentence(id, FULL[id]), BARS[id]) for id in ids]


def _sentence(id: str, run: Run) -> str:
    function = getattr(run, "func", run)  # a partial's function
    first = (inspect.getdoc(function) or "").splitlines()[0].removeprefix(f"{id}: ")
    return first[:1].upper() + first[1:]
