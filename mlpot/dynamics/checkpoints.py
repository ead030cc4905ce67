"""The state of a run in two files that are written alternately, so that one is always whole.

A file is the checksum of the rest, a line of JSON, then arrays as npz; nothing in it is pickled. Each file has a
number; the higher number is the newer state, whatever the dates of the files.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpot.atomic_files import sync_folder, write_whole
from mlpot.data.safe_npz import open_arrays

FORMAT = 1
NAMES = ("checkpoint_A", "checkpoint_B")


class CheckpointError(ValueError):
    """A run cannot be continued from what is in its folder."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything by which a run continues as if it had not stopped."""

    facts: dict[str, Any]  # JSON-able
    arrays: dict[str, NDArray[Any]]


class Checkpoints:
    """The two files of a folder.

    Raises:
        CheckpointError: there are files, and none of them is whole.
    """

    def __init__(self, folder: Path):
        self._paths = [folder / name for name in NAMES]
        self.newest: Checkpoint | None = None
        self.n_bytes = 0  # of the last one written
        self._generation = 0
        there = [path for path in self._paths if path.exists()]
        for path in there:
            generation, checkpoint = _read(path)
            if generation > self._generation:
                self._generation, self.newest = generation, checkpoint
        if there and self.newest is None:
            raise CheckpointError(
                f"{' and '.join(map(str, there))} are damaged, so the run cannot be continued. Start a new one "
                "from the last frame of its trajectory, with velocities: file."
            )

    def clear(self) -> None:
        """Remove the checkpoints of an earlier run."""
        for path in self._paths:
            path.unlink(missing_ok=True)
        sync_folder(self._paths[0].parent)
        self.newest = None

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint over the older of the two files.

        Raises:
            StorageError: it cannot be written; the newer one is whole.
        """
        buffer = io.BytesIO()
        np.savez(buffer, **checkpoint.arrays)  # type: ignore[arg-type]  # none is called allow_pickle
        generation = self._generation + 1
        facts = json.dumps({"format": FORMAT, "generation": generation, **checkpoint.facts})
        body = facts.encode() + b"\n" + buffer.getvalue()
        content = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
        write_whole(self._paths[generation % 2], content)
        self._generation, self.newest, self.n_bytes = generation, checkpoint, len(content)


def _read(path: Path) -> tuple[int, Checkpoint | None]:
    """Generation and content of a file; 0 and None if it is damaged."""
    checksum, _, body = path.read_bytes().partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        return 0, None
    text, _, packed = body.partition(b"\n")
    try:
        facts = json.loads(text)
        generation, version = int(facts["generation"]), facts["format"]
        if version == FORMAT:
            with open_arrays(io.BytesIO(packed), str(path)) as file:
                return generation, Checkpoint(facts, {name: file[name] for name in file.files})
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} holds objects that are no plain arrays: {error} Do not use it.") from None
    raise CheckpointError(
        f"{path} has format {version}, this mlpot reads {FORMAT}. Use the version of mlpot that wrote it."
    )
