"""The README's blocks run as written: bash and python are executed, blocks without a language are only shown."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mlpot.certificate.table import rows
from mlpot.cli.main import main
from mlpot.training import fit as fit  # in the forks too

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder in which the workbenches stand as in the project, and where a run may write."""
    for name in ("data", "train", "md"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def by_shell(language: str, text: str, project: Path) -> None:
    """Run a block as a user does."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
    run = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, f"{text}\n{run.stdout}\n{run.stderr}"


def by_forks(language: str, text: str, project: Path) -> None:
    """Run a block line by line, each in a fork of this process, which has imported all that they need."""
    if language == "python":
        _fork(lambda: exec(text, {}), project, project / "told")
        return
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "mlpot", "more than a command of ours needs a shell"
        told = project / (words.pop() if ">" in words else "told")
        _fork(partial(_command, [word for word in words if word != ">"]), project, told)


def _command(words: list[str]) -> None:
    sys.argv = words
    main()


def _fork(do: Callable[[], object], project: Path, told: Path) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(project)
            warnings.resetwarnings()  # they are no errors to users
            with told.open("w") as sys.stdout:
                do()
            code = 0
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("run", [by_forks, pytest.param(by_shell, marks=pytest.mark.slow)])
def test_the_readme_runs_from_top_to_bottom(run: Callable[[str, str, Path], None], project: Path) -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert [language for language, _ in blocks] == ["bash", "bash", "python"]
    for language, text in blocks:
        run(language, text, project)
    assert (project / "my.yaml").stat().st_size > 1000
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
