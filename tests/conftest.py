"""One thread, one seed, and what several tests share."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from functools import cache
from itertools import combinations

import numpy as np
import potentials
import pytest
import torch
import typer.main
import typer.testing

from mlpot.models import BACKBONES
from mlpot.potential import Potential

torch.set_num_threads(1)  # sums of equal numbers in equal order; and tests may run side by side


NETWORK = re.compile("|".join(BACKBONES))


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say what `--dist loadgroup` gives to one process; all other tests are handed out one by one, last.

    Tests of a network, which is compiled and trained once for all of them, and those of a file that share what a
    fixture prepares. And make slow what the tests that are marked `pairs` can do without.
    """
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("pairs") and len(_values(item)) > 2:
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
        if group := _network(item) or _file_of_shared_fixtures(item):
            item.add_marker(pytest.mark.xdist_group(group))
    for of_test in cases.values():
        for item in set(of_test) - _in_which_pairs_meet(of_test):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fail where `--dist loadgroup` is asked for and groups are not among the names of tests, as it needs them.

    With pytest 9.2 they were silently dropped, and what a fixture prepares for a file was prepared twice.
    """
    if session.config.getoption("loadgroup", False):
        for item in session.items:
            if item.get_closest_marker("xdist_group") and "@" not in item.nodeid:
                raise pytest.UsageError(f"{item.nodeid} has no group: pytest-xdist does not know this pytest")


def _in_which_pairs_meet(cases: list[pytest.Item]) -> set[pytest.Item]:
    """A few cases of one test in which every two values of its lists of parameters meet.

    The next is always the one with most pairs that have not met yet (D. M. Cohen et al., IEEE Trans. Softw. Eng.
    23, 437 (1997)).
    """
    pairs = {case: set(combinations(sorted(_values(case).items()), 2)) for case in cases}
    chosen, left = set(), set().union(*pairs.values())
    while left:
        best = max(cases, key=lambda case: len(pairs[case] & left))
        chosen.add(best)
        left -= pairs[best]
    return chosen


def _values(item: pytest.Item) -> dict[str, str]:
    """What a test is given of each of its lists; a potential has a network and a state."""
    given = item.callspec.params.items() if hasattr(item, "callspec") else ()
    values = {name: repr(value) for name, value in given}
    for name in ("potential", "rotating_potential"):
        if name in values:
            values["network"], values["state"] = values.pop(name).split("-")
    return values


def _network(item: pytest.Item) -> str | None:
    """The network that a test's parameters name, if they do: egnn for `egnn_moving-trained`."""
    given = item.callspec.params.values() if hasattr(item, "callspec") else ()
    found = (NETWORK.match(value) for value in given if isinstance(value, str))
    return next((match[0] for match in found if match), None)


def _file_of_shared_fixtures(item: pytest.Item) -> str | None:
    """The file of a test that is given what was made once for all of its file."""
    made = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
    shared = any(f.scope == "module" for name, fixtures in made.items() for f in fixtures if name[0] != "_")
    return item.path.stem if shared else None


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


@pytest.fixture(scope="session", autouse=True)
def _one_tree_of_commands() -> Iterator[None]:
    """Typer builds the tree of all commands anew for each, which takes longer than most of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", cache(typer.main.get_command))
        patch.setattr(typer.testing, "_get_command", typer.main.get_command)
        yield


@pytest.fixture(scope="module")
def _no_pictures() -> Iterator[None]:
    """Trainings of this module draw none, which take as long as small trainings, see `training_runs.pictures`."""
    from training_runs import no_pictures  # with which Lightning comes

    with pytest.MonkeyPatch.context() as patch:
        no_pictures(patch)
        yield


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


def _frozen(request: pytest.FixtureRequest) -> Potential:
    name, state = request.param.split("-")
    return potentials.small_potential(name, trained=state == "trained").freeze()


@pytest.fixture(params=[f"{v}-{s}" for v in potentials.VARIANTS for s in ("untrained", "trained")])
def potential(request: pytest.FixtureRequest) -> Potential:
    """Each kind of potential in turn, untrained and trained, float64, frozen for use."""
    return _frozen(request)


@pytest.fixture(params=[f"{v}-{s}" for v in potentials.ROTATING for s in ("untrained", "trained")])
def rotating_potential(request: pytest.FixtureRequest) -> Potential:
    """As `potential`, of kinds that rotate with their structures by construction."""
    return _frozen(request)


@pytest.fixture(scope="module")  # idle workers look for work all the time
def workers() -> Iterator[object]:
    dask = pytest.importorskip("dask")
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'mlpot[dask]'")
    settings = {"distributed.scheduler.allowed-failures": 0}
    with dask.config.set(settings), distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0"
    ) as local:  # fmt: skip
        yield local


@pytest.fixture
def cluster(workers: object) -> object:
    """A scheduler on this machine and two workers, each a process; Dask gives a task up when one died of it."""
    from distributed import Client

    with Client(workers, set_as_default=False) as client:  # workers that the test before killed are there again
        client.wait_for_workers(2)
    return workers
