"""A training that starts from a model: what is kept to the bit, what is refused, and what is said.

The numbers N1 to N10 are those of faults that other packages had.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from lightning.pytorch import Callback
from sets import crystals, labeled, small_recipe, write
from slow_parts import quick
from training_runs import assert_same, assert_same_training

import mlpot
from mlpot.averaging import averaged
from mlpot.forces import predict
from mlpot.model_file import ModelFileError
from mlpot.models import BACKBONES
from mlpot.neighbors import build_graph
from mlpot.propagators.propagator import Propagator
from mlpot.propagators.propagator_file import save_propagator
from mlpot.recipes import RecipeError, load_recipe
from mlpot.training.fit import TrainingResult, train
from mlpot.training.messages import LOG, TrainingWarning
from mlpot.training.parameter_groups import element_rows
from mlpot.training.recipe import Recipe
from mlpot.training.start_references import StrangeEnergiesError

CU, AG, AU = 29, 47, 79
SOME = quick(BACKBONES, ("schnet", "painn", "ace"))
pytestmark = [
    pytest.mark.filterwarnings("ignore:Worse than the model"),  # runs of a few steps may be
    pytest.mark.filterwarnings("ignore:model.freeze keeps the weights"),  # the log has it
]


def with_silver(n: int = 16, *, gold: str = "Au") -> list[Atoms]:
    """Crystals in which some atoms are silver, and gold is what is given."""
    frames = []
    for k, atoms in enumerate(crystals(n)):
        atoms.symbols[atoms.numbers == AU] = gold
        atoms.symbols[k % len(atoms)] = "Ag"
        frames.append(labeled(atoms))
    return frames


def moved(frames: list[Atoms], by: dict[int, float]) -> list[Atoms]:
    """The same structures with other energies: so much more for each atom of an element, eV."""
    shifted = []
    for atoms in frames:
        energy = atoms.get_potential_energy() + sum(by.get(z, 0.0) for z in atoms.numbers)
        copy, forces, stress = atoms.copy(), atoms.get_forces(), atoms.get_stress()
        copy.calc = SinglePointCalculator(copy, energy=energy, forces=forces, stress=stress)
        shifted.append(copy)
    return shifted


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "set.h5", crystals())


@pytest.fixture(scope="module")
def silver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "silver.h5", with_silver())


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of copper and gold."""
    return train(small_recipe(data, tmp_path_factory.mktemp("model"))).model


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A model of copper and gold of each network, after one epoch, made once."""
    folder = tmp_path_factory.mktemp("networks")

    @cache
    def of(backbone: str) -> Path:
        return train(small_recipe(data, folder / backbone, "training.epochs=1", backbone=backbone)).model

    return of


def go(model: Path, data: Path, directory: Path, *overrides: str, **settings: object) -> TrainingResult:
    return train(small_recipe(data, directory, f"model.start={model}", *overrides), **settings)  # type: ignore[arg-type]


def energies(potential: mlpot.Potential, frames: list[Atoms]) -> np.ndarray:
    graphs = [build_graph(a.numbers, a.positions, a.cell, a.pbc, potential.cutoff) for a in frames]
    return np.array([predict(potential, graph).energy.item() for graph in graphs])


def references(model: Path) -> dict[int, float]:
    potential = mlpot.load(model)
    return dict(zip(potential.elements, potential.reference.tolist(), strict=True))


# --- N1: zero steps ---


@pytest.mark.filterwarnings("ignore:Nothing tells this network of rotations")
@pytest.mark.parametrize("backbone", SOME)
def test_zero_steps_give_the_model_to_the_bit(
    backbone: str, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    first = trained(backbone)
    closer = []  # data that come closer than those of the model, on which it was not trained
    for atoms in crystals(8):
        atoms.set_cell(0.93 * atoms.cell.array, scale_atoms=True)
        closer.append(labeled(atoms))
    other = write(tmp_path / "closer.h5", closer)
    recipe = small_recipe(other, tmp_path / "zero", f"model.start={first}", "training.epochs=0", backbone=backbone)
    again = mlpot.load(train(recipe).model)
    assert_same(dict(again.state_dict()), dict(mlpot.load(first).state_dict()))


def test_zero_steps_with_a_new_element_leave_the_others_as_they_were(
    model: Path, silver: Path, tmp_path: Path
) -> None:
    result = go(model, silver, tmp_path / "zero", "training.epochs=0", "training.precision=float64")
    before, after = (mlpot.load(path, dtype=torch.float64) for path in (model, result.model))
    assert after.elements == (CU, AG, AU)
    np.testing.assert_allclose(energies(after, crystals(5)), energies(before, crystals(5)), rtol=0, atol=1e-10)
    log = (tmp_path / "zero" / LOG).read_text()
    for told in (
        "model.arguments.cutoff: 4.0 kept",
        "scales: kept",
        "shifts: kept",
        "neighbors",
        "core repulsion",
    ):
        assert told in log
    assert "ZBL repulsion: off, kept" in log
    assert "precision: float64 replaced, was float32" in log


# --- N2: reference energies ---


def test_references_are_kept_given_or_fitted_and_each_source_is_said(
    model: Path, data: Path, tmp_path: Path
) -> None:
    by = {CU: 3.0, AU: -2.0}
    other = write(tmp_path / "moved.h5", moved(crystals(), by))
    own = references(model)
    zero = "training.epochs=0"
    assert references(go(model, other, tmp_path / "kept", zero).model) == own
    given = go(model, other, tmp_path / "given", zero, "model.start_references=given",
               "data.reference_energies={Cu: 1.5}").model  # fmt: skip
    assert references(given) == {CU: 1.5, AU: own[AU]}
    log = (tmp_path / "given" / LOG).read_text()
    assert "reference energy of Cu         1.5000 eV, given" in log
    assert f"reference energy of Au {own[AU]:14.4f} eV, kept" in log
    here = go(model, data, tmp_path / "here", zero, "model.start_references=fitted").model
    there = go(model, other, tmp_path / "there", zero, "model.start_references=fitted").model
    for z, energy in by.items():  # set by the data, whatever the model's were
        assert references(there)[z] - references(here)[z] == pytest.approx(energy, abs=1e-6)
    twice = go(there, other, tmp_path / "twice", zero, "model.start_references=fitted").model
    assert references(twice) == pytest.approx(references(there), abs=1e-6)


def test_what_compositions_cannot_tell_is_named(model: Path, tmp_path: Path) -> None:
    same = [atoms for atoms in crystals(30) if len(atoms) == 2]  # all of them CuAu
    other = write(tmp_path / "moved.h5", moved(same, {CU: 1.0, AU: 1.0}))
    result = go(model, other, tmp_path / "run", "training.epochs=0", "model.start_references=fitted")
    assert "do not tell Cu, Au apart" in (tmp_path / "run" / LOG).read_text()
    assert result.metrics["validation"]["energy_mae_meV_per_atom"] < 500


# --- N3: elements ---


class Rows(Callback):
    """Keeps the weights of elements before the first step."""

    def on_train_start(self, trainer: object, module) -> None:  # type: ignore[no-untyped-def]
        self.rows = module.potential.backbone.embedding.weight.detach().clone()


def test_elements_without_new_data_keep_their_weights(model: Path, tmp_path: Path) -> None:
    """Under decay and averaging too; the new element is drawn by the seed, and listed."""
    data = write(tmp_path / "no_gold.h5", with_silver(gold="Cu"))
    rows = Rows()
    decay = ("optimizer.weight_decay=0.1", "optimizer.ema_decay=0.9")
    result = go(model, data, tmp_path / "run", *decay, "training.seed=3", callbacks=[rows])
    old, new = (mlpot.load(path).backbone.embedding.weight for path in (model, result.model))
    assert torch.equal(new[AU], old[AU])
    assert not torch.equal(new[CU], old[CU])
    assert torch.equal(rows.rows[CU], old[CU])
    assert not torch.equal(rows.rows[AG], old[AG])
    log = (tmp_path / "run" / LOG).read_text()
    assert "without new data, whose own weights stay as they are: Au" in log
    assert "of new elements (Ag)" in log


def test_the_order_of_elements_never_matters(model: Path, silver: Path, tmp_path: Path) -> None:
    given = [
        "data.reference_energies={Ag: 1.0, Cu: 2.0, Au: 3.0}",
        "data.reference_energies={Au: 3.0, Ag: 1.0, Cu: 2.0}",
    ]
    models = [
        go(model, silver, tmp_path / f"{k}", "training.epochs=1", "model.start_references=given", energies_)
        for k, energies_ in enumerate(given)
    ]
    assert_same(*(dict(m.potential.state_dict()) for m in models))


@pytest.mark.filterwarnings("ignore:Nothing tells this network of rotations")
@pytest.mark.parametrize("backbone", SOME)
def test_networks_take_new_elements_and_keep_those_without_data(
    backbone: str, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    """N1, N3: sizes that depend on how many elements there are, and weights of the closing solve."""
    old = mlpot.load(trained(backbone), dtype=torch.float64)
    other = write(tmp_path / "silver.h5", with_silver(gold="Ag"))  # silver is new, of gold there is nothing
    both = [f"model.start={trained(backbone)}", "training.precision=float64"]
    zero = small_recipe(other, tmp_path / "zero", *both, "training.epochs=0", backbone=backbone)
    new = mlpot.load(train(zero).model)
    assert new.elements == (CU, AG, AU)
    np.testing.assert_allclose(energies(new, crystals(5)), energies(old, crystals(5)), rtol=0, atol=1e-10)
    more = train(small_recipe(other, tmp_path / "run", *both, "training.epochs=2", backbone=backbone)).potential
    rows = element_rows(more)
    assert rows
    for name, places in rows.items():
        before, after = (p.backbone.state_dict()[name] for p in (new, more))
        assert torch.equal(after[places[AU]], before[places[AU]]), name
        assert not before.any() or not torch.equal(before[places[AG]], before[places[AU]]), name


# --- N4: contradictions ---


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.backbone=egnn", r"model\.backbone=egnn \(the model has deepsets\)"),
        ("model.arguments.cutoff=5.0", r"model\.arguments\.cutoff=5\.0 \(the model has 4\.0\)"),
        ("model.arguments.n_features=16", r"model\.arguments\.n_features.*model\.arguments={} leaves out all"),
        ("model.cutoff=6.0", r"model\.cutoff=6\.0 \(the model has 4\.0\)"),
        ("model.repulsion=true", r"model\.repulsion"),
        ("data.reference_energies={Cu: 1.0}", "start_references=given"),
        ("model.start_references=given", "neither data"),
        ("model.freeze=[nothing.*]", "matches no weights. The backbone has: embedding"),
        ("model.freeze=['*']", "nothing to train"),
    ],
)
def test_what_contradicts_the_model_is_refused_by_name(
    override: str, message: str, model: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        go(model, data, tmp_path / "run", override)
    assert not (tmp_path / "run").exists()


def test_what_the_recipe_leaves_out_comes_from_the_model(model: Path, data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"data: {{train: {data}, validation: 4}}\nmodel: {{start: {model}}}\n")
    run = [f"training.directory={tmp_path / 'run'}", "training.epochs=1", "training.progress=false"]
    result = train(load_recipe(Recipe, recipe, run))
    assert result.potential.arguments == mlpot.load(model).arguments
    assert json.loads((tmp_path / "run/metrics.json").read_text())["backbone"] == "deepsets"


@pytest.mark.parametrize("kind", ["averaged", "committee", "propagator"])
def test_a_training_starts_from_one_potential_and_says_so(
    kind: str, model: Path, data: Path, tmp_path: Path
) -> None:
    path, potential = tmp_path / "made.safetensors", mlpot.load(model)
    if kind == "averaged":
        mlpot.save(averaged(potential, over="octahedral"), path)
    elif kind == "committee":
        arguments = {"member": "schnet", "arguments": {"n_features": 4, "n_interactions": 1}, "n_members": 2}
        mlpot.save(mlpot.Potential("committee", arguments, reference_energies={29: 0.0, 79: 0.0}), path)
    else:
        arguments = {"n_features": 4, "n_layers": 1, "speed": 0.05}
        save_propagator(Propagator(arguments, elements=(1, 8), interval=1.0), path)
    told = {
        "averaged": "averaged over rotated copies",
        "committee": "a committee",
        "propagator": "is a propagator",
    }
    with pytest.raises((RecipeError, ModelFileError), match=told[kind]):
        go(path, data, tmp_path / "run")


# --- N5: before and after ---


class Spoil(Callback):
    """Spoils the weights in the last step."""

    def on_train_batch_end(self, trainer: object, module, *_: object) -> None:  # type: ignore[no-untyped-def]
        for weight in module.potential.parameters():
            weight.data += 3.0


def test_errors_before_the_first_step_are_said_and_a_worse_end_too(
    model: Path, data: Path, tmp_path: Path
) -> None:
    zero = go(model, data, tmp_path / "zero", "training.epochs=0")
    other = ("training.epochs=1", "optimizer.ema_decay=0", "training.seed=5", "loss.energy=3")
    with pytest.warns(TrainingWarning, match="Worse than the model.*validation forces_mae_meV_per_A"):
        result = go(model, data, tmp_path / "run", *other, callbacks=[Spoil()])
    before = result.metrics["start"]["errors"]
    assert before == zero.metrics["start"]["errors"]
    assert before["validation"] == pytest.approx(zero.metrics["validation"], rel=1e-6)
    log = (tmp_path / "run" / LOG).read_text()
    assert "Errors before the first step:" in log
    assert f"{before['validation']['forces_mae_meV_per_A']:.4g}" in log


# --- N6: going on ---


def test_a_resumed_training_never_starts_from_the_model_again(model: Path, silver: Path, tmp_path: Path) -> None:
    class Cut(Callback):
        def on_train_batch_end(self, trainer, *_: object) -> None:  # type: ignore[no-untyped-def]
            if trainer.global_step == 6:
                raise RuntimeError("a power cut")

    copied = tmp_path / "start.safetensors"
    asked = ("model.start_references=fitted", "model.freeze=[embedding]", "optimizer.weight_decay=0.1")
    copied.write_bytes(model.read_bytes())
    go(copied, silver, tmp_path / "whole", *asked)
    with pytest.raises(RuntimeError, match="power cut"):
        go(copied, silver, tmp_path / "cut", *asked, callbacks=[Cut()])
    copied.unlink()
    go(copied, silver, tmp_path / "cut", *asked, resume=True)
    assert_same_training(tmp_path / "whole", tmp_path / "cut")


# --- N7: frozen weights ---


@pytest.mark.parametrize(("backbone", "layer"), [("schnet", "readout.0."), ("deepsets", "atom.2.")])
def test_frozen_weights_are_the_same_at_the_end(
    backbone: str, layer: str, data: Path, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    first = trained(backbone)
    frozen = f"model.freeze=[embedding, {layer}*]"
    decay = ("optimizer.weight_decay=0.1", "optimizer.ema_decay=0.9")
    recipe = small_recipe(data, tmp_path / "run", f"model.start={first}", frozen, *decay, backbone=backbone)
    old, new = (mlpot.load(path).backbone.state_dict() for path in (first, train(recipe).model))
    for name, weight in old.items():
        is_frozen = name.startswith(("embedding.", layer))
        is_trained = not is_frozen and name.endswith("weight")
        assert not is_frozen or torch.equal(weight, new[name]), name
        assert not is_trained or not torch.equal(weight, new[name]), name
    assert "frozen: 3 of" in (tmp_path / "run" / LOG).read_text()


@pytest.mark.parametrize("backbone", ["deepsets", "schnet", "ace"])
def test_weights_of_a_new_element_that_would_stay_random_are_told(
    backbone: str, silver: Path, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    first = trained(backbone)
    rows = element_rows(mlpot.load(first))
    others = [name for name in dict(mlpot.load(first).backbone.named_parameters()) if name not in rows]
    for name, is_told in ((next(iter(rows)), True), (others[0], False)):
        own = tmp_path / str(is_told)
        start = (f"model.start={first}", f"model.freeze=[{name}]", "training.epochs=0")
        train(small_recipe(silver, own, *start, backbone=backbone))
        told = f"weights that belong to Ag as they are drawn, in {name}: what was never trained is frozen"
        assert (told in (own / LOG).read_text()) == is_told


# --- N8: energies of another method ---


def test_energies_out_of_chemical_range_stop_before_the_first_step(model: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.h5", moved(crystals(), {CU: -45000.0, AU: -500.0}))
    with pytest.raises(StrangeEnergiesError, match=r"Cu -?[\d.]+ and -4[45]\d\d\d\.\d+, Au -?[\d.]+ and -"):
        go(model, other, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    fitted = go(model, other, tmp_path / "run", "model.start_references=fitted", "training.epochs=0")
    assert fitted.metrics["validation"]["energy_mae_meV_per_atom"] < 1000


# --- N10: what no potential is told ---


def test_charges_and_spins_of_data_are_said_to_be_unknown(model: Path, tmp_path: Path) -> None:
    frames = crystals()
    for k, atoms in enumerate(frames):
        atoms.info["charge"] = float(k % 2)
    charged = write(tmp_path / "charged.h5", frames)
    with pytest.warns(TrainingWarning, match="of charge 1, spin unknown.*does not see"):
        go(model, charged, tmp_path / "run", "training.epochs=0")
