"""Is the potential of a committee the mean of its members, and does its training go on as if never stopped?"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sets import crystals, small_recipe, write
from structures import graph_of
from training_runs import PowerCutError, StopIn, pictures

from mlpot.forces import predict
from mlpot.graph import edge_vectors
from mlpot.model_file import ModelFileError, load_potential
from mlpot.models import COMMITTEE, build_backbone
from mlpot.recipes import RecipeError
from mlpot.signals import SignalledError
from mlpot.training import fit, member_process
from mlpot.training.committee import member_recipe, train
from mlpot.training.fit import TrainingResult
from mlpot.training.member_process import MemberError, train_members
from mlpot.training.messages import Messages
from mlpot.training.run_directory import RunDirectoryError, write_beginning
from mlpot.training.splits import make_parts

MEMBERS = 3
ALONE = {"committee": 1, "epochs": 1, "solve": False}
THREE = (f"training.committee={MEMBERS}", "training.epochs=2", "model.backbone=schnet")
BACKBONES = {
    "schnet": ("model.backbone=schnet",),
    "egnn": ("model.backbone=egnn",),
    "ace": (
        "model.backbone=ace",
        "model.arguments={cutoff: 4.0, n_features: 8, n_radial: 6, max_degree: 2, n_neighbors: 12}",
        "optimizer.name=muon",
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "set.h5", crystals())


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """A committee that is never changed, with its pictures."""
    with pytest.MonkeyPatch.context() as patch:
        pictures(patch)
        return train(small_recipe(data, tmp_path_factory.mktemp("whole"), *THREE))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_energies_and_forces_are_the_means_of_the_members(
    backbone: str, data: Path, trained: TrainingResult, tmp_path: Path
) -> None:
    recipe = small_recipe(data, tmp_path, *THREE, *BACKBONES[backbone])
    result = trained if backbone == "schnet" else train(recipe)
    mean = load_potential(result.model, dtype="float64")
    members = [
        load_potential(result.directory / f"member_{k}" / "model.safetensors", dtype="float64")
        for k in range(MEMBERS)
    ]
    graph = graph_of(crystals(1)[0], mean.cutoff)
    one_by_one = [predict(member, graph) for member in members]
    assert (one_by_one[0].energy - one_by_one[1].energy).abs() > 1e-4  # they were drawn from other seeds
    for native in (True, False):
        found = predict(mean, graph, native=native)
        for name in ("energy", "forces", "stress"):
            expected = torch.stack([getattr(p, name) for p in one_by_one]).mean(dim=0)
            torch.testing.assert_close(getattr(found, name), expected, rtol=1e-11, atol=1e-11)


def test_members_may_differ_in_cutoff_and_width(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their outer terms reach as far as those of the mean, so that this is their mean to the last digit."""
    own = "training.member_arguments=[{cutoff: 3.2}, {cutoff: 4.5, n_features: 6}, {}]"
    test = f"data.test={write(tmp_path / 'test.h5', crystals(20)[16:])}"
    recipe = small_recipe(data, tmp_path, *THREE, *BACKBONES["ace"], own, test, "training.progress=true")
    result = train(recipe)
    row = f"{'energy RMSE, meV/atom':28s}{result.metrics['test']['energy_rmse_meV_per_atom']:12.4g}"
    assert row in capsys.readouterr().out
    mean = load_potential(result.model, dtype="float64")
    files = [result.directory / f"member_{k}" / "model.safetensors" for k in range(MEMBERS)]
    members = [load_potential(file, dtype="float64") for file in files]
    assert [member.backbone.cutoff for member in members] == [3.2, 4.5, 4.0]
    assert {member.cutoff for member in members} == {mean.cutoff} == {4.5}
    atoms = crystals(1)[0]
    for structure in (atoms, atoms[:2]):  # of few neighbors too, where the coordination tells
        graph = graph_of(structure, mean.cutoff)
        one_by_one = [predict(member, graph) for member in members]
        torch.testing.assert_close(predict(members[0], graph, native=False).energy, one_by_one[0].energy)
        for native in (True, False):
            found = predict(mean, graph, native=native)
            for name in ("energy", "forces"):
                expected = torch.stack([getattr(p, name) for p in one_by_one]).mean(dim=0)
                torch.testing.assert_close(getattr(found, name), expected, rtol=1e-11, atol=1e-11)
    written = [file.stat().st_mtime_ns for file in files]
    train(recipe, resume=True)
    assert written == [file.stat().st_mtime_ns for file in files]  # what had finished is not trained again


