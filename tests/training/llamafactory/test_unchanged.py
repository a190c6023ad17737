"""LLaMA Factory's files together with their dataset_info.json, taken through to tokens and runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slipway.cli.main import main
from slipway.core.errors import SlipwayError
from slipway.core.events import EventLog, read_events
from slipway.testing.fake_hub import FakeHub, serving
from slipway.training import load_recipe, train
from slipway.training.dry_run import dry_run
from slipway.training.spec import Resolved
from slipway.training.token_sets import load_tokenizer_of, token_sets

ITEMS = ["cup", "lamp", "sofa", "desk", "rug", "vase", "bed", "chair"]
ASKED = [f"can i return my {ITEMS[i % 8]} bought {i} days ago" for i in range(16)]
GOOD = [f"yes, you can return the {ITEMS[i % 8]}. we send a label." for i in range(16)]
BAD = [f"no idea about {i}" for i in range(16)]
ROLES = {
    "role_tag": "who",
    "content_tag": "what",
    "user_tag": "customer",
    "assistant_tag": "agent",
    "system_tag": "rules",
}
DATASETS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "plain": (
        {"file_name": "plain.json"},
        [{"instruction": q, "input": "", "output": a} for q, a in zip(ASKED, GOOD, strict=True)],
    ),
    "columns": (
        {
            "file_name": "columns.jsonl",
            "num_samples": 6,
            "columns": {
                "prompt": "ask",
                "query": "detail",
                "response": "say",
                "system": "rules",
                "history": "before",
            },
        },
        [
            {"ask": q, "detail": "please", "say": a, "rules": "be kind", "before": [["hi", "yes"]]}
            for q, a in zip(ASKED, GOOD, strict=True)
        ],
    ),
    "tags": (
        {
            "file_name": "tags.json",
            "formatting": "sharegpt",
            "columns": {"messages": "talk"},
            "tags": ROLES,
        },
        [
            {
                "talk": [
                    {"who": "rules", "what": "be kind"},
                    {"who": "customer", "what": q},
                    {"who": "agent", "what": a},
                ]
            }
            for q, a in zip(ASKED, GOOD, strict=True)
        ]
        + [{"talk": [{"who": "agent", "what": "begins"}]}],
    ),
    "kept": (
        {"file_name": "kept.jsonl", "formatting": "sharegpt"},
        [
            {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
            for q, a in zip(ASKED[:4], GOOD[:4], strict=True)
        ],
    ),
    "texts": (
        {"file_name": "texts.jsonl", "columns": {"prompt": "text"}},
        [{"text": f"{q}. {a}"} for q, a in zip(ASKED, GOOD, strict=True)],
    ),
    "pairs": (
        {
            "file_name": "pairs.json",
            "ranking": True,
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
        },
        [
            {
                "conversations": [{"from": "human", "value": q}],
                "chosen": {"from": "gpt", "value": good},
                "rejected": {"from": "gpt", "value": bad},
            }
            for q, good, bad in zip(ASKED, GOOD, BAD, strict=True)
        ],
    ),
    "votes": (
        {
            "file_name": "votes.json",
            "columns": {"prompt": "prompt", "response": "answer", "kto_tag": "liked"},
        },
        [
            {"prompt": q, "answer": GOOD[i] if i % 2 else BAD[i], "liked": bool(i % 2)}
            for i, q in enumerate(ASKED)
        ],
    ),
}
COMMON = """\
### model
model_name_or_path: {base}
trust_remote_code: true

### method
stage: {stage}
do_train: true
finetuning_type: {method}
lora_rank: 4
lora_target: all
{more}
### dataset
dataset: {dataset}
dataset_dir: data
cutoff_len: 128
overwrite_cache: true
preprocessing_num_workers: 16

### output
output_dir: saves/{stage}
logging_steps: 1
save_steps: 500
plot_loss: true

### train
per_device_train_batch_size: 2
gradient_accumulation_steps: 4
learning_rate: {rate}
num_train_epochs: 4.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
"""


class Shop:
    """A working directory as users of LLaMA Factory have it."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.base = folder, base
        data = folder / "data"
        data.mkdir()
        entries = {name: entry for name, (entry, _) in DATASETS.items()}
        (data / "dataset_info.json").write_text(json.dumps(entries, indent=2), "utf-8")
        for entry, rows in DATASETS.values():
            lines = entry["file_name"].endswith("l")
            text = "\n".join(json.dumps(r) for r in rows) if lines else json.dumps(rows, indent=1)
            (data / entry["file_name"]).write_text(text, "utf-8")

    def recipe(
        self, stage: str, dataset: str, more: str = "template: chatml\n", method: str = "lora"
    ) -> Resolved:
        path = self.folder / f"{stage}.yaml"
        path.write_text(
            COMMON.format(
                base=self.base,
                stage=stage,
                dataset=dataset,
                more=more,
                method=method,
                rate="1.0e-2" if method == "lora" else "1.0e-3",
            ),
            "utf-8",
        )
        read = load_recipe(path)
        # two threads wait for each other on a busy machine
        return replace(read, spec=read.spec.model_copy(update={"threads": 1}))


