"""Keys that other keys leave without effect are told, and where nobody meant it, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.training.llamafactory.conftest import WriteFile, factory, write

from slipway.core.errors import UsageError
from slipway.training import TrainSpec, load_recipe
from slipway.training.spec import known_keys
from slipway.training.spec.load import with_overrides
from slipway.training.spec.unused import RULES, unused

__all__ = ["factory", "write"]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "shop").mkdir()
    return tmp_path / "recipe.yaml"


def put(recipe: Path, keys: str) -> Path:
    recipe.write_text(f"model: base\ndata: shop\n{keys}\n")
    return recipe


@pytest.mark.parametrize(
    ("keys", "key", "decider"),
    [
        ("freeze: {layers: 4}", "freeze.layers", "method: lora"),
        ("method: full\nlora: {rank: 4}", "lora.rank", "method: full"),
        ("oft: {block_size: 8}", "oft.block_size", "method: lora"),
        ("lora: {pissa_iter: 4}", "lora.pissa_iter", "lora.pissa: False"),
        ("quant: {double: false}", "quant.double", "quant.bits: None"),
        ("preference: {beta: 0.2}", "preference.beta", "stage: sft"),
        ("kto: {beta: 0.2}", "kto.beta", "stage: sft"),
        ("rl: {num_generations: 8}", "rl.num_generations", "stage: sft"),
        ("stage: pt\nmask_history: true", "mask_history", "stage: pt"),
        ("stage: pt\nsystem: be kind", "system", "stage: pt"),
        ("stage: dpo\npreference: {simpo_gamma: 1}", "preference.simpo_gamma", "loss: sigmoid"),
        ("min_lr_ratio: 0.1", "min_lr_ratio", "schedule: cosine"),
        ("batch_rows: 4\nbatch_tokens: 64", "batch_tokens", "`batch_rows` goes before it"),
        ("eval_data: shop\nval_size: 0.1", "val_size", "`eval_data` goes before it"),
        ("warmup_steps: 0\nwarmup_ratio: 0.2", "warmup_ratio", "`warmup_steps` goes before it"),
    ],
)
def test_a_key_without_effect_is_an_error_that_names_what_it_belongs_to(
    recipe: Path, keys: str, key: str, decider: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(put(recipe, keys))
    assert caught.value.code == "recipe.unused_key"
    assert f"`{key}`" in caught.value.message_en and decider in caught.value.message_en
    assert str(recipe) in caught.value.message_en


@pytest.mark.parametrize(
    "keys",
    [
        "method: freeze\nfreeze: {layers: 4}",
        "quant: {bits: 4, double: false}",
        "stage: dpo\npreference: {loss: simpo, simpo_gamma: 1}",
        "freeze: {layers: 2}\nlora: {pissa_iter: 16}",  # defaults ask for nothing
        "eval_data: shop\nval_size: 0",
    ],
)
def test_keys_with_effect_and_keys_at_their_default_are_taken(recipe: Path, keys: str) -> None:
    assert load_recipe(put(recipe, keys)).notes == ()


def test_an_override_may_leave_keys_of_the_file_without_effect_and_says_so(recipe: Path) -> None:
    path = put(recipe, "method: freeze\nfreeze: {layers: 4}")
    resolved = load_recipe(path, ["method=lora"])
    assert [note.en for note in resolved.notes] == [
        "`freeze.layers` has no effect: it belongs to `method: freeze`, and this is `method: lora`"
    ]
    with pytest.raises(UsageError, match=r"command line.*`oft\.block_size`"):
        load_recipe(path, ["oft.block_size=8"])
    with pytest.raises(UsageError, match=r"`kto\.beta`"):
        with_overrides(resolved, ["kto.beta=0.5"])
    assert with_overrides(resolved, ["epochs=5"]).spec.epochs == 5


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"freeze_trainable_layers": 4}, "freeze_trainable_layers"),
        ({"finetuning_type": "full"}, "lora_rank"),
        ({"pref_beta": 0.2}, "pref_beta"),
        ({"double_quantization": False}, "double_quantization"),
    ],
)
def test_a_file_of_llama_factory_is_taken_and_its_key_told_with_its_line(
    write: WriteFile, changes: dict[str, Any], key: str
) -> None:
    path = write(**changes, lora_rank=4)
    told = [note.en for note in load_recipe(path).notes if "it belongs to" in note.en]
    assert len([note for note in told if f"`{key}` has no effect" in note]) == 1
    assert all(note.startswith(f"{path}:") for note in told)


def test_a_usual_file_of_llama_factory_has_nothing_without_effect(write: WriteFile) -> None:
    assert not [note for note in load_recipe(write()).notes if "it belongs to" in note.en]


def test_rules_name_keys_that_exist() -> None:
    for rule in RULES:
        assert rule.decider in known_keys()
        for key in rule.keys:
            assert any(rule.covers(one) for one in known_keys()), key


def test_a_recipe_at_its_defaults_has_nothing_without_effect() -> None:
    assert list(unused(TrainSpec(model="m", data="d"))) == []