def test_members_are_those_that_their_seeds_give_alone(
    data: Path, trained: TrainingResult, tmp_path: Path
) -> None:
    alone = train(small_recipe(data, tmp_path, *THREE, "training.committee=1", "training.seed=2"))
    expected, found = (p.backbone.state_dict() for p in (alone.potential, trained.potential))
    for name, weight in expected.items():
        assert torch.equal(weight, found[f"members.2.{name}"]), name


def test_members_that_validate_by_own_frames_learn_from_all_of_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(monkeypatch)
    recipe = small_recipe(data, tmp_path, *THREE, "training.own_validation=true", "data.validation=4")
    metrics = train(recipe).metrics
    splits = [
        json.loads((tmp_path / f"member_{k}" / "splits.json").read_text(encoding="utf-8")) for k in range(MEMBERS)
    ]
    left_out = [set(split["validation"]) for split in splits]
    assert len(set.union(*left_out)) == 4 * MEMBERS  # no frame twice
    assert set.union(*(set(split["train"]) for split in splits)) == set(range(len(crystals())))

    errors = []  # of each member on the frames that it left out
    for k, frames in enumerate(left_out):
        member = load_potential(tmp_path / f"member_{k}" / "model.safetensors", dtype="float64")
        for frame in frames:
            atoms = crystals()[frame]
            errors.append(
                predict(member, graph_of(atoms, member.cutoff)).forces - torch.tensor(atoms.get_forces())
            )
    expected = 1e3 * torch.cat(errors).square().mean().sqrt().item()
    assert metrics["validation"]["forces_rmse_meV_per_A"] == pytest.approx(expected, rel=1e-4)
    assert metrics["validation"]["n_structures"] == 4 * MEMBERS
    assert metrics["repeated_structures"] == {"validation": 0}
    assert metrics["labels"]["structures"] == len(crystals())
    for text in (metrics["validation_set_of"], (tmp_path / "parity.json").read_text(encoding="utf-8")):
        assert "left it out" in text
    written = (tmp_path / "member_2" / "model.safetensors").stat().st_mtime_ns
    assert train(recipe, resume=True).metrics["validation"] == metrics["validation"]
    assert (tmp_path / "member_2" / "model.safetensors").stat().st_mtime_ns == written


def test_folds_go_around_the_set(data: Path, tmp_path: Path) -> None:
    def validating(*overrides: str) -> list[int]:
        recipe = small_recipe(data, tmp_path, "data.validation=5", *overrides)
        return make_parts(recipe.data, recipe.loss).validation.indices.tolist()

    folds = [validating(f"data.fold={k}") for k in range(4)]
    assert validating() == folds[0]
    assert len({frame for fold in folds[:3] for frame in fold}) == 15  # of 16
    assert {frame for fold in folds for frame in fold} == set(range(16))  # the last one begins again


AT_ONCE = "training.members_at_once=2"


