"""Are recipes made to run code, to fill the memory, or to say two things at once refused, and at once?"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from work import little_work

from mlpot.cli.options import check_quotes
from mlpot.dynamics.recipe import MDRecipe
from mlpot.recipes import RecipeError, load_recipe
from mlpot.training.recipe import Recipe

LAUGHS = "a: &a [x, x]\n" + "\n".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
TOUCH = "!!python/object/apply:os.mkdir ['exploded']"
RECIPES = {
    "laughs": (LAUGHS, "YAML alias in line 2"),
    "an alias of itself": ("data: &a [*a]", "YAML alias"),
    "code": (f"data: {TOUCH}", "could not determine a constructor"),
    "a name of Python": ("data: !!python/name:os.system ''", "could not determine a constructor"),
    "deep lists": ("data: " + "[" * 30000, "16 sections in one another"),
    "deep sections": ("\n".join(" " * k + "a:" for k in range(300)), "16 sections in one another"),
    "long": ("data: {train: " + "x" * 10**6 + "}", "longer than 65536"),
    "many digits": ("training: {epochs: " + "9" * 10000 + "}", "not valid YAML"),
    "a date that is none": ("data: {train: 2026-13-41}", "not valid YAML"),
    "a key twice": ("data: {train: a.h5}\ndata: {train: b.h5}", "lines 1 and 2"),
    "a key twice, written otherwise": ("data: {1: a, 0x1: b}", "Key 1 stands in lines"),
    "a list as key": ("? [a, b]\n: c", "is no word"),
    "infinity": ("data: {train: a.h5}\nloss: {energy: .inf}", "finite"),
    "no text": ("\x00\x01", "is no text"),
}


@pytest.mark.parametrize("model", [Recipe, MDRecipe])
@pytest.mark.parametrize("name", RECIPES)
def test_a_hostile_recipe_is_refused(model, name, tmp_path, monkeypatch):
    text, message = RECIPES[name]
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(text)
    told = message if model is Recipe or name != "infinity" else "loss"
    with little_work(), pytest.raises(RecipeError, match=told):
        load_recipe(model, "recipe.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_the_code_would_run_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yaml.load(RECIPES["code"][0], Loader=yaml.UnsafeLoader)
    assert Path("exploded").exists()


def test_an_override_is_read_as_carefully(tmp_path):
    (tmp_path / "recipe.yaml").write_text("data: {train: a.h5}")
    for text in (f"data.test={TOUCH}", "data.test=" + "[" * 1000, "data.test=&a [*a]"):
        with pytest.raises(RecipeError):
            load_recipe(Recipe, tmp_path / "recipe.yaml", [text])
    assert not Path("exploded").exists()


@pytest.mark.parametrize("override", ["loss.weights={a:2}", "loss={a:2}", "model.arguments={a:2}"])
def test_a_key_without_a_space_before_its_value_is_told(override, tmp_path):
    (tmp_path / "recipe.yaml").write_text("data: {train: a.h5}")
    with pytest.raises(RecipeError, match="write a: 2, with a space behind the colon"):
        load_recipe(Recipe, tmp_path / "recipe.yaml", [override])


@pytest.mark.parametrize("arguments", [["data.reference_energies={Si:", "-7800}"], ["repeat=[2,", "1,", "1]"]])
def test_an_argument_that_the_shell_split_is_told_to_need_quotes(arguments):
    with pytest.raises(ValueError, match="quotes"):
        check_quotes(["train", "a.yaml", *arguments])
    check_quotes(["train", "a.yaml", " ".join(arguments), "data.test=a.h5"])
