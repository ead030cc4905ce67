"""The certificate: every check that a level asks for, on one calculator."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch

from mlpot.atomic_files import write_whole
from mlpot.certificate import (
    backends,
    cells,
    derivatives,
    locality,
    nve,
    pressure,
    side_effects,
    symmetry,
    thermal,
)
from mlpot.certificate.check import Check, NothingToCheckError, Structures
from mlpot.certificate.tested import CalculatorUnderTest
from mlpot.version import __version__

Level = Literal["quick", "full"]
Run = Callable[[CalculatorUnderTest, Structures], Check]

ALWAYS: dict[str, Run] = {
    "P1": symmetry.translation,
    "P2": symmetry.rotation,
    "P3": symmetry.permutation,
    "P4": symmetry.batches,
    "P5": derivatives.force,
    "P6": derivatives.stress,
    "P9": locality.smoothness,
    "P10": locality.high_coordination,
    "P11": cells.supercell,
    "P12": cells.representation,
    "P13": cells.boundaries,
    "P14": locality.isolated_atoms,
    "P15": locality.short_range,
    "P16": symmetry.momentum,
    "P29": side_effects.side_effects,
    "P30": backends.agreement,
    "P31": side_effects.memory,
    "P32": symmetry.learned_rotation,
}
QUICK = ALWAYS | {
    "P17": partial(nve.drift, picoseconds=0.5),
    "P19": nve.scaling,
    "P28": partial(side_effects.determinism, n_repeats=20),
}
FULL = ALWAYS | {
    "P7": derivatives.curl,
    "P8": derivatives.loops,
    "P17": nve.drift,
    "P18": nve.long_drift,
    "P19": partial(nve.scaling, n_halvings=2),
    "P20": nve.reversal,
    "P21": nve.momenta,
    "P22": thermal.kinetic_energy,
    "P23": thermal.configurational,
    "P24": thermal.ensembles,
    "P25": thermal.conserved,
    "P26": pressure.ideal_gas,
    "P27": pressure.two_pressures,
    "P28": side_effects.determinism,
    "P30": partial(backends.agreement, compiled=True),
}
LEVELS: dict[Level, dict[str, Run]] = {"quick": QUICK, "full": FULL}


@dataclass(frozen=True)
class Certificate:
    """What was checked, with which result, and what was not."""

    subject: str
    level: Level
    structures: dict[str, str]  # formula of each
    precision: str
    checks: list[Check]
    not_applicable: dict[str, str]  # id of a check -> why
    not_run: dict[str, str]  # what could be checked elsewhere, or otherwise -> why not here
    created: str
    mlpot: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Every check that applies passed, and there was one."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no NaN: figures that are not finite are null."""
        out = {"passed": self.passed} | asdict(self)
        for check in out["checks"]:
            check |= {key: check[key] if np.isfinite(check[key]) else None for key in ("figure", "bar")}
        return out

    def write(self, path: str | Path) -> None:
        """Write it as JSON."""
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        write_whole(Path(path), f"{text}\n".encode())


def verify(
    tested: CalculatorUnderTest,
    structures: Structures,
    level: Level = "quick",
    *,
    long_ps: float = 100.0,
    tell: nve.Tell = lambda text: None,
) -> Certificate:
    """Judge a calculator on structures; a check that ends in an error has failed.

    Args:
        tested: of `tested.of_model` or `tested.of_calculator`.
        structures: by name; molecules, crystals or slabs of elements that it knows.
        level: `quick` is a minute for a small molecule and a small crystal.
        long_ps: length of the long runs of level `full`, ps: P18 and P21.
        tell: is given lines on how far `full` has come.
    """
    started = perf_counter()
    checks, not_applicable = [], {}
    runs = dict(LEVELS[level])
    if "P18" in runs:
        runs["P18"] = partial(nve.long_drift, picoseconds=long_ps, tell=tell)
        runs["P21"] = partial(nve.momenta, picoseconds=long_ps)
    for id, run in sorted(runs.items(), key=lambda item: int(item[0][1:])):
        tell(f"{id} begins after {perf_counter() - started:.0f} s")
        try:
            checks.append(run(tested, structures))
        except NothingToCheckError as reason:
            not_applicable[id] = str(reason)
        except Exception as error:  # of any package and kind: an error is a result here
            cause = f"{type(error).__name__}: {error}".splitlines()[0]
            checks.append(Check(id, "ended in an error", "error", "", np.nan, 0.0, False, cause))
    return Certificate(
        subject=tested.name,
        level=level,
        structures={name: atoms.get_chemical_formula() for name, atoms in structures.items()},
        precision="float32" if tested.single else "float64",
        checks=checks,
        not_applicable=not_applicable,
        not_run=dict(_not_run(tested, level, long_ps)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        mlpot=__version__,
        seconds=round(perf_counter() - started, 1),
    )


def _not_run(tested: CalculatorUnderTest, level: Level, long_ps: float) -> Iterator[tuple[str, str]]:
    """What is left out, and why."""
    yield from ((id, "only at level full") for id in FULL if id not in LEVELS[level])
    if level == "full" and long_ps < 1000:
        yield "P18 over 1 ns", f"{long_ps:g} ps were asked for; --long-ps 1000"
    if tested.potential is None:
        return
    if level == "quick":
        yield "P30 under torch.compile", "only at level full"
    if not torch.cuda.is_available():
        yield from ((f"{id} on a GPU", "no CUDA device here") for id in ("P28", "P30"))
    elif not backends.on_gpu(tested.potential):
        yield "P28 on a GPU", "the CPU was asked for; --device cuda"
    yield "P30 on a GPU of Apple's", "it has no float64, in which energies are summed"
    yield "P30 as TorchScript", "potentials are not exported to it"
    yield "P30 across versions of PyTorch", f"{torch.__version__} is the one that is installed"
