"""What an examination says: findings with a severity, figures behind them, and a command that mends them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlpot.atomic_files import write_whole

Severity = Literal["note", "warning", "error"]
EXIT_STATUS: dict[Severity, int] = {"note": 0, "warning": 3, "error": 4}
"""Of `mlpot data check`; 1 and 2 stay what they are for every command: it failed, or was called wrongly."""
ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}
MOST_FRAMES = 20  # frames named by index


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed."""

    check: str  # which check, in one or two words
    severity: Severity
    message: str
    frames: tuple[int, ...] = ()  # the first of those concerned
    n_frames: int = 0  # concerned altogether
    fix: str | None = None  # a command
    confidence: float | None = None  # of an inference, 0 to 1


def finding(
    check: str,
    severity: Severity,
    message: str,
    frames: NDArray[np.integer] | None = None,
    *,
    fix: str | None = None,
    confidence: float | None = None,
) -> Finding:
    """A finding that names the first of its frames."""
    frames = np.zeros(0, dtype=np.int64) if frames is None else np.asarray(frames)
    return Finding(
        check, severity, message, tuple(int(k) for k in frames[:MOST_FRAMES]), len(frames), fix, confidence
    )


@dataclass(frozen=True)
class Report:
    """All findings on a file, the worst first, with the figures that they rest on."""

    path: str
    n_frames: int
    findings: list[Finding]
    facts: dict[str, str]
    skipped: dict[str, str]  # checks that do not apply, and why
    curves: dict[str, Any] = field(default_factory=dict, repr=False)  # what pictures are drawn from

    @property
    def severity(self) -> Severity:
        """Of the worst finding."""
        order: tuple[Severity, ...] = ("error", "warning")
        return next((s for s in order if any(f.severity == s for f in self.findings)), "note")

    @property
    def exit_status(self) -> int:
        """0 nothing wrong, 3 warnings, 4 errors."""
        return EXIT_STATUS[self.severity]

    def write_json(self, path: str | Path) -> None:
        """Write all but the curves."""
        content = asdict(self) | {"severity": self.severity, "exit_status": self.exit_status}
        del content["curves"]
        write_whole(Path(path), f"{json.dumps(content, indent=2, ensure_ascii=False)}\n".encode())
