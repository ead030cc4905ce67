"""ASE's socket client: a potential that answers a program which speaks i-PI's protocol and holds the structure."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.socketio import SocketClient, SocketClosed

from mlpot.calculator import MLPotCalculator
from mlpot.data.sources.read import read_structure
from mlpot.engines.images import images_matter, no_images
from mlpot.engines.template import Template

PORT = 31415  # of i-PI
FILE = "structure file"


class Client(SocketClient):  # type: ignore[misc]  # ASE has no types
    """ASE's, also for slabs and wires without all cell vectors: without a volume it tells a virial of zeros.

    The protocol wants a virial, and ASE's server takes no NaN; it makes no stress of it without a volume.
    """

    told = False  # that images are not seen

    def __init__(self, template: Template, **where: Any):
        super().__init__(**where)
        receive = self.protocol.recvposdata

        def checked() -> Any:
            try:
                cell, inverse, positions = receive()
            except AssertionError:  # in which ASE ends there
                raise ValueError(
                    "The server sent positions or a cell that are not finite: its run blew up. Take shorter "
                    "steps, or relax the start."
                ) from None
            template.check(positions)  # ASE would write those of one atom to all
            return cell, inverse, positions

        self.protocol.recvposdata = checked

    def calculate(self, atoms: Atoms, use_stress: bool) -> tuple[float, Any, Any]:
        """Energy eV, forces (n_atoms, 3) eV/Å and virial (3, 3) eV."""
        if not self.told and not atoms.pbc.any():
            cutoff = atoms.calc.potential.cutoff
            self.told = images_matter(atoms.numbers, atoms.positions, atoms.cell.array, cutoff)
            if self.told:
                warnings.warn(no_images(FILE, "the server"), stacklevel=2)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        has_stress = "stress" in atoms.calc.results
        virial = -atoms.get_volume() * atoms.get_stress(voigt=False) if has_stress else np.zeros((3, 3))
        return energy, forces, virial


def answer(
    model: str | Path,
    structure: str | Path,
    *,
    host: str = "localhost",
    port: int = PORT,
    unix: str | None = None,
    dtype: str | None = None,
) -> None:
    """Connect to a server and answer until it ends.

    Args:
        model: a file that mlpot wrote.
        structure: a file whose first structure has the elements and the boundary; positions come from the server.
        host, port: where the server listens.
        unix: name of a socket of this machine instead, as the server calls it.
        dtype: "float32" or "float64"; that of the model by default.

    Raises:
        ValueError: nobody listens there, or has other atoms than the structure, or none that are finite; it is no
            server of the protocol, or ended within a message; as the functions that read the model and the
            structure, and that compute.
    """
    atoms = read_structure(structure)
    atoms.calc = MLPotCalculator(model, dtype=dtype)
    where = f"{host}:{port}" if unix is None else f"the socket {unix} of this machine"
    try:
        template = Template(atoms, FILE, "the server")
        client = Client(template, host=host, port=None if unix else port, unixsocket=unix)
    except OSError as error:
        raise ValueError(f"Nobody answers at {where} ({error.strerror}). Start the server before.") from error
    try:
        client.run(atoms)
    except (SocketClosed, ConnectionError) as error:
        raise ValueError(
            f"The server at {where} ended before it had all of an answer. Look for its reason, and start both "
            "again."
        ) from error
    except (KeyError, UnicodeDecodeError) as error:  # of messages that ASE does not know
        raise ValueError(
            f"What listens at {where} does not speak i-PI's protocol ({error}). Give the port of the engine."
        ) from error
