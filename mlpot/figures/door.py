"""The picture at the end of long work: Matplotlib is imported when it is drawn, not before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def plot_md(
    columns: Mapping[str, NDArray[np.float64]], n_atoms: int, path: str | Path, *, title: str = ""
) -> None:
    """As `figures.md.plot_md`."""
    from mlpot.figures import md

    md.plot_md(columns, n_atoms, path, title=title)
