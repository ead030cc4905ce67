"""Outputs that ASE cannot read although most of them is whole: the text that ASE gets in their place."""

from __future__ import annotations

from pathlib import Path

from ase.io.formats import open_with_compression

from mlpot.data.errors import FormatError

AIMS_END = "Have a nice day."
AIMS_RESTARTS = (
    "Self-consistency cycle not yet converged - restarting mixer",
    "Components of the stress tensor (for mathematical background",
    "Calculation of numerical stress completed",
)
"""After these FHI-aims begins a self-consistency cycle anew without a new step."""
AIMS_STEP = "Begin self-consistency loop: Re-initialization"
AIMS_RELAXED = "Geometry optimization: Attempting to predict improved coordinates."


def text_for_ase(path: Path, kind: str) -> tuple[str, str, int] | None:
    """The text for ASE to read in place of a file, what was left out, and of which frame.

    None where the file is fine as it is.

    Raises:
        FormatError: not one step of the run is whole.
    """
    if kind != "aims-output":
        return None
    with open_with_compression(str(path), "rt") as file:
        text = file.read()
    return None if AIMS_END in text[-1000:] else _whole_steps_of_aims(path, text.splitlines())


def _whole_steps_of_aims(path: Path, lines: list[str]) -> tuple[str, str, int]:
    """The steps of FHI-aims that are whole, with the end that ASE looks for."""
    relaxation = any("Geometry relaxation:" in line for line in lines[: _first(lines, AIMS_STEP)])
    end, restarts, n_steps = 0, False, 0
    for k, line in enumerate(lines):
        if relaxation and AIMS_RELAXED in line:
            end, n_steps = k + 1, n_steps + 1
        elif AIMS_STEP in line:
            if not restarts and not relaxation:
                end, n_steps = k, n_steps + 1
            restarts = False
        restarts = restarts or any(words in line for words in AIMS_RESTARTS)
    if not n_steps:
        raise FormatError(
            f"{path} is of a run of FHI-aims that ended in its first step, so it has no whole frame. Run it again."
        )
    text = "\n".join([*lines[:end], AIMS_END, "", ""])
    return text, "the run was cut off, so its last step is left out", n_steps


def _first(lines: list[str], words: str) -> int:
    return next((k for k, line in enumerate(lines) if words in line), len(lines))
