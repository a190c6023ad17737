from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipway.core.errors import InputError
from slipway.core.paths import Home
from slipway.datasets import list_cached
from slipway.testing.tiny import tiny_tokenizer
from slipway.training import TrainSpec
from slipway.training.token_sets import hold_to_stage, load_tokenizer_of, rule_of, token_sets

TURNS = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "first"},
    {"role": "user", "content": "r"},
    {"role": "assistant", "content": "last"},
]


@pytest.fixture
def spec(tmp_path: Path) -> TrainSpec:
    for split in ("train", "heldout"):
        text = json.dumps({"messages": TURNS}) + "\n"
        (tmp_path / f"{split}.jsonl").write_text(text, encoding="utf-8")
    base = tiny_tokenizer(tmp_path / "base")
    return TrainSpec(model=str(base), data=str(tmp_path))


def learned(spec: TrainSpec) -> str:
    tokenizer = load_tokenizer_of(spec, Path(spec.model))
    rows, _ = token_sets(spec, tokenizer)
    return str(tokenizer.decode([label for label in rows[0].labels if label != -100]))


def test_the_masks_of_a_recipe_are_obeyed(spec: TrainSpec) -> None:
    assert learned(spec) == "first<|im_end|>last<|im_end|>"
    assert learned(spec.model_copy(update={"mask_history": True})) == "last<|im_end|>"
    assert "user\nq" in learned(spec.model_copy(update={"train_on_prompt": True}))
    assert rule_of(spec.model_copy(update={"system": "be kind"})).system == "be kind"


def test_both_splits_are_kept_for_the_second_start(spec: TrainSpec, home: Home) -> None:
    tokenizer = load_tokenizer_of(spec, Path(spec.model))
    train, heldout = token_sets(spec, tokenizer)
    assert heldout is not None and len(train) == len(heldout) == 1
    assert len(list_cached(home.token_cache)) == 2


def test_a_template_of_another_family_stops_the_run(spec: TrainSpec) -> None:
    with pytest.raises(InputError, match="template: llama3"):
        load_tokenizer_of(spec.model_copy(update={"template": "llama3"}), Path(spec.model))


def test_rows_that_a_stage_cannot_learn_from_are_refused() -> None:
    hold_to_stage("preference", "dpo", Path("d"))
    with pytest.raises(InputError) as caught:
        hold_to_stage("preference", "sft", Path("d"))
    assert "dpo, rm" in caught.value.hint_en
