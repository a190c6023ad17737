from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipway.core.errors import InputError
from slipway.core.events import EventLog
from slipway.core.paths import Home
from slipway.datasets import dataset_digest, list_cached
from slipway.testing.tiny import tiny_tokenizer
from slipway.training import TrainSpec
from slipway.training.spec.keys import as_sources
from slipway.training.token_sets import (
    data_identity,
    hold_to_stage,
    load_tokenizer_of,
    rule_of,
    streams,
    token_sets,
    told_token_sets,
)

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
    hold_to_stage("preference", "dpo", "d")
    with pytest.raises(InputError) as caught:
        hold_to_stage("preference", "sft", "d")
    assert "dpo, rm" in caught.value.hint_en


def write_rows(file: Path, count: int) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"instruction": f"q{n}", "output": f"{file.parent.name}{n}"} for n in range(count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file.parent)


def answers(spec: TrainSpec) -> tuple[list[str], list[str]]:
    train, heldout = streams(spec)
    texts = [[s.messages[-1].content for s in part or ()] for part in (train, heldout)]
    return texts[0], texts[1]


def test_several_datasets_are_mixed_and_their_heldout_splits_joined(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a" / "train.jsonl", 4)
    second = write_rows(tmp_path / "b" / "train.jsonl", 4)
    write_rows(tmp_path / "b" / "heldout.jsonl", 2)
    spec = TrainSpec(model="m", data=[first, second], max_samples=2)
    assert answers(spec) == (["a0", "a1", "b0", "b1"], ["b0", "b1"])
    taking_turns = spec.model_copy(update={"mix": "interleave_under"})
    assert answers(taking_turns)[0] == ["a0", "b0", "a1", "b1"]


def test_rows_kept_by_val_size_are_not_trained_on(tmp_path: Path) -> None:
    spec = TrainSpec(model="m", data=write_rows(tmp_path / "a" / "train.jsonl", 10), val_size=0.3)
    train, kept = answers(spec)
    assert (len(train), len(kept)) == (7, 3)
    assert sorted(train + kept) == [f"a{n}" for n in range(10)]
    assert answers(spec) == (train, kept)


def test_rows_that_break_the_rules_are_left_out_and_counted_when_wanted(
    spec: TrainSpec, tmp_path: Path
) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text(file.read_text(encoding="utf-8") + '{"messages": []}\n', encoding="utf-8")
    tokenizer = load_tokenizer_of(spec, Path(spec.model))
    with pytest.raises(InputError, match=r"train\.jsonl:2"):
        token_sets(spec, tokenizer)
    for _ in range(2):  # the second time out of the cache
        events: list[dict[str, object]] = []
        skipping = spec.model_copy(update={"bad_rows": "skip"})
        told_token_sets(skipping, tokenizer, EventLog(None, events.append))
        assert [e["skipped"] for e in events if "skipped" in e] == [1]
        assert any("train.jsonl:2" in str(e["message"]) for e in events)


def test_the_identity_of_data_is_that_of_its_files_weights_and_limits(tmp_path: Path) -> None:
    folder = write_rows(tmp_path / "a" / "train.jsonl", 3)
    plain = as_sources(folder)
    assert data_identity(plain) == dataset_digest(Path(folder))
    limited = [one.model_copy(update={"max_samples": 2}) for one in plain]
    assert len({data_identity(s) for s in (plain, limited, [*plain, *plain])}) == 3
