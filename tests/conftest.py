"""One thread, one seed, and what several tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import numpy as np
import potentials
import pytest
import torch

from mlpot.potential import Potential

torch.set_num_threads(1)  # sums of equal numbers in equal order; and tests may run side by side


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """With MLPOT_SKIPS_FAIL in the environment, a skipped test is a failure, see `make skipped`."""
    report = yield
    if report.skipped and "MLPOT_SKIPS_FAIL" in os.environ:
        report.outcome, report.longrepr = "failed", f"skipped: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Every test begins with the same random numbers and ends with the same defaults."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (what other packages draw from)
    yield
    assert torch.get_default_dtype() == torch.float32, "a test changed the default dtype"


@pytest.fixture
def _from_a_terminal() -> Iterator[None]:
    """Signals end a process, whatever started the tests: nohup and shells in the background have some ignored."""
    before = {s: signal.signal(s, signal.SIG_DFL) for s in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def small_potential() -> Callable[..., Potential]:
    """Factory: small_potential("schnet", trained=True, dtype=torch.float64), see `potentials.py`."""
    return potentials.small_potential


@pytest.fixture(params=list(potentials.VARIANTS))
def variant(request: pytest.FixtureRequest) -> str:
    """The name of each kind of potential in turn."""
    return str(request.param)


@pytest.fixture(params=[f"{v}-{s}" for v in potentials.VARIANTS for s in ("untrained", "trained")])
def potential(request: pytest.FixtureRequest) -> Potential:
    """Each kind of potential in turn, untrained and trained, float64, frozen for use."""
    name, state = request.param.split("-")
    return potentials.small_potential(name, trained=state == "trained").freeze()
