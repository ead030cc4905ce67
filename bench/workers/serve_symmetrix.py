"""symmetrix-xl: the same MACE as `serve_mace`, exported by its own command, in its own compiled code."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from mace_model import ELEMENTS, scale_shift_mace
from protocol import Answer, serve

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else its threads spin between calls and slow all others

from symmetrix import Symmetrix

VACUUM = 12.0  # Å around a molecule: the package needs a cell


class Boxed(Symmetrix):
    """Its calculator, which gives a molecule a box that is not periodic."""

    def calculate(self, atoms: Atoms, *arguments: object) -> None:  # type: ignore[override]  # as ASE calls it
        """As ASE's."""
        if atoms.cell.rank == 0:
            atoms = atoms.copy()
            atoms.set_cell([side + 2 * VACUUM for side in atoms.positions.max(0) - atoms.positions.min(0)])
        super().calculate(atoms, *arguments)


class SymmetrixXL:
    """See `protocol.Package`; the variant is the hidden irreps. Its list cannot be given: see `through_ase`."""

    version = importlib.metadata.version("symmetrix-xl")

    def __init__(self, variant: str):
        self.variant = variant

    def evaluation(self, _atoms: Atoms, _double: bool) -> tuple[Callable[[], Answer], int]:
        raise NotImplementedError("symmetrix makes its own list of neighbors")

    def training_step(self, _batch: list[Atoms]) -> Callable[[], None]:
        raise NotImplementedError("symmetrix does not train")

    def calculator(self) -> Calculator:
        with TemporaryDirectory() as folder:
            model, exported = Path(folder) / "mace.model", Path(folder) / "mace.json"
            torch.save(scale_shift_mace(self.variant).double(), model)
            command = [str(Path(sys.executable).with_name("symmetrix_extract_mace")), "--model", str(model)]
            elements = [str(z) for z in ELEMENTS]
            subprocess.run([*command, "-Z", *elements, "--output", str(exported)], check=True, stdout=sys.stderr)
            return Boxed(str(exported), dtype="float32")


if __name__ == "__main__":
    serve(SymmetrixXL)
