"""ASE's socket client: a potential that answers a program which speaks i-PI's protocol and holds the structure."""

from __future__ import annotations

from pathlib import Path

from ase.calculators.socketio import SocketClient

from mlpot.calculator import MLPotCalculator
from mlpot.data.sources.read import read_structure

PORT = 31415  # of i-PI


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
        ValueError: nobody listens there; as the functions that read the model and the structure, and that compute.
    """
    atoms = read_structure(structure)
    atoms.calc = MLPotCalculator(model, dtype=dtype)
    where = f"{host}:{port}" if unix is None else f"the socket {unix} of this machine"
    try:
        client = SocketClient(host=host, port=None if unix else port, unixsocket=unix)
    except OSError as error:
        raise ValueError(f"Nobody answers at {where} ({error.strerror}). Start the server before.") from error
    client.run(atoms, use_stress=bool(atoms.pbc.any()))
