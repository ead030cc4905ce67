"""Does training learn, from the labels that are there, and refuse what nothing can be learned from?"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from lightning.pytorch import Callback
from places import TESTS
from sets import crystals, free_atoms, labeled, small_recipe, write
from structures import equal, ethanol, quartz, slab

import mlpot
from mlpot.data.check.survey import survey
from mlpot.data.errors import LabelError
from mlpot.data.h5md import content_hash, frame_of
from mlpot.forces import predict
from mlpot.graph import Properties, collate, collate_properties
from mlpot.neighbors import build_graph
from mlpot.training.fit import train
from mlpot.training.in_memory import flatten
from mlpot.training.losses import FUNCTIONS, Loss
from mlpot.training.messages import TrainingWarning
from mlpot.training.module import TrainingDivergedError
from mlpot.training.splits import (
    LeakageError,
    LeakageWarning,
    make_baseline,
    make_parts,
    structures,
)
from mlpot.training.trainer import make_trainer

WEIGHTS = (2.0, 3.0, 5.0)  # of energy, forces, stress


def zoo() -> list[Atoms]:
    """Molecule, crystal, slab, isolated atom, and two atoms that do not see each other."""
    return [ethanol(), quartz(), slab(), Atoms("H"), Atoms("H2", [(0, 0, 0), (0, 0, 30)]), ethanol(seed=5)]


def test_a_batch_of_the_flat_set_is_what_collate_makes() -> None:
    frames = [frame_of(atoms) for atoms in zoo()]
    flat = flatten(frames, cutoff=4.0)
    graphs = [build_graph(f.numbers, f.positions, f.cell, f.pbc, 4.0) for f in frames]
    for chosen in ([0], [3], [4], [5, 0, 3], [2, 1, 4, 0], [1, 1, 2]):
        graph, labels = flat.batch(torch.tensor(chosen))
        assert equal(graph, replace(collate([graphs[k] for k in chosen]), cutoff=inf))  # the set has one
        assert labels.energy.isnan().all()
        assert len(labels.forces) == graph.n_atoms


def test_labels_stay_with_their_structures() -> None:
    frames = [frame_of(atoms) for atoms in crystals(6)]
    labels = [
        Properties(
            torch.tensor([f.energy], dtype=torch.float64), torch.tensor(f.forces), torch.tensor(f.stress)[None]
        )
        for f in frames
    ]
    _, batch = flatten(frames, cutoff=4.0).batch(torch.tensor([4, 1, 5]))
    assert equal(collate_properties([labels[k] for k in (4, 1, 5)]), batch)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_missing_labels_do_not_count_and_poison_nothing(function: str) -> None:
    flat = flatten([frame_of(a) for a in [*crystals(2), ethanol(), *crystals(1, "energy")]], cutoff=4.0)
    graph, labels = flat.batch(torch.arange(4))
    n_atoms = graph.batch.bincount().double()
    energy, forces = (t.nan_to_num().add(0.3).requires_grad_() for t in (labels.energy, labels.forces))
    guess = Properties(energy, forces, labels.stress + 0.3)
    loss = Loss(WEIGHTS, function)
    value = loss(guess, labels, graph)
    f = FUNCTIONS[function]
    expected = (
        2 * f(0.3 / n_atoms[[0, 1, 3]], 0.01).mean()
        + (3 + 5) * f(torch.tensor(0.3, dtype=torch.float64), 0.01)  # the mean over whatever is known
    )
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    gradients = torch.autograd.grad(value, (guess.energy, guess.forces))
    for gradient, label in zip(gradients, (labels.energy, labels.forces), strict=True):
        assert gradient.isfinite().all()
        assert (gradient[label.isnan()] == 0).all()
    assert loss.of_tally(loss.tally(guess, labels, graph)).item() == pytest.approx(value.item())


def test_forces_of_masked_atoms_are_not_learnt() -> None:
    atoms = crystals(1)[0]
    atoms.set_array("force_mask", np.arange(len(atoms)) == 0)
    graph, labels = flatten([frame_of(atoms)], cutoff=4.0).batch(torch.tensor([0]))
    tally = Loss(WEIGHTS).tally(labels, labels, graph)
    assert tally[:, 1].tolist() == [1, 3, 9]


@pytest.mark.usefixtures("_pictures")
@pytest.mark.parametrize(
    "backbone",
    ["schnet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("deepsets", "egnn", "se3_transformer"))],
)
def test_training_lowers_errors_and_leaves_all_files(backbone: str, tmp_path: Path) -> None:
    data = write(tmp_path / "set.h5", crystals(20) + free_atoms())
    test = write(tmp_path / "test.h5", [labeled(a) for a in crystals(26)[20:]])
    recipe = small_recipe(data, tmp_path / "run", "training.epochs=30", f"data.test={test}", backbone=backbone)
    result = train(recipe)
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics == result.metrics
    whole = survey(data)
    forces = np.concatenate([a.get_forces() for a in crystals(20)])
    assert metrics["validation"]["forces_mae_meV_per_A"] < 0.7e3 * np.abs(forces).mean()
    assert set(metrics["test"]) == set(metrics["validation"])
    log = (tmp_path / "run/train.log").read_text()
    row = "".join(f"{metrics[name]['forces_mae_meV_per_A']:12.4g}" for name in ("validation", "test"))
    assert f"{'forces MAE, meV/Å':28s}{row}" in log[log.index("Errors of the potential:") :]
    for name in ("model.safetensors", "parity.png", "learning_curve.png", "recipe.yaml", "splits.json"):
        assert (tmp_path / "run" / name).stat().st_size > 100, name
    split = json.loads((tmp_path / "run/splits.json").read_text())
    assert len(split["validation"]) == 4
    assert sorted(split["train"] + split["validation"]) == structures(whole).indices.tolist()

    potential = mlpot.load(result.model)
    card = potential.header["card"]
    assert card["training_set_hash"] == content_hash(data)
    assert card["metrics"] == metrics
    assert card["ranges"]["nearest_distance_A"].keys() == {"Cu-Cu", "Cu-Au", "Au-Au"}
    for atom, energy in zip((29, 79), (a.get_potential_energy() for a in free_atoms()), strict=True):
        isolated_atom = build_graph([atom], np.zeros((1, 3)), np.zeros((3, 3)), False, potential.cutoff)
        assert predict(potential, isolated_atom).energy.item() == energy


def test_the_written_potential_has_the_errors_in_the_metrics(tmp_path: Path) -> None:
    result = train(small_recipe(write(tmp_path / "set.h5", crystals()), tmp_path / "run"))
    potential = mlpot.load(result.model)
    frames = [
        frame_of(crystals()[k]) for k in json.loads((tmp_path / "run/splits.json").read_text())["validation"]
    ]
    errors = []
    for f in frames:
        out = predict(potential, build_graph(f.numbers, f.positions, f.cell, f.pbc, potential.cutoff))
        errors += (1e3 * np.abs(out.forces.numpy() - f.forces)).ravel().tolist()
    assert np.mean(errors) == pytest.approx(result.metrics["validation"]["forces_mae_meV_per_A"], rel=1e-5)


def test_the_best_epoch_is_kept_with_averaged_weights(tmp_path: Path) -> None:
    """The errors of the file are those that validation saw in the best epoch."""
    data = write(tmp_path / "set.h5", crystals())
    result = train(small_recipe(data, tmp_path / "run", "optimizer.ema_decay=0.9", "training.epochs=6"))
    log = (tmp_path / "run/logs/version_0/metrics.csv").read_text().splitlines()
    column = log[0].split(",").index("validation/forces_mae_meV_per_A")
    seen = [float(line.split(",")[column]) for line in log[1:] if line.split(",")[column]]
    best = seen[result.metrics["best_epoch"] - 1]
    assert best == pytest.approx(result.metrics["validation"]["forces_mae_meV_per_A"], rel=1e-4)


@pytest.mark.usefixtures("_pictures")
@pytest.mark.parametrize("names", [("energy",), ("forces",), ("energy", "stress")], ids="+".join)
def test_any_kind_of_label_is_enough(names: tuple[str, ...], tmp_path: Path) -> None:
    data = write(tmp_path / "set.h5", crystals(12, *names) + free_atoms())
    result = train(small_recipe(data, tmp_path / "run", "training.epochs=2"))
    asked = {key.split("_")[0] for key in result.metrics["validation"] if "_mae_" in key}
    assert asked == set(names)
    assert all(np.isfinite(v) for v in result.metrics["validation"].values())


@pytest.mark.usefixtures("_pictures")
def test_structures_without_edges_train_without_nan(tmp_path: Path) -> None:
    frames = []
    for k in range(8):
        atoms = Atoms("H2", [(0, 0, 0), (0, 0, 20 + k)])
        atoms.calc = SinglePointCalculator(atoms, energy=-2.0, forces=np.full((2, 3), 0.1))
        frames.append(atoms)
    with pytest.warns(TrainingWarning, match="no atom has a neighbor within the cutoff"):
        result = train(small_recipe(write(tmp_path / "set.h5", frames), tmp_path / "run", "loss.energy=0"))
    assert result.metrics["validation"]["forces_mae_meV_per_A"] == pytest.approx(100)
    assert all(p.isfinite().all() for p in result.potential.parameters())


@pytest.mark.parametrize("precision", ["float64", "tf32"])
def test_other_precisions_on_request(precision: str, tmp_path: Path) -> None:
    before = torch.get_float32_matmul_precision()
    data = write(tmp_path / "set.h5", crystals())
    result = train(small_recipe(data, tmp_path / "run", f"training.precision={precision}"))
    assert result.potential.dtype == (torch.float64 if precision == "float64" else torch.float32)
    assert np.isfinite(result.metrics["validation"]["forces_mae_meV_per_A"])
    assert torch.get_float32_matmul_precision() == before


def test_training_does_not_touch_the_callers_random_numbers(tmp_path: Path) -> None:
    data = write(tmp_path / "set.h5", crystals())
    before = torch.get_rng_state()
    train(small_recipe(data, tmp_path / "run"))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    data = write(tmp_path / "set.h5", crystals())
    runs = [("a", 1), ("b", 1), ("c", 2)]
    weights = [
        torch.cat([p.flatten() for p in potential.parameters()])
        for name, seed in runs
        for potential in [train(small_recipe(data, tmp_path / name, f"training.seed={seed}")).potential]
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_early_stop_and_time_limit_end_a_run(tmp_path: Path) -> None:
    data = write(tmp_path / "set.h5", crystals())
    idle = ["optimizer.learning_rate=1e-12", "optimizer.ema_decay=0", "training.epochs=50"]
    stopped = train(small_recipe(data, tmp_path / "a", *idle, "training.patience=2", "training.precision=float32"))
    assert stopped.metrics["epochs"] < 50
    timed = train(small_recipe(data, tmp_path / "b", *idle, "training.max_minutes=1e-4"))
    assert timed.metrics["epochs"] == 1


class Poison(Callback):
    """Makes a weight NaN."""

    def on_train_batch_start(self, trainer: object, pl_module: torch.nn.Module, *_: object) -> None:
        next(pl_module.parameters()).data.fill_(torch.nan)


@pytest.mark.filterwarnings("ignore:Diverged")
def test_a_diverged_training_stops_with_advice(tmp_path: Path) -> None:
    data = write(tmp_path / "set.h5", crystals())
    with pytest.raises(TrainingDivergedError, match="learning_rate"):
        train(small_recipe(data, tmp_path / "run"), callbacks=[Poison()])


def zero_forces(atoms: Atoms) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=np.zeros((len(atoms), 3)))
    return atoms


@pytest.mark.filterwarnings("ignore::mlpot.data.split.RareElementWarning")  # of the zoo
@pytest.mark.parametrize(
    ("frames", "overrides", "message"),
    [
        (lambda: crystals(8, "energy"), ["loss.energy=0"], "weighs forces, stress"),
        (lambda: [a for a in zoo() * 2], [], "nothing to learn"),  # noqa: C416
        (lambda: free_atoms() * 8, [], "every frame is an isolated atom"),
        (lambda: [zero_forces(a) for a in crystals(8)], [], "exactly zero"),
        (lambda: crystals(3), [], "too few"),
    ],
    ids=["no label with a weight", "no labels", "free atoms only", "forces all zero", "too few"],
)
def test_nothing_to_learn_is_said_before_the_first_epoch(frames, overrides, message, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = write(tmp_path / "set.h5", frames())
    with pytest.raises(ValueError, match=message):
        train(small_recipe(data, tmp_path / "run", *overrides))
    assert not (tmp_path / "run").exists()


def test_a_nan_label_in_the_file_is_refused_by_its_index(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    data = write(tmp_path / "set.h5", crystals())
    with h5py.File(data, "r+") as file:
        energies = next(g for g in file["observables"].values())["energy/value"]
        energies[2] = np.inf
    with pytest.raises(LabelError, match=r"[Ff]rame \d+"):
        train(small_recipe(data, tmp_path / "run"))


def test_an_element_that_is_only_in_the_test_set_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "set.h5", crystals())
    test = write(tmp_path / "test.h5", [labeled(Atoms("Ag2", [(0, 0, 0), (0, 0, 2.6)]))])
    with pytest.raises(ValueError, match="Ag"):
        train(small_recipe(data, tmp_path / "run", f"data.test={test}"))


def test_test_structures_in_the_training_set_are_refused_unless_allowed(tmp_path: Path) -> None:
    frames = crystals()
    data, test = write(tmp_path / "set.h5", frames), write(tmp_path / "test.h5", frames[:3])
    recipe = small_recipe(data, tmp_path / "run", f"data.test={test}")
    with pytest.raises(LeakageError, match=r"of the test structures"):
        make_parts(recipe.data, recipe.loss)
    allowed = small_recipe(data, tmp_path / "run", f"data.test={test}", "data.allow_duplicates=true")
    with pytest.warns(LeakageWarning, match="test"):
        parts = make_parts(allowed.data, allowed.loss)
    assert 0 < parts.repeated()["test"] <= 3


def test_test_structures_that_choose_the_best_epoch_are_refused_unless_allowed(tmp_path: Path) -> None:
    frames = crystals()
    data, other = write(tmp_path / "set.h5", frames[3:]), write(tmp_path / "other.h5", frames[:3])
    same = (f"data.validation={other}", f"data.test={other}")
    recipe = small_recipe(data, tmp_path / "run", *same)
    with pytest.raises(LeakageError, match=r"of the test structures are in the validation set"):
        make_parts(recipe.data, recipe.loss)
    allowed = small_recipe(data, tmp_path / "run", *same, "data.allow_duplicates=true")
    with pytest.warns(LeakageWarning, match="validation set"):
        make_parts(allowed.data, allowed.loss)


@pytest.mark.parametrize("setting", ["devices=0", "devices=[]", "strategy=nonsense", "strategy=xla", "nodes=2"])
def test_devices_that_are_not_here_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    recipe = small_recipe(tmp_path / "a.h5", tmp_path, "training.accelerator=cpu", f"training.{setting}")
    with pytest.raises(ValueError, match=r"training\.(accelerator|nodes)"):
        make_trainer(recipe, tmp_path, [])


def test_repeated_structures_in_validation_are_counted(tmp_path: Path) -> None:
    data = write(tmp_path / "set.h5", crystals(6) * 2)
    recipe = small_recipe(data, tmp_path / "run")
    with pytest.warns(LeakageWarning, match="validation"):
        make_parts(recipe.data, recipe.loss)


def test_free_atoms_become_references_and_nothing_else(tmp_path: Path) -> None:
    data = write(tmp_path / "set.h5", [*free_atoms(), *crystals(8), labeled(Atoms("Ag"), "energy")])
    recipe = small_recipe(data, tmp_path / "run")
    parts = make_parts(recipe.data, recipe.loss)
    assert parts.train.elements == [29, 79]
    assert not set(parts.train.indices) & {0, 1, 10}
    start = make_baseline(parts.train, None)
    copper, gold = (atom.get_potential_energy() for atom in free_atoms())
    assert start.reference_energies == {29: copper, 79: gold}
    assert make_baseline(parts.train, {"Cu": -1.0}).reference_energies[29] == -1.0


DDP = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from sets import small_recipe
from mlpot.training.fit import train
result = train(small_recipe(Path({data!r}), Path({run!r}), "training.devices=2", "training.strategy=ddp",
                            "training.accelerator=cpu", *{overrides!r}, backbone={backbone!r}))
print("metrics", bool(result.metrics))
"""