@pytest.fixture
def shop(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.chdir(tmp_path)
    return Shop(tmp_path, base)


def test_sft_of_three_datasets_trains_and_names_what_it_left_out(
    shop: Shop, tmp_path: Path
) -> None:
    more = "template: chatml\neval_dataset: kept\nmax_samples: 12\n"
    recipe = shop.recipe("sft", "plain,columns,tags", more)
    result = train(recipe, run_dir=tmp_path / "run", events=EventLog(None))
    assert result.metrics["eval_loss"] < result.metrics["base_eval_loss"] - 0.5
    said = [e for e in read_events(tmp_path / "run" / "events.jsonl") if e["type"] == "log"]
    documents = next(e for e in said if "documents" in e)
    assert documents["documents"] == 12 + 6 + 12
    again = train(recipe, run_dir=tmp_path / "run", events=EventLog(None))
    assert again.resumed_from == result.metrics["steps"]  # finished: nothing is trained


def test_a_row_of_another_order_is_left_out_and_named_before_training(shop: Shop) -> None:
    data = dry_run(shop.recipe("sft", "tags")).data
    assert (data.documents, data.skipped) == (16, 1)
    (reason,) = data.reasons
    assert reason.startswith(f"{shop.folder}/data/tags.json:")
    assert reason.endswith("`talk[0].what`: expected a turn of `user / tool`, found `assistant`")
    learned = "".join(piece.text for piece in data.preview[0] if piece.learned)
    assert learned.startswith("yes, you can return the cup.")


def test_columns_that_an_entry_does_not_list_are_told(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {"file_name": "plain.json"} | {
        "columns": {"prompt": "instruction", "response": "output"}
    }
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps({"plain": entry}), "utf-8")
    recipe = shop.recipe("sft", "plain")
    for _ in range(2):  # the second time from the token cache
        assert dry_run(recipe).data.unread == {"input": 16}
    assert main(["train", str(recipe.path), "--dry-run"]) == 0
    assert "not read (rows that have them): `input` (16)" in capsys.readouterr().out
    train(recipe, run_dir=tmp_path / "run", events=EventLog(None))
    said = [e.get("message", "") for e in read_events(tmp_path / "run" / "events.jsonl")]
    assert "columns that are not read: `input` (16 rows)" in said


def test_pt_trains_on_the_prompt_column(shop: Shop, tmp_path: Path) -> None:
    recipe = shop.recipe("pt", "texts", "val_size: 4\n")
    result = train(recipe, run_dir=tmp_path / "run", events=EventLog(None))
    assert result.metrics["eval_loss"] < result.metrics["base_eval_loss"] - 0.5


@pytest.mark.parametrize(
    ("stage", "dataset", "falls"),
    [("dpo", "pairs", 0.3), ("rm", "pairs", 0.1), ("kto", "votes", 0.1)],
)
def test_pairs_and_marked_answers_are_trained_on(
    shop: Shop, tmp_path: Path, stage: str, dataset: str, falls: float
) -> None:
    more = "template: chatml\npref_beta: 0.1\nval_size: 4\n"
    recipe = shop.recipe(stage, dataset, more)
    result = train(recipe, run_dir=tmp_path / "run", events=EventLog(None))
    assert result.metrics["eval_loss"] < result.metrics["base_eval_loss"] - falls


def test_pairs_and_marked_answers_are_encoded_for_their_stages(shop: Shop) -> None:
    tokenizer = load_tokenizer_of(shop.recipe("sft", "plain").spec, shop.base)
    pairs, _ = token_sets(shop.recipe("dpo", "pairs").spec, tokenizer)
    assert (pairs.kind, len(pairs)) == ("preference", 32)
    votes, _ = token_sets(shop.recipe("kto", "votes").spec, tokenizer)
    assert votes.kind == "feedback"
    assert votes.desirable is not None
    assert [bool(mark) for mark in votes.desirable] == [bool(i % 2) for i in range(16)]


@pytest.mark.parametrize(
    ("loss", "method"), [("sigmoid", "lora"), ("orpo", "full"), ("simpo", "lora")]
)
def test_dpo_trains_on_ranked_pairs(loss: str, method: str, shop: Shop, tmp_path: Path) -> None:
    more = f"template: chatml\nval_size: 4\npref_loss: {loss}\npref_beta: 0.2\npref_ftx: 0.1\n"
    result = train(
        shop.recipe("dpo", "pairs", more, method), run_dir=tmp_path / "run", events=EventLog(None)
    )
    assert result.metrics["eval_loss"] < 0.9 * result.metrics["base_eval_loss"]
    steps = [e for e in read_events(tmp_path / "run" / "events.jsonl", "metric")]
    assert steps[-1]["accuracy"] == 1.0
    assert result.metrics["steps"] == 8  # 12 pairs, 2 x 4 a step, four epochs


@pytest.mark.parametrize(
    ("stage", "dataset", "method"), [("kto", "votes", "lora"), ("rm", "pairs", "full")]
)
def test_marked_answers_and_reward_models_train(
    stage: str, dataset: str, method: str, shop: Shop, tmp_path: Path
) -> None:
    more = "template: chatml\nval_size: 4\n"
    if stage == "kto":
        more += "pref_beta: 0.2\nkto_rejected_weight: 1.2\n"
    result = train(
        shop.recipe(stage, dataset, more, method), run_dir=tmp_path / "run", events=EventLog(None)
    )
    assert result.metrics["eval_loss"] < 0.95 * result.metrics["base_eval_loss"]
    assert (tmp_path / "run" / "model" / "value_head.safetensors").exists() == (stage == "rm")


@pytest.mark.parametrize(
    ("stage", "dataset", "code"),
    [
        ("sft", "plane", "data.undefined"),
        ("sft", "pairs", "data.wrong_stage"),
        ("dpo", "plain", "data.wrong_stage"),
        ("kto", "plain", "data.kind"),
        ("sft", "votes", "data.kind"),
        ("pt", "kept", "data.wrong_stage"),
        ("sft", "texts", "data.bad_entry"),
    ],
)
def test_a_dataset_that_does_not_fit_is_an_error(
    shop: Shop, stage: str, dataset: str, code: str
) -> None:
    spec = shop.recipe(stage, dataset).spec
    with pytest.raises(SlipwayError) as caught:
        token_sets(spec, load_tokenizer_of(spec, shop.base))
    assert caught.value.code == code
    assert dataset in caught.value.message_en


def test_another_meaning_of_an_entry_is_other_data_and_another_spelling_is_not(
    shop: Shop, tmp_path: Path
) -> None:
    from slipway.training.token_sets import data_identity

    spec = shop.recipe("sft", "plain").spec
    first = data_identity(spec.sources, "sft")
    registry = tmp_path / "data" / "dataset_info.json"
    registry.write_text(json.dumps({"plain": {"file_name": "./plain.json", "ranking": False}}))
    assert data_identity(spec.sources, "sft") == first
    columns = {"prompt": "instruction", "response": "output"}
    registry.write_text(json.dumps({"plain": {"file_name": "plain.json", "columns": columns}}))
    assert data_identity(spec.sources, "sft") != first


def test_a_start_reads_the_bytes_of_the_data_once(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway.core.files import sha256_file
    from slipway.datasets import digests

    digested: list[str] = []

    def counted(file: Path) -> str:
        digested.append(file.name)
        return sha256_file(file)

    monkeypatch.setattr(digests, "sha256_file", counted)
    recipe = shop.recipe("sft", "plain,tags", "template: chatml\nmax_steps: 1\n")
    train(recipe, run_dir=tmp_path / "run", events=EventLog(None))
    assert sorted(digested) == ["plain.json", "tags.json"]


def test_a_dataset_of_a_hub_is_fetched_told_and_trained_on(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = DATASETS["plain"][1]
    files = {"train.json": json.dumps(rows[:12]).encode(), "test.json": b"[]"}
    with serving(FakeHub(datasets={"org/shop": files})) as hub:
        monkeypatch.setenv("SLIPWAY_HF_ENDPOINT", hub.url)
        recipe = shop.recipe("sft", "org/shop", "template: chatml\nmax_steps: 2\n")
        recipe = load_recipe(recipe.path or tmp_path, ["dataset_dir=ONLINE"])
        told: list[dict[str, Any]] = []
        train(recipe, run_dir=tmp_path / "run", events=EventLog(None, told.append))
    fetched = [event for event in told if event.get("stage") == "fetch"]
    size = len(files["train.json"])
    assert (fetched[-1]["name"], fetched[-1]["done_bytes"]) == ("org/shop", size)
    documents = next(event for event in told if "documents" in event)
    assert documents["documents"] == 12
    # finished, and the hub is gone
    again = train(recipe, run_dir=tmp_path / "run", events=EventLog(None))
    assert again.resumed_from == 2