@pytest.mark.parametrize("n_left", [1, pytest.param(2, marks=pytest.mark.slow)])  # a process each
def test_members_that_are_trained_at_once_are_those_that_are_trained_in_turn(
    n_left: int, data: Path, trained: TrainingResult, tmp_path: Path
) -> None:
    for k in range(MEMBERS - n_left):  # which have finished
        shutil.copytree(trained.directory / f"member_{k}", tmp_path / f"member_{k}")
    write_beginning(tmp_path, small_recipe(data, tmp_path, *THREE), {"committee": MEMBERS})
    result = train(small_recipe(data, tmp_path, *THREE, AT_ONCE), resume=True)
    for name, weight in trained.potential.state_dict().items():
        assert torch.equal(weight, result.potential.state_dict()[name]), name
    assert {k: result.metrics[k] for k in ("validation", "seed")} == {
        k: trained.metrics[k] for k in ("validation", "seed")
    }


def test_members_that_found_their_number_of_neighbors_have_finished(data: Path, tmp_path: Path) -> None:
    """It stands in their recipes, and not in the committee's: those trained at once were to be trained again."""
    arguments = "model.arguments={cutoff: 4.0, n_features: 4, n_radial: 4, max_degree: 1}"
    ace = ("model.backbone=ace", arguments, "training.epochs=1", "training.solve=false", "training.committee=2")
    recipe = small_recipe(data, tmp_path, *ace, AT_ONCE)
    members = [fit.train(member_recipe(recipe, k)) for k in range(2)]
    write_beginning(tmp_path, recipe, {"committee": 2})
    result = train(recipe, resume=True)
    assert [m["seconds"] for m in result.metrics["members"]] == [m.metrics["seconds"] for m in members]


@pytest.mark.slow
def test_the_process_of_a_member_tells_why_it_stopped(data: Path, tmp_path: Path) -> None:
    recipe = member_recipe(small_recipe(data, tmp_path, *THREE, "data.train=absent.h5"), 1)
    with pytest.raises(MemberError, match=r"Member 2: .*absent\.h5.* go on with --resume"):
        train_members({1: recipe}, 2, Messages(show=False), resume=False)