def train_in_two_processes(tmp_path: Path, backbone: str, *overrides: str) -> Path:
    """The directory of the run."""
    data, run = write(tmp_path / "set.h5", crystals()), tmp_path / f"run{len(overrides)}"
    script = tmp_path / "ddp.py"
    values = {"data": str(data), "run": str(run), "backbone": backbone, "overrides": overrides}
    script.write_text(DDP.format(tests=str(TESTS), **values))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"metrics False", "metrics True"} <= set(done.stdout.splitlines())
    return run


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize("backbone", ["deepsets", "schnet"])
def test_two_processes_train_what_one_trains(tmp_path: Path, backbone: str, stream: str) -> None:
    """L26: with the same batches together, of 5 and of 2 frames; the native call and PyTorch; metrics too."""
    settings = ("training.precision=float64", "data.validation=5", "training.epochs=4", f"data.stream={stream}")
    run = train_in_two_processes(tmp_path, backbone, *settings, "optimizer.name=adamw", "training.batch_size=3")
    own = ("optimizer.name=adamw", "training.batch_size=6")
    train(small_recipe(tmp_path / "set.h5", tmp_path / "alone", *settings, *own, backbone=backbone))
    metrics = [json.loads((path / "metrics.json").read_text()) for path in (run, tmp_path / "alone")]
    assert [m["processes"] for m in metrics] == [2, 1]
    last = [torch.load(p / "checkpoints/last.ckpt", weights_only=True) for p in (run, tmp_path / "alone")]
    assert [state["global_step"] for state in last] == [4 * 2] * 2  # 11 frames in batches of 6
    for name, weights in last[1]["state_dict"].items():
        # Adam makes steps of rounding where a gradient is zero: of the last bias.
        torch.testing.assert_close(last[0]["state_dict"][name], weights, rtol=1e-9, atol=1e-9)
    for name, error in metrics[1]["validation"].items():
        assert metrics[0]["validation"][name] == pytest.approx(error, rel=1e-8)


@pytest.mark.slow
def test_two_processes_on_knots_learn_what_they_learn_without(tmp_path: Path) -> None:
    exact = "training.precision=float64"
    runs = [
        train_in_two_processes(tmp_path, "schnet", exact, *knots)
        for knots in ((), ("model.arguments.n_knots=256",))
    ]
    plain, knots = (mlpot.load(run / "model.safetensors").state_dict() for run in runs)
    assert plain.keys() == knots.keys()
    for name, weights in plain.items():
        torch.testing.assert_close(knots[name], weights, rtol=1e-4, atol=1e-5)
