"""Does a recipe mean what it says, and does a wrong one say what is wrong?"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from places import PROJECT

from mlpot.cli.main import recipe
from mlpot.dynamics.recipe import MDRecipe
from mlpot.models import BACKBONES, DEFAULT, build_backbone
from mlpot.models.ace import ACE, PRESETS
from mlpot.models.presets import LOSS, preset_of
from mlpot.propagators.recipe import PropagatorRecipe
from mlpot.recipes import RecipeError, load_recipe, parse_recipe, template
from mlpot.training.backbone_arguments import checked_arguments, documented_arguments
from mlpot.training.recipe import Recipe, settings_of

MINIMAL = "data: {train: set.h5}"
RECIPES = sorted((PROJECT / "train").glob("*.yaml"))


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as error:
        parse_recipe(Recipe, text, overrides)
    return str(error.value)


def test_the_template_holds_every_key_and_only_defaults() -> None:
    text = template(Recipe)
    assert parse_recipe(Recipe, text) == parse_recipe(Recipe, "data: {train: data/train.h5}")
    for section, values in yaml.safe_load(text).items():
        assert set(values) == set(Recipe.model_fields[section].annotation.model_fields), section


def test_the_command_prints_a_recipe_for_each_network(capsys: pytest.CaptureFixture[str]) -> None:
    """With the settings that served, and for the network of lowest errors if none is named."""
    for backbone in (None, *BACKBONES):
        recipe(backbone=backbone)
        text = capsys.readouterr().out
        found = parse_recipe(Recipe, text)
        served = preset_of(found.model.backbone)
        assert found.model.backbone == backbone or (backbone is None and found.model.backbone == DEFAULT)
        assert found.model.arguments.items() >= served.arguments.items()
        assert found.optimizer.model_dump().items() >= served.optimizer.items()
        assert found.loss.model_dump().items() >= LOSS.items()
        assert found.training == parse_recipe(Recipe, MINIMAL).training
        assert "  arguments:\n    # Å\n    cutoff: 5.0\n" in text
        assert all(documented_arguments(BACKBONES[found.model.backbone]).get(k) for k in found.model.arguments)
    with pytest.raises(ValueError, match="Unknown backbone 'schnt'"):
        recipe(backbone="schnt")
    with pytest.raises(RecipeError, match="Leave it out"):
        recipe(md=True, backbone="ace")


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("training.epoch=5", "training.epochs"),
        ("epochs=5", "training.epochs"),
        ("model.arguments.cutof=5", "cutoff"),
        ("model.bakbone=egnn", "backbone"),
        ("optimiser.learning_rate=1e-3", "optimizer"),
    ],
)
def test_a_misspelt_key_is_an_error_that_names_the_nearest(override: str, hint: str) -> None:
    message = refusal(MINIMAL, override)
    assert override.split("=")[0].split(".")[-1] in message or "optimiser" in message
    assert hint.split(".")[-1] in message


def test_arguments_of_another_network_are_named_and_not_the_whole_section() -> None:
    message = refusal(template(Recipe, settings_of("ace")), "model.backbone=nequip")
    assert message.startswith("recipe: 'model': argument 'n_features' = None")
    assert "the backbone has no argument 'preset'" in message
    assert message.endswith(
        "`mlpot recipe --backbone nequip` prints its arguments, and those left out have defaults."
    )


def test_the_sizes_that_a_preset_of_ace_stands_for_are_told() -> None:
    told = documented_arguments(ACE)["preset"]
    assert all(f"{name} {sizes}" in told for name, sizes in PRESETS.items())


@pytest.mark.parametrize(
    "override",
    [
        "training.epochs=0",
        "training.epochs=many",
        "training.precision=float16",
        "optimizer.learning_rate=nan",
        "optimizer.ema_decay=1.0",
        "data.validation=1.5",
        "data.validation=0",
        "data.reference_energies={Xx: 1.0}",
        "model.backbone=schnt",
        "model.arguments.cutoff=five",
        "loss={energy: 0, forces: 0, stress: 0}",
    ],
)
def test_a_value_that_makes_no_sense_is_refused(override: str) -> None:
    assert override.partition("=")[0].split(".")[0] in refusal(MINIMAL, override)


def test_products_of_16_bits_are_refused_with_the_reason() -> None:
    assert "Use float32 or tf32" in refusal(MINIMAL, "training.precision=bf16")


def test_overrides_go_before_the_file() -> None:
    recipe = parse_recipe(Recipe, MINIMAL, ["training.epochs=7", "optimizer.learning_rate=1e-4", "loss.stress=0"])
    assert (recipe.training.epochs, recipe.optimizer.learning_rate, recipe.loss.stress) == (7, 1e-4, 0.0)


def test_arguments_of_the_backbone_are_spelt_out() -> None:
    recipe = parse_recipe(Recipe, MINIMAL, ["model.backbone=egnn", "model.arguments.cutoff=4"])
    assert recipe.model.arguments == checked_arguments("egnn", {"cutoff": 4.0})
    assert set(recipe.model.arguments) > {"cutoff", "n_layers", "attention"}
    for name in BACKBONES:
        build_backbone(name, elements=(1, 8), **checked_arguments(name, {}))


def test_a_stored_recipe_is_the_recipe() -> None:
    recipe = parse_recipe(
        Recipe, MINIMAL, ["model.backbone=egnn", "loss.function=huber", "training.max_minutes=60"]
    )
    assert parse_recipe(Recipe, yaml.safe_dump(recipe.model_dump(mode="json"))) == recipe


OLD_KEYS = {
    "model.wall": (Recipe, "{data: {train: set.h5}, model: {wall: false}}", False),
    "guards.strangeness": (MDRecipe, "{model: m, structure: s, guards: {strangeness: 3}}", 3.0),
}


@pytest.mark.parametrize("key", OLD_KEYS)
def test_a_key_of_before_is_read_and_its_new_name_is_told(key: str) -> None:
    model, text, value = OLD_KEYS[key]
    with pytest.warns(FutureWarning, match="is now called") as told:
        recipe = parse_recipe(model, text)
    section, new = str(told[0].message).removesuffix(".").split()[-1].split(".")
    assert getattr(getattr(recipe, section), new) == value
    old = key.split(".")[1]
    with pytest.raises(RecipeError, match=f"'{section}.{old}' is the old name"):
        parse_recipe(model, text, [f"{section}.{new}=1"])


def test_a_recipe_cannot_run_code() -> None:
    refusal("data: !!python/object/apply:os.system ['true']")


def test_keys_stand_once() -> None:
    assert "train" in refusal("data: {train: a.h5, train: b.h5}")


PROPAGATORS = ("charged_particles", "ethanol_propagator")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipes_of_the_workbench_are_valid(path: Path) -> None:
    load_recipe(PropagatorRecipe if path.stem in PROPAGATORS else Recipe, path)
