"""What a run waits for before its first step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from md_runs import prepare


def test_the_first_step_does_not_wait_for_what_draws(tmp_path: Path) -> None:
    prepare(tmp_path)
    code = """
import sys
import mlpot.cli.main
from ase.md.verlet import VelocityVerlet
def step(*_):
    print(sorted({"matplotlib", "lightning", "torch._dynamo", "pyscf", "scipy.stats"} & set(sys.modules)))
    sys.exit()
VelocityVerlet.step = step
sys.argv = ["mlpot", "md", "first.yaml"]
mlpot.cli.main.app()
"""
    lines = ["model: model.safetensors", "structure: ethanol.xyz", "ensemble: nve", "steps: 1", "output: first"]
    (tmp_path / "first.yaml").write_text("\n".join(lines), encoding="utf-8")
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert out.stdout.splitlines()[-1:] == ["[]"], out.stderr
