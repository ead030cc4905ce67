"""The README's blocks run as written: bash and python are executed, blocks without a language are only shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlpot.certificate.table import rows

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder in which the workbenches stand as in the project, and where a run may write."""
    for name in ("data", "train", "md"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_the_readme_runs_from_top_to_bottom(project: Path) -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert [language for language, _ in blocks] == ["bash", "bash", "python"]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    for language, text in blocks:
        command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
        run = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, f"{text}\n{run.stdout}\n{run.stderr}"
    left = {path.name for path in (project / "runs/demo").iterdir()}
    assert {"model.safetensors", "metrics.json", "parity.png", "learning_curve.png", "report.html", "md"} <= left


def test_the_readme_lists_the_checks_in_the_words_of_the_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for row in rows():
        assert f"| {row.id} | {row.level} | {row.sentence} | {row.bar.replace('|', '&#124;')} |" in text


def test_the_first_screen_says_for_whom_and_where_and_runs() -> None:
    first = (ROOT / "README.md").read_text(encoding="utf-8").split("\n")[:22]
    assert all(
        word in "\n".join(first) for word in ("chemists", "pip install .", "Python 3.11", "POSIX", "```bash")
    )
