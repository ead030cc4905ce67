"""Messages of a training, on the terminal and in `train.log` of its directory."""

from __future__ import annotations

import warnings
from pathlib import Path

LOG = "train.log"


class TrainingWarning(UserWarning):
    """The training continues, but the user should know this."""


class Messages:
    """Lines for the user; lines from before the directory of the run exists are written to its log later.

    Args:
        show: print information. Warnings are given in any case.
    """

    def __init__(self, *, show: bool):
        self._show, self._silent, self._early, self._path = show, False, list[str](), Path()

    def __call__(self, *lines: str) -> None:
        """Give information."""
        if self._show:
            print(*lines, sep="\n", flush=True)
        self._keep(lines)

    def warn(self, line: str) -> None:
        """Give a warning."""
        if not self._silent:
            warnings.warn(line, TrainingWarning, stacklevel=3)
        self._keep((f"Warning: {line}",))

    def write_to(self, directory: Path) -> None:
        """Write all lines to the log of this directory, those from before too."""
        self._path = directory / LOG
        early, self._early = self._early, []
        self._keep(early)

    def silence(self) -> None:
        """Print and write nothing more, as another process does that."""
        self._show, self._silent = False, True

    def _keep(self, lines: tuple[str, ...] | list[str]) -> None:
        if self._silent:
            return
        if self._path == Path():
            self._early += lines
        elif lines:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
