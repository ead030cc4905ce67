"""What another process compiles meanwhile is used, and what it cannot is compiled here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from places import PROJECT
from test_kernel_cache import run

MODULE = """
from functools import cache
from mlpot.kernels.compiler import compiled

@cache
def power(exponent):
    @compiled
    def powers(first, values):
        total = 0.0
        for k in range(first, len(values)):
            total += values[k] ** exponent
        return total
    return powers
"""
SCRIPT = """
import os
import numpy as np
import loops_of_test
from mlpot.kernels import ahead, compiler
BEFORE
ahead.begin(loops_of_test.power, 3.0, (0, np.zeros(4)))
MEANWHILE
ahead.wait()
print(loops_of_test.power(3.0)(1, np.arange(4.0)), len(compiler.compiled_here), len(ahead._running))
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs a second processor, on which it compiles")
@pytest.mark.parametrize(
    ("before", "meanwhile", "compiled_here", "begun"),
    [
        ("", "ahead.begin(loops_of_test.power, 3.0, (0, np.zeros(4)))", 0, 1),  # once
        ("", "next(iter(ahead._running.values())).kill()", 1, 1),
        pytest.param("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})", "", 1, 0, marks=pytest.mark.slow),
        pytest.param("os.environ['WORLD_SIZE'] = '2'", "", 1, 0, marks=pytest.mark.slow),
        ("from pathlib import Path; Path(os.environ['NUMBA_CACHE_DIR']).touch()", "", 1, 0),  # nothing can be kept
    ],
    ids=["compiled", "killed", "one_processor", "of_several", "no_cache"],
)
def test_a_function_is_compiled_once_and_right(
    before: str, meanwhile: str, compiled_here: int, begun: int, tmp_path: Path
) -> None:
    (tmp_path / "loops_of_test.py").write_text(MODULE)
    script = SCRIPT.replace("BEFORE", before).replace("MEANWHILE", meanwhile)
    where = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": f"{PROJECT}:{tmp_path}"}
    found, said = run(script, **where)
    assert found == [f"{1.0 + 8.0 + 27.0} {compiled_here} {begun}"]
    assert len(said) <= 1
    if not compiled_here:
        assert run(script, **where)[0][0].split()[1:] == ["0", "0"]
