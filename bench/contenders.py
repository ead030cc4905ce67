"""Who takes part, and how the coordinator talks to each in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
ENVIRONMENTS = PROJECT / ".venv-bench"


@dataclass(frozen=True)
class Contender:
    """One line of the tables."""

    name: str
    environment: str  # mlpot's own, or a folder of ENVIRONMENTS
    variant: str
    largest: int = 1000  # atoms that fit into 16 GB
    trains: bool = False


ACE = Contender("mlpot ACE", "mlpot", "ace")
SCHNETS = (
    Contender("SchNetPack SchNet", "schnetpack", "schnet", largest=8000, trains=True),
    Contender("TorchMD-Net graph network", "torchmdnet", "graph-network", largest=8000, trains=True),
)
CONTENDERS = (
    Contender("mlpot", "mlpot", "knots", largest=100_000, trains=True),
    Contender("mlpot, quintic", "mlpot", "quintic", largest=8000, trains=True),
    Contender("mlpot, plain", "mlpot", "plain", largest=8000, trains=True),
    *SCHNETS,
    Contender("MACE 64x0e", "mace", "64x0e"),
    Contender("MACE 128x0e+128x1o", "mace", "128x0e+128x1o"),
    Contender("NequIP 32x0+32x1", "nequip", "small"),
)
MACES = (
    Contender("mlpot MACE 64x0e", "mlpot", "mace-64x0e"),
    Contender("MACE 64x0e", "mace", "64x0e"),
    Contender("mlpot MACE 128x0e+128x1o", "mlpot", "mace-128x0e+128x1o"),
    Contender("MACE 128x0e+128x1o", "mace", "128x0e+128x1o"),
)
DIRECTIONS = ACE, *MACES, *SCHNETS
THROUGH_ASE = (
    ACE,
    *MACES,
    Contender("symmetrix-xl MACE 64x0e", "symmetrix", "64x0e"),
    Contender("symmetrix-xl MACE 128x0e+128x1o", "symmetrix", "128x0e+128x1o"),
)
EGNNS = (
    Contender("mlpot EGNN", "mlpot", "egnn"),
    Contender("plain EGNN", "mlpot", "egnn-plain"),
    Contender("mlpot EGNN, coordinates fixed", "mlpot", "egnn-still"),
    Contender("plain EGNN, coordinates fixed", "mlpot", "egnn-still-plain"),
)


class WorkerError(RuntimeError):
    """A contender could not do what it was asked; the message is printed in the report."""


class Worker:
    """A contender's process, alive until `close`."""

    def __init__(self, contender: Contender, threads: int, log: Path):
        self.contender = contender
        script = PROJECT / f"bench/workers/serve_{contender.environment}.py"
        # MACE and SchNetPack read pickles of their own, which torch refuses by default.
        variables = os.environ | {"OMP_NUM_THREADS": str(threads), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
        if contender.environment == "mlpot":
            variables["PYTHONPATH"] = str(PROJECT)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                [interpreter(contender.environment), str(script), contender.variant, str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=variables,
                text=True,
            )
        try:
            self.versions = self.ask("hello")
        except WorkerError:
            self.close()
            raise

    def ask(self, do: str, **request: Any) -> Any:
        """The answer to one request of `workers/protocol.py`.

        Raises:
            WorkerError: the package failed, or its process died.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.process.poll() is None:
            print(json.dumps({"do": do, **request}), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith('{"answer": '):
                return json.loads(line)["answer"]
            if line.startswith('{"error": '):
                raise WorkerError(json.loads(line)["error"].splitlines()[0][:200])
        raise WorkerError(f"the process ended with status {self.process.wait()} when asked to {do}")

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def interpreter(environment: str) -> str:
    """The Python of an environment.

    Raises:
        WorkerError: the package is not installed, with the reason that pip gave.
    """
    if environment == "mlpot":
        return sys.executable
    folder = ENVIRONMENTS / environment
    if not (folder / "installed").exists():
        log = folder / "install.log"
        errors = [x for x in log.read_text().splitlines() if x.startswith("ERROR")] if log.exists() else []
        raise WorkerError(f"not installed: {errors[-1] if errors else 'run `make bench-setup`'}")
    return str(folder / "bin/python")
