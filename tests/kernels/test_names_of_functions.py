"""Are the names of compiled functions those of one process, so that kernels of two can be loaded together?"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

COMPILES = """
import os
from numba import types
from mlpot.kernels import compiler
from mlpot.kernels.pipeline import WholeCompiler
import numba

def forward(x):
    return x + 1

def name():
    compiled = numba.njit(forward, pipeline_class=WholeCompiler)
    compiled.compile((types.float64,))
    return next(iter(compiled.overloads.values())).fndesc.mangled_name

{}
"""
FORKS = """
there, here = os.pipe()
if not os.fork():
    os.write(here, name().encode())
    os._exit(0)
os.wait()
print(os.read(there, 10000).decode())
"""


def names(then: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", COMPILES.format(then)], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_two_processes_name_one_function_differently() -> None:
    first, second = (names("print(name())").strip() for _ in range(2))
    number = re.compile(r"v\d+")
    assert first != second
    assert number.sub("", first, count=1)[:20] == number.sub("", second, count=1)[:20]  # of one function


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
def test_a_forked_process_has_names_of_its_own() -> None:
    lines = names(f"import numba.core.bytecode\nprint(name())\n{FORKS}\nprint(name())").split()
    assert len(lines) == len(set(lines)) == 3
