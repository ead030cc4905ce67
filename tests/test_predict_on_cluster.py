"""Are predictions of a cluster those of this process, whatever happens to its workers?"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import ase.io
import pytest
from ase import Atoms
from ase.build import molecule
from potentials import new_potential
from structures import copper, ethanol, quartz, shaken
from torch import Tensor

from mlpot.data.cluster import ClusterError, WorkerError
from mlpot.data.h5md import Reader, write
from mlpot.evaluate import evaluate
from mlpot.model_file import save_potential
from mlpot.potential import Potential, UnknownElementError
from mlpot.predictions import labeled, predict_file, predict_structures

distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'mlpot[dask]'")
pytestmark = pytest.mark.xdist_group("dask")


def structures() -> list[Atoms]:
    """Molecules and crystals of several sizes, with what a file carries beside them."""
    some = [*(ethanol(k) for k in range(20)), quartz(), copper(), molecule("CH4"), *(ethanol(k) for k in range(9))]
    for k, atoms in enumerate(some):
        atoms.info["group"] = f"family {k % 3}"
    return some


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_potential(new_potential("schnet", n_features=8), tmp_path / "model")
    return tmp_path / "model"


def content(path: Path) -> list[tuple[object, ...]]:
    with Reader(path) as reader:
        return [
            (a.numbers.tolist(), a.positions.tobytes(), a.info, {k: str(v) for k, v in a.calc.results.items()})
            for a in reader.frames()
        ]


def test_workers_tell_the_spread_of_a_committee_as_this_process_does(cluster: distributed.LocalCluster) -> None:
    about = {"member": "schnet", "arguments": {"cutoff": 4.0, "n_features": 8}, "n_members": 2}
    mean = Potential("committee", about, reference_energies={1: -13.6, 6: -1029.0, 8: -2041.3}).freeze()
    frames, address = [ethanol(), molecule("CH4"), ethanol(1)], cluster.scheduler_address
    here, there = (list(predict_structures(mean, frames, batch_atoms=9, on=on)) for on in (None, address))
    for (_, own), (_, other) in zip(here, there, strict=True):
        assert (own.forces_std > 0).any()
        assert (own.forces_std == other.forces_std).all()
        assert own.energy_std == other.energy_std


def test_a_dead_worker_changes_no_prediction(
    tmp_path: Path, model: Path, cluster: distributed.LocalCluster
) -> None:
    """Order and bits are those of this process; what cannot be predicted is told alike."""
    frames = structures()
    frames.insert(5, Atoms("Xe"))
    write(tmp_path / "in.h5", frames, card={})
    told: dict[str, list[tuple[int, str]]] = {"here": [], "there": []}
    done: list[int] = []

    def kill(n: int, _: int | None) -> None:
        done.append(n)
        if n == 7:
            os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)

    for name, on in (("here", None), ("there", cluster.scheduler_address.replace("tcp://", "dask://"))):
        n = predict_file(
            model, tmp_path / "in.h5", tmp_path / f"{name}.h5", on=on, batch_atoms=20,
            on_bad=lambda *bad, name=name: told[name].append(bad), progress=kill if on else None,
        )  # fmt: skip
        assert n == len(frames) - 1
    assert done == list(range(1, len(frames)))
    assert told["here"] == told["there"] != []
    assert content(tmp_path / "there.h5") == content(tmp_path / "here.h5")


def test_errors_of_a_potential_are_those_of_this_process(model: Path, cluster: distributed.LocalCluster) -> None:
    reference = new_potential("schnet", n_features=8).freeze()
    set_of = [labeled(*pair) for pair in predict_structures(reference, structures())]
    assert evaluate(model, set_of, on=cluster.scheduler_address) == evaluate(model, set_of)


def test_what_ends_a_prediction_here_ends_it_there(cluster: distributed.LocalCluster) -> None:
    potential, frames = new_potential("schnet", n_features=8).freeze(), [ethanol(), ethanol(), Atoms("Xe")]
    for on in (None, cluster.scheduler_address):
        with pytest.raises(UnknownElementError, match=r"Structure 2 \(Xe\)"):
            list(predict_structures(potential, frames, on=on))


class Deadly(Potential):
    """Kills the process that computes silicon."""

    def check_elements(self, numbers: Tensor) -> None:
        if (numbers == 14).any():
            os._exit(139)
        super().check_elements(numbers)


@pytest.mark.slow  # each death costs the start of a process
def test_a_structure_that_kills_its_workers_is_named_and_others_are_predicted(
    cluster: distributed.LocalCluster,
) -> None:
    potential = new_potential("schnet", n_features=8).freeze()
    potential.__class__ = Deadly
    frames = [ethanol(), shaken(molecule("SiH4")), molecule("H2O")]
    told: dict[int, str] = {}
    on = cluster.scheduler_address
    found = predict_structures(potential, frames, on=on, batch_atoms=9, on_bad=told.__setitem__)
    assert [len(atoms) for atoms, _ in found] == [9, 3]
    assert "each worker that computed it died" in told[1]
    with pytest.raises(ClusterError, match=r"Structure 1 .*each worker that computed it died"):
        list(predict_structures(potential, frames, on=on))


def test_workers_of_another_version_are_refused(
    cluster: distributed.LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlpot.predictions.elsewhere.__version__", "99.0")
    with pytest.raises(WorkerError, match=r"this process by mlpot 99\.0"):
        list(predict_structures(new_potential("schnet").freeze(), [ethanol()], on=cluster.scheduler_address))


def test_a_scheduler_that_ends_is_told(model: Path, tmp_path: Path) -> None:
    ase.io.write(tmp_path / "in.xyz", [ethanol(k) for k in range(200)])
    local = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=":0"
    )

    def end(n: int, _: int | None) -> None:
        if n == 1:
            local.close()

    with local, pytest.raises(ClusterError, match=r"The scheduler ended.*Nothing is written"):
        predict_file(
            model,
            tmp_path / "in.xyz",
            tmp_path / "out.xyz",
            on=local.scheduler_address,
            batch_atoms=9,
            progress=end,
        )
    assert not (tmp_path / "out.xyz").exists()