def test_a_member_that_cannot_be_trained_says_why(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = member_recipe(small_recipe(data, tmp_path, *THREE, "data.train=absent.h5"), 1)
    told = json.dumps({"recipe": recipe.model_dump(mode="json"), "resume": False})
    monkeypatch.setattr("sys.stdin", io.StringIO(told))
    monkeypatch.setattr(member_process, "end_with_parent", lambda: None)
    with pytest.raises(SystemExit, match="1"):
        member_process.train_one()
    assert "absent.h5" in capsys.readouterr().out


def test_what_the_process_of_a_member_says_is_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = member_recipe(small_recipe(data, tmp_path, *THREE), 1)
    for command, says in (("print('no gold'); exit(1)", "no gold"), ("exit(1)", "ended with 1, and said nothing")):
        monkeypatch.setattr(member_process, "COMMAND", command)
        with pytest.raises(MemberError, match=rf"Member 2: .*{says}.* go on with --resume"):
            train_members({1: recipe}, 2, Messages(show=False), resume=False)


def test_callbacks_do_not_reach_other_processes(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="members_at_once"):
        train(small_recipe(data, tmp_path, *THREE, AT_ONCE), callbacks=[StopIn(0, step=2)])


@pytest.mark.slow
def test_members_at_once_stop_by_a_signal_and_go_on(data: Path, trained: TrainingResult, tmp_path: Path) -> None:
    overrides = ("training.committee=3", "training.epochs=400", "model.backbone=schnet")
    recipe = small_recipe(data, tmp_path, *overrides, AT_ONCE)

    def interrupt() -> None:
        while not all((tmp_path / f"member_{k}" / "checkpoints").exists() for k in (0, 1)):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(SignalledError, match="--resume"):
        train(recipe)
    assert not (tmp_path / "member_2").exists()
    shorter = small_recipe(data, tmp_path, *overrides, AT_ONCE, "training.epochs=401")
    result = train(shorter, resume=True)
    assert result.metrics["epochs"] == 401


@pytest.mark.parametrize("member", [1, *(pytest.param(k, marks=pytest.mark.slow) for k in (0, 2))])
def test_a_resumed_committee_is_an_unstopped_one(
    member: int, data: Path, trained: TrainingResult, tmp_path: Path
) -> None:
    recipe = small_recipe(data, tmp_path, *THREE)
    with pytest.raises(PowerCutError):
        train(recipe, callbacks=[StopIn(member, step=2)])
    finished = [tmp_path / f"member_{k}" / "model.safetensors" for k in range(member)]
    written = [path.stat().st_mtime_ns for path in finished]
    result = train(recipe, resume=True)
    assert [path.stat().st_mtime_ns for path in finished] == written  # what had finished is not trained again
    for name, weight in trained.potential.state_dict().items():
        assert torch.equal(weight, result.potential.state_dict()[name]), name
    same = ("validation", "n_weights", "epochs", "best_epoch")
    assert {k: result.metrics[k] for k in same} == {k: trained.metrics[k] for k in same}


def test_a_committee_grows_when_it_is_resumed_with_more_members(
    data: Path, trained: TrainingResult, tmp_path: Path
) -> None:
    shutil.copytree(trained.directory, tmp_path, dirs_exist_ok=True)
    result = train(small_recipe(data, tmp_path, *THREE, f"training.committee={MEMBERS + 1}"), resume=True)
    assert result.potential.arguments["n_members"] == MEMBERS + 1
    for name, weight in trained.potential.backbone.state_dict().items():
        assert torch.equal(weight, result.potential.backbone.state_dict()[name]), name


def test_files_of_a_committee_tell_of_all_members(trained: TrainingResult) -> None:
    metrics = json.loads((trained.directory / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["backbone"] == f"committee of {MEMBERS} schnet"
    assert [m["seed"] for m in metrics["members"]] == [0, 1, 2]
    assert metrics["seconds"] == pytest.approx(sum(m["seconds"] for m in metrics["members"]))
    for name in ("parity.png", "learning_curve.png", "recipe.yaml", "splits.json"):
        assert (trained.directory / name).stat().st_size > 0
    member = load_potential(trained.directory / "member_0" / "model.safetensors")
    assert metrics["n_weights"] == MEMBERS * sum(weight.numel() for weight in member.parameters())


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("training.devices=2", "training.strategy=ddp"), "several devices"),
        (("model.backbone=committee",), "committee"),
        (("model.backbone=deepsets",), "no list of stages"),
        (("training.committee=0",), "committee"),
        (("training.member_arguments=[{cutoff: 4.0}]",), "of 1 members, and training.committee is 3"),
        (("training.member_arguments=[{}, {}, {cutof: 4.0}]",), "number 3: .* perhaps 'cutoff' is meant"),
        (("training.committee=1", "training.member_arguments=[{}]"), "give training.committee too"),
        (("training.committee=1", "training.own_validation=true"), "own_validation is of a committee"),
        (("training.own_validation=true", "data.validation=v.h5"), "data.validation is a file"),
        (("training.own_validation=true", "data.fold=1"), "leave data.fold out"),
    ],
)
def test_what_a_committee_cannot_be_trained_with_is_refused(
    overrides: tuple[str, ...], says: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=says):
        train(small_recipe(data, tmp_path, *THREE, *overrides))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        {"member": []},
        {"member": "committee"},
        {"arguments": "x"},
        {"arguments": None},
        {"arguments": {"cutoff": 1e9}},
        {"arguments": {"cutoff": 4.0, "unknown": 1}},
        {"n_members": 10**9},
        {"n_members": 2.5},
        {"n_members": MEMBERS - 1},
        {"member_arguments": [{}]},
        {"member_arguments": [{}, {}, 3]},
        {"member_arguments": [{}, {}, {"cutoff": 1e9}]},
    ],
    ids=str,
)
def test_a_file_of_an_absurd_committee_is_refused(
    change: dict[str, object], trained: TrainingResult, tmp_path: Path
) -> None:
    with safe_open(trained.model, "pt") as file:
        header = json.loads(file.metadata()["mlpot"])
    header["arguments"] |= change
    save_file(load_file(trained.model), tmp_path / "model.safetensors", {"mlpot": json.dumps(header)})
    with pytest.raises(ModelFileError):
        load_potential(tmp_path / "model.safetensors")


