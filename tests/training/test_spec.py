from __future__ import annotations

from pathlib import Path

import pytest

from slipway.core.errors import InputError, NotFoundError, UsageError
from slipway.core.paths import Home
from slipway.training import load_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "shop").mkdir()
    path = tmp_path / "recipe.yaml"
    path.write_text("model: base\ndata: shop\nlora:\n  rank: 4\nlearning_rate: 1e-4\n")
    return path


def test_values_come_from_file_flags_and_defaults_and_say_so(recipe: Path) -> None:
    resolved = load_recipe(recipe, ["lora.alpha=8", "epochs=2.5"])
    assert (resolved.spec.lora.rank, resolved.spec.lora.alpha) == (4, 8)
    assert resolved.spec.learning_rate == pytest.approx(1e-4)  # YAML reads 1e-4 as a string
    assert resolved.origins["lora.rank"] == "file"
    assert resolved.origins["lora.alpha"] == "flag"
    assert resolved.origins["seed"] == "default"
    assert resolved.settings()["epochs"].value == 2.5


def test_paths_are_found_beside_the_recipe(recipe: Path) -> None:
    spec = load_recipe(recipe).spec
    assert spec.model == str(recipe.parent / "base")
    assert spec.data == str(recipe.parent / "shop")


def test_a_pulled_base_is_found_by_name(recipe: Path, home: Home) -> None:
    (home.bases / "starter").mkdir(parents=True)
    assert load_recipe(recipe, ["model=starter"]).spec.model == str(home.bases / "starter")


def test_a_missing_model_is_named_with_the_places_searched(recipe: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere") as caught:
        load_recipe(recipe, ["model=nowhere"])
    assert "bases" in caught.value.message_en
    assert "slipway pull" in caught.value.hint_en


def test_an_unknown_key_offers_the_nearest(recipe: Path) -> None:
    recipe.write_text("model: base\ndata: shop\nlerning_rate: 1\n")
    with pytest.raises(UsageError) as caught:
        load_recipe(recipe)
    assert caught.value.code == "config.unknown_key"
    assert str(recipe) in caught.value.message_en
    assert "learning_rate" in caught.value.hint_en


def test_an_unknown_inner_key_is_named_with_its_path(recipe: Path) -> None:
    recipe.write_text("model: base\ndata: shop\nlora:\n  rnk: 1\n")
    with pytest.raises(UsageError, match=r"lora\.rnk") as caught:
        load_recipe(recipe)
    assert "lora.rank" in caught.value.hint_en


@pytest.mark.parametrize(
    ("line", "key"),
    [("epochs: soon", "epochs"), ("epochs: -1", "epochs"), ("method: prompt", "method")],
)
def test_a_wrong_value_names_file_line_and_key(recipe: Path, line: str, key: str) -> None:
    recipe.write_text(f"model: base\ndata: shop\n{line}\n")
    with pytest.raises(UsageError) as caught:
        load_recipe(recipe)
    assert f"{recipe}:3" in caught.value.message_en
    assert f"`{key}`" in caught.value.message_en


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("epochs=-1", "必须 > 0"),
        ("epochs=soon", "必须是数字"),
        ("max_steps=1.5", "必须是整数"),
        ("lora.dropout=1", "必须 < 1"),
        ("dtype=fp8", "只能是 'auto', 'bf16', 'fp16', 'fp32' 之一"),
    ],
)
def test_a_wrong_value_is_told_in_the_readers_language(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, item: str, says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(recipe, [item])
    monkeypatch.setenv("SLIPWAY_LANG", "zh")
    assert says in str(caught.value.message) and caught.value.hint_en


def test_a_wrong_inner_value_names_its_line(recipe: Path) -> None:
    recipe.write_text("model: base\ndata: shop\nlora:\n  alpha: 8\n  rank: 0\n")
    with pytest.raises(UsageError) as caught:
        load_recipe(recipe)
    assert f"{recipe}:5: `lora.rank`" in caught.value.message_en


def test_a_wrong_override_names_the_command_line(recipe: Path) -> None:
    with pytest.raises(UsageError, match=r"the command line: `lora\.rank`"):
        load_recipe(recipe, ["lora.rank=big"])
    with pytest.raises(UsageError, match="key=value"):
        load_recipe(recipe, ["epochs"])
    with pytest.raises(UsageError, match="unknown key `rank`"):
        load_recipe(recipe, ["rank=3"])


def test_a_missing_key_is_named(recipe: Path) -> None:
    recipe.write_text("model: base\n")
    with pytest.raises(UsageError, match="`data`") as caught:
        load_recipe(recipe)
    assert caught.value.code == "recipe.missing_key"


@pytest.mark.parametrize("text", ["a: [1", "- a\n- b\n"])
def test_a_file_that_is_no_mapping_is_refused(recipe: Path, text: str) -> None:
    recipe.write_text(text)
    with pytest.raises(InputError):
        load_recipe(recipe)


def test_broken_yaml_is_one_sentence_with_file_and_line(recipe: Path) -> None:
    recipe.write_text("model: base\ndata: [\n")
    with pytest.raises(InputError) as caught:
        load_recipe(recipe)
    message = caught.value.message_en
    assert message.startswith(f"{recipe}:3:1: ") and "\n" not in message
    assert "<unicode string>" not in message and caught.value.hint_en


def test_a_recipe_in_another_encoding_is_refused(recipe: Path) -> None:
    recipe.write_bytes("label: 客服\n".encode("gbk"))
    with pytest.raises(InputError, match="utf-8"):
        load_recipe(recipe)


def test_a_key_that_stands_twice_is_refused(recipe: Path) -> None:
    recipe.write_text("model: base\ndata: shop\nlora:\n  rank: 4\n  rank: 8\n")
    with pytest.raises(UsageError, match=r":5: `lora\.rank` stands in line 4"):
        load_recipe(recipe)


def test_a_missing_recipe_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        load_recipe(tmp_path / "none.yaml")


def test_equal_recipes_share_a_run_name_and_others_do_not(recipe: Path) -> None:
    first = load_recipe(recipe).run_name
    assert first.startswith("recipe-")
    assert load_recipe(recipe).run_name == first
    assert load_recipe(recipe, ["seed=1"]).run_name != first
    assert load_recipe(recipe, ["tags=[night]", "pack_tokens=64"]).run_name == first


@pytest.mark.parametrize("name", ["support-en", "kefu-zh"])
def test_the_example_recipes_are_valid(name: str, home: Home) -> None:
    (home.bases / "starter").mkdir(parents=True)
    examples = Path(__file__).parents[2] / "examples"
    spec = load_recipe(examples / "recipes" / f"{name}.yaml").spec
    assert spec.data == str((examples / name).resolve())
    assert spec.time_budget_s == 200
