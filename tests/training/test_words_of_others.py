"""Is what other programs call a key, an ensemble or a unit answered with how it is written here?"""

from __future__ import annotations

import pytest

from mlpot.dynamics.recipe import MDRecipe
from mlpot.recipes import RecipeError, parse_recipe
from mlpot.training.recipe import Recipe

MD = "model: a.safetensors\nstructure: a.xyz\n"
TRAIN = "data: {train: a.h5}\n"


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("ensemble: nvt", "write ensemble: langevin"), ("ensemble: NVT", "constant volume and temperature"),
        ("ensemble: csvr", "write ensemble: bussi"), ("ensemble: nose_hoover", "did you mean 'nose-hoover'"),
        ("ensemble: nph", "write ensemble: npt-isotropic"), ("ensemble: verlet", "write ensemble: nve"),
        ("ensemble: NVE", "did you mean 'nve'"), ("stages: [{ensemble: nvt}]", "write ensemble: langevin"),
        ("temperature: 300", "temperature_K: 300, in K"), ("dt: 1.0", "timestep_fs: 0.5, in fs"),
        ("friction: 0.01", "1 / friction in fs"), ("thermostat: langevin", "ensemble: langevin"),
        ("stages: [{temp: 300}]", "temperature_K"), ("trajectory: a.traj", "output: md_run"),
        ("timestep_fs: 0.5 fs", "write 0.5 alone"), ("temperature_K: 300K", "write 300 alone"),
        ("steps: 1.5", "write a whole number"), ("overwrite: maybe", "write true or false"),
        ("repeat: 2", r"write a list, \[ ... \]"), ("temperature_K: -5", "it must be above 0"),
        ("guards: {max_force: false}", "null switches it off"), ("guards: off", "write keys and values"),
        ("guards: {energy: on}", "write a number"), ("temperature_K: yes", "takes for true"),
        ("frame: last", "'frame' = 'last': write a number, or write one of 'all'"),
    ],
)  # fmt: skip
def test_a_run_file_in_the_words_of_others(said: str, answer: str) -> None:
    with pytest.raises(RecipeError, match=answer):
        parse_recipe(MDRecipe, MD + said)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("lr: 0.01", "optimizer.learning_rate"), ("training: {max_epochs: 5}", "training.epochs"),
        ("model: {r_max: 5.0}", "model.arguments.cutoff"),
        ("data: {train: a.h5, E0s: average}", "reference_energies"),
        ("optimizer: {name: Adam}", "did you mean 'adamw'"), ("model: {backbone: MACE}", "Did you mean mace"),
        ("loss: {forces_weight: 10}", "loss.forces"), ("foundation_model: small", "model.start"),
        ("optimizer: {learning_rate: fast}", "write a number"), ("training: {patience: true}", "write a number"),
        ("optimizer: {rates: {readout: on}}", "write a number"), ("loss: {weights: {slab: no}}", "write a number"),
        ("model: {backbone: schnet, arguments: {n_interactions: yes}}", "'n_interactions' = True: write a number"),
        ("loss: {function: mse}", "write squared"), ("loss: {function: L1Loss}", "write absolute"),
        ("loss: {function: smooth_l1}", "write huber"), ("optimizer: {name: SGD}", "write adamw"),
        ("training: {precision: 64}", "write float64"), ("training: {precision: 16}", "forces that were off by a"),
        ("optimizer: {schedule: ReduceLROnPlateau}", "write plateau"), ("num_workers: 4", "data.workers: 2"),
        ("training: {max_grad_norm: 10}", "training.clip"), ("loss: {huber_delta: 1}", "loss.energy_threshold"),
        ("energy_key: REF_energy", "mlpot data convert FILE set.h5 --key energy=NAME"),
        ("data: {train: a.h5, validation: 10%}", "0.1 is a tenth"),
        ("data: {train: a.h5, reference_energies: {1: -13.6}}", "named by their symbols"),
        ("data: {train: [a.h5, 5]}", "'data.train.1' = 5: write a word"),
        ("data: {train: a.h5, validation: true}", "'data.validation' = True: write a number"),
    ],
)  # fmt: skip
def test_a_recipe_in_the_words_of_others(said: str, answer: str) -> None:
    with pytest.raises(RecipeError, match=answer):
        parse_recipe(Recipe, said if said.startswith("data") else TRAIN + said)


@pytest.mark.parametrize(
    ("backbone", "said", "answer"),
    [
        ("ace", "r_max: 5", "is written as cutoff"), ("mace", "hidden_channels: 64", "is written as n_features"),
        ("schnet", "num_layers: 2", "written as n_interactions"), ("mace", "lmax: 2", "is written as max_degree"),
        ("egnn", "n_interactions: 2", "is written as n_layers"), ("painn", "n_rbf: 8", "is written as n_radial"),
        ("ace", "n_layers: 2", "no argument 'n_layers'; valid are cutoff, preset"),
        ("ace", "cutoff: 0.5 nm", "'cutoff' = '0.5 nm': write 0.5 alone, converted"),
        ("ace", "n_features: 1.5", "write a whole number"), ("nequip", "radial_layers: 64", "write a list"),
        ("mace", "parity: maybe", "write true or false"), ("ace", "n_radial: many", "write a number"),
    ],
)  # fmt: skip
def test_arguments_of_networks_are_answered_in_the_words_of_recipes(backbone: str, said: str, answer: str) -> None:
    with pytest.raises(RecipeError, match=answer):
        parse_recipe(Recipe, f"{TRAIN}model: {{backbone: {backbone}, arguments: {{{said}}}}}")


@pytest.mark.parametrize("model", [MDRecipe, Recipe])
def test_no_key_that_is_valid_is_said_to_be_written_otherwise(model: type) -> None:
    for name, field in model.model_fields.items():
        section = field.annotation if hasattr(field.annotation, "other_keys") else model
        assert name not in section.other_keys
        assert not set(getattr(section, "model_fields", ())) & set(section.other_keys) - {"learning_rate"}