def test_a_committee_does_not_start_from_one_network(data: Path, trained: TrainingResult, tmp_path: Path) -> None:
    start = trained.directory / "member_0" / "model.safetensors"
    with pytest.raises(RecipeError, match="hardly differ"):
        train(small_recipe(data, tmp_path, *THREE, f"model.start={start}"))


def test_a_committee_does_not_go_on_by_another_recipe(data: Path, trained: TrainingResult, tmp_path: Path) -> None:
    shutil.copytree(trained.directory, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "recipe.yaml").read_bytes()
    with pytest.raises(RecipeError, match=r"optimizer\.learning_rate"):
        train(small_recipe(data, tmp_path, *THREE, "optimizer.learning_rate=0.1"), resume=True)
    assert (tmp_path / "recipe.yaml").read_bytes() == before


def test_no_run_takes_the_place_of_a_committee_without_a_word(
    data: Path, trained: TrainingResult, tmp_path: Path
) -> None:
    shutil.copytree(trained.directory, tmp_path, dirs_exist_ok=True)
    for overrides in (THREE, (*THREE, "training.committee=1")):
        with pytest.raises(RunDirectoryError, match=r"another training\.directory"):
            train(small_recipe(data, tmp_path, *overrides))


def test_members_of_other_data_are_no_committee(data: Path, trained: TrainingResult, tmp_path: Path) -> None:
    shutil.copytree(trained.directory, tmp_path / "run", dirs_exist_ok=True)
    fewer = write(tmp_path / "set.h5", crystals(12))
    with pytest.raises((RunDirectoryError, RecipeError), match=r"trained on other data|data changed"):
        train(small_recipe(fewer, tmp_path / "run", *THREE), resume=True)


def test_a_committee_takes_new_elements_as_its_members_do() -> None:
    """Gold and copper, then silver between them: the function of the old elements is the same."""
    arguments = {"cutoff": 4.0, "n_features": 8, "n_radial": 6, "max_degree": 2, "n_knots": 32}
    old, new = (
        build_backbone(COMMITTEE, elements=z, member="ace", arguments=arguments, n_members=2).double()
        for z in ((29, 79), (29, 47, 79))
    )
    weights, places = dict(new.state_dict()), torch.tensor([0, 2])
    for name, weight in new.widened(old.state_dict(), (29, 79)).items():
        if weight.shape == weights[name].shape:
            weights[name] = weight
        else:
            assert weight.shape[1:] == weights[name].shape[1:], name
            weights[name][places] = weight
    new.load_state_dict(weights)
    graph = graph_of(crystals(1)[0], 4.0)
    inputs = (graph.numbers, graph.edges, edge_vectors(graph))
    torch.testing.assert_close(new(*inputs), old(*inputs), rtol=1e-12, atol=1e-12)


def test_a_committee_of_what_is_no_list_of_stages_is_refused_before_its_members_train(
    data: Path, tmp_path: Path
) -> None:
    directly = small_recipe(data, tmp_path / "run", *THREE, "model.arguments={cutoff: 3.0, n_knots: null}")
    with pytest.raises(RecipeError, match=r"committee.*schnet is none here: .*n_knots is null"):
        train(directly)
    assert not (tmp_path / "run").exists()
    alone = fit.train(directly.model_copy(update={"training": directly.training.model_copy(update=ALONE)}))
    assert alone.metrics["validation"]["forces_mae_meV_per_A"] > 0  # which the definition in PyTorch computes
