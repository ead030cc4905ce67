"""Kernels of Triton in tests: on a CUDA device if there is one, else in Triton's interpreter.

The interpreter has to be chosen before Triton is imported, so a file of such tests is run again in a process of
its own, where `INTERPRETED` is true.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)
on_device = pytest.mark.parametrize("device", ["cpu" if INTERPRETED else CUDA])
runs_the_others = pytest.mark.skipif(INTERPRETED, reason="is the one that runs the others")
compiles = pytest.mark.skipif(INTERPRETED, reason="compiles, as the interpreter does not")


def interpret(file: str, chosen: str) -> None:
    """Run the tests of a file that compute on a device in the interpreter; none may fail or skip."""
    command = [sys.executable, "-m", "pytest", file, "-q", "-k", "cpu", "-m", chosen, "-p", "no:cacheprovider"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


def check_compiled(kernel: Any, types: Mapping[str, str], constants: Mapping[str, object]) -> None:
    """Compile a kernel without a device, for compute capability 9.0 as in an H200; it uses no atomics."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    types = dict(types) | dict.fromkeys(constants, "constexpr")
    code = compile(ASTSource(kernel, types, dict(constants)), target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    assert "ld.global" in code
    assert not re.search(r"\b(atom|red)\.", code)
