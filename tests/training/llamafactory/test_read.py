from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slipway.core.errors import NotFoundError, UsageError
from slipway.core.paths import Home
from slipway.datasets.source import DataSource
from slipway.training import Resolved, load_recipe
from slipway.training.llamafactory import KEYS
from slipway.training.spec import flatten, known_keys

from .conftest import SFT, WriteFile


def get(resolved: Resolved, key: str) -> Any:
    return flatten(resolved.spec.model_dump())[key]


def test_an_example_file_runs_unchanged_with_every_value_traced(
    write: WriteFile, factory: Path
) -> None:
    found = load_recipe(write())
    spec, folder = found.spec, str(factory / "data")
    assert found.dialect == "llamafactory"
    assert spec.model == str(factory / "models" / "tiny")
    assert spec.sources == (
        DataSource(path="shop", info=folder),
        DataSource(path="shop_chat", info=folder),
    )
    assert (spec.stage, spec.method, spec.lora.rank, spec.lora.alpha) == ("sft", "lora", 8, 16)
    assert (spec.batch_rows, spec.learning_rate, spec.epochs) == (8, 1e-4, 3.0)
    assert (spec.schedule, spec.warmup_ratio, spec.template) == ("cosine", 0.1, "qwen")
    assert (spec.cutoff_len, spec.max_samples, spec.bad_rows) == (256, 1000, "skip")
    assert found.run_dir == factory / "saves/tiny/lora/sft" and found.fresh
    assert found.origins["lora.rank"] == found.origins["batch_rows"] == "file"
    assert found.origins["seed"] == found.origins["weight_decay"] == "llamafactory"
    assert found.origins["pack_tokens"] == "default"


def test_where_the_file_is_silent_llama_factorys_own_defaults_hold(write: WriteFile) -> None:
    silent = ("lora_rank", "cutoff_len", "learning_rate", "num_train_epochs", "lora_target")
    silent += ("per_device_train_batch_size", "gradient_accumulation_steps", "lr_scheduler_type")
    silent += ("warmup_ratio", "max_samples", "output_dir", "overwrite_output_dir")
    found = load_recipe(write(**dict.fromkeys(silent)))
    spec = found.spec
    assert (spec.lora.rank, spec.lora.alpha, spec.cutoff_len) == (8, 16.0, 2048)
    assert (spec.learning_rate, spec.epochs, spec.batch_rows) == (5e-5, 3.0, 8)
    assert (spec.schedule, spec.warmup_ratio, spec.seed) == ("linear", 0.0, 42)
    assert (spec.max_samples, found.run_dir, found.fresh) == (None, None, False)
    assert found.origins["learning_rate"] == "llamafactory"


def test_overrides_are_dotlists_with_their_keys_and_the_keys_only_we_know(write: WriteFile) -> None:
    found = load_recipe(
        write(),
        [
            "learning_rate=2e-5",
            "dataset=shop",
            "lr_scheduler_type=cosine_with_min_lr",
            "lr_scheduler_kwargs.min_lr_rate=0.1",
            "time_budget_s=60",
            "lora.alpha=4",
        ],
    )
    assert found.spec.learning_rate == 2e-5 and found.origins["learning_rate"] == "flag"
    assert [source.path for source in found.spec.sources] == ["shop"]
    assert found.spec.min_lr_ratio == pytest.approx(0.1)
    assert (found.spec.time_budget_s, found.spec.lora.alpha) == (60, 4)


def test_json_is_read_too(write: WriteFile, factory: Path) -> None:
    import yaml

    path = factory / "sft.json"
    path.write_text(json.dumps(yaml.safe_load(SFT)))
    assert load_recipe(path).spec == load_recipe(write()).spec


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"lora_alpha": 64}, "lora.alpha", 64.0),
        ({"lora_target": "q_proj,v_proj"}, "lora.target", ["q_proj", "v_proj"]),
        (
            {"additional_target": "embed_tokens,lm_head"},
            "lora.extra_modules",
            ["embed_tokens", "lm_head"],
        ),
        ({"loraplus_lr_ratio": 16}, "lora.plus_ratio", 16.0),
        ({"use_dora": True}, "lora.dora", True),
        ({"finetuning_type": "full"}, "method", "full"),
        ({"finetuning_type": "freeze", "freeze_trainable_layers": -3}, "freeze.layers", -3),
        (
            {"finetuning_type": "freeze", "freeze_trainable_modules": "mlp"},
            "freeze.modules",
            ["mlp"],
        ),
        ({"finetuning_type": "oft", "oft_block_size": 16}, "oft.block_size", 16),
        ({"quantization_bit": 4}, "quant.bits", 4),
        ({"quantization_bit": 4, "double_quantization": False}, "quant.double", False),
        ({"stage": "dpo", "dataset": "pairs", "pref_loss": "simpo"}, "preference.loss", "simpo"),
        ({"stage": "dpo", "dataset": "pairs", "pref_beta": 0.3}, "preference.beta", 0.3),
        ({"stage": "kto", "dataset": "votes", "pref_beta": 0.3}, "kto.beta", 0.3),
        (
            {"stage": "kto", "dataset": "votes", "kto_rejected_weight": 2},
            "kto.rejected_weight",
            2.0,
        ),
        ({"stage": "pt", "dataset": "texts"}, "batch_tokens", 8 * 256),
        ({"packing": True}, "batch_tokens", 8 * 256),
        ({"stage": "pt", "dataset": "texts", "packing": False}, "batch_rows", 8),
        ({"max_steps": 7}, "max_steps", 7),
        ({"max_steps": 7}, "epochs", 7.0),
        ({"warmup_steps": 20}, "warmup_steps", 20),
        ({"warmup_steps": 0.2}, "warmup_ratio", 0.2),
        ({"lr_scheduler_type": "constant"}, "warmup_ratio", 0.0),
        ({"optim": "adamw_bnb_8bit"}, "optimizer", "adamw_8bit"),
        ({"use_galore": True, "finetuning_type": "full"}, "optimizer", "galore"),
        ({"max_grad_norm": 0}, "max_grad_norm", 1e30),
        ({"neftune_noise_alpha": 5}, "neftune_alpha", 5.0),
        ({"disable_gradient_checkpointing": True}, "checkpointing", "off"),
        ({"gradient_checkpointing": True}, "checkpointing", "on"),
        ({"enable_thinking": False}, "thinking", "off"),
        ({"enable_thinking": None, "template": "qwen3"}, "thinking", "on"),
        ({"template": "qwen3_nothink"}, "thinking", "keep"),
        ({"default_system": "be short"}, "system", "be short"),
        ({"val_size": 0.1}, "val_size", 0.1),
        ({"eval_strategy": "steps", "eval_steps": 50}, "eval_every", 50),
        ({"eval_strategy": "steps"}, "eval_every", 10),
        ({"eval_strategy": "epoch"}, "eval_each_epoch", True),
        ({"eval_strategy": "steps", "load_best_model_at_end": True}, "keep_best", True),
        ({"early_stopping_steps": 3}, "early_stopping", 3),
        ({"save_strategy": "no"}, "save_every_steps", None),
        ({"save_total_limit": 1}, "keep_checkpoints", 1),
        ({"report_to": "none", "use_swanlab": True}, "report_to", ["swanlab"]),
        ({"report_to": ["tensorboard", "wandb"]}, "report_to", ["tensorboard", "wandb"]),
        ({"run_name": "mine"}, "label", "mine"),
        ({"mix_strategy": "interleave_under"}, "mix", "interleave_under"),
    ],
)
def test_a_key_decides_ours(
    write: WriteFile, changes: dict[str, object], key: str, value: object
) -> None:
    assert get(load_recipe(write(**changes)), key) == value


def test_enable_thinking_null_keeps_rows_as_they_are(write: WriteFile) -> None:
    assert load_recipe(write(), ["enable_thinking=null"]).spec.thinking == "keep"


def test_probabilities_become_weights(write: WriteFile) -> None:
    changes = {"mix_strategy": "interleave_over", "interleave_probs": "0.7,0.3"}
    assert [s.weight for s in load_recipe(write(**changes)).spec.sources] == [0.7, 0.3]


def test_batches_count_every_process(write: WriteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert load_recipe(write()).spec.batch_rows == 32


def test_keys_without_effect_are_named_with_the_reason(write: WriteFile) -> None:
    told = [note.en for note in load_recipe(write(packing=True)).notes]
    assert any("`trust_remote_code` has no effect: code that comes" in text for text in told)
    assert any(text.startswith("packing: a step holds 8 packs") for text in told)
    assert not any("save_only_model" in text for text in told)  # at its default: nothing to say


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"stage": "ppo"}, "stage"),
        ({"stage": "dpo", "dataset": "pairs", "pref_loss": "kto_pair"}, "pref_loss"),
        ({"resize_vocab": True}, "resize_vocab"),
        ({"rope_scaling": "yarn"}, "rope_scaling"),
        ({"use_badam": True, "finetuning_type": "full"}, "use_badam"),
        ({"galore_rank": 8}, "galore_rank"),
        ({"lr_scheduler_type": "cosine_with_restarts"}, "lr_scheduler_type"),
        ({"optim": "lion_8bit"}, "optim"),
        ({"predict_with_generate": True}, "predict_with_generate"),
        ({"report_to": "mlflow"}, "report_to"),
        ({"quantization_method": "hqq", "quantization_bit": 4}, "quantization_method"),
        ({"adapter_name_or_path": "a,b"}, "adapter_name_or_path"),
        ({"export_dir": "out"}, "export_dir"),
        ({"resume_from_checkpoint": "elsewhere/checkpoint-5"}, "resume_from_checkpoint"),
        ({"disable_shuffling": True}, "disable_shuffling"),
        ({"data_seed": 3}, "data_seed"),
        ({"save_steps": 0.1}, "save_steps"),
    ],
)
def test_what_is_not_done_here_is_an_error_that_says_so(
    write: WriteFile, changes: dict[str, object], key: str
) -> None:
    path = write(**changes)
    with pytest.raises(UsageError) as caught:
        load_recipe(path)
    assert caught.value.code == "llamafactory.unsupported"
    assert caught.value.message_en.startswith(f"{path}:") and f"`{key}: " in caught.value.message_en
    assert caught.value.hint_en


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"finetuning_type": "full", "quantization_bit": 4}, "quantization_bit finetuning_type"),
        ({"finetuning_type": "full", "adapter_name_or_path": "a"}, "adapter_name_or_path"),
        ({"pissa_init": True, "quantization_bit": 4}, "pissa_init quantization_bit"),
        ({"pissa_init": True, "stage": "kto"}, "pissa_init stage"),
        ({"use_dora": True, "finetuning_type": "oft"}, "use_dora finetuning_type"),
        ({"neat_packing": True, "stage": "dpo"}, "neat_packing stage"),
        ({"train_on_prompt": True, "mask_history": True}, "train_on_prompt mask_history"),
        ({"streaming": True}, "streaming max_steps"),
        ({"streaming": True, "max_steps": 9}, "streaming max_samples"),
        ({"val_size": 0.1, "eval_dataset": "shop"}, "val_size eval_dataset"),
        ({"interleave_probs": "0.5,0.5"}, "interleave_probs mix_strategy"),
        ({"interleave_probs": "1", "mix_strategy": "interleave_over"}, "interleave_probs dataset"),
        ({"load_best_model_at_end": True, "stage": "rm"}, "load_best_model_at_end stage"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end eval_strategy"),
        ({"fp16": True}, "bf16 fp16"),
        ({"do_predict": True}, "do_predict predict_with_generate"),
        ({"use_galore": True}, "use_galore finetuning_type"),
        ({"stage": "dpo", "dpo_label_smoothing": 0.1, "pref_loss": "ipo"}, "dpo_label_smoothing"),
    ],
)
def test_combinations_llama_factory_refuses_are_refused(
    write: WriteFile, changes: dict[str, object], keys: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(write(**changes))
    assert caught.value.code == "llamafactory.conflict"
    for key in keys.split():
        assert f"`{key}`" in caught.value.message_en


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        ({"lora_rank": 0}, "lora_rank", "must be ≥ 1"),
        ({"stage": "sftt"}, "stage", "must be one of"),
        ({"learning_rate": "fast"}, "learning_rate", "must be a number"),
        ({"gradient_accumulation_steps": 1.5}, "gradient_accumulation_steps", "whole number"),
        ({"use_dora": "perhaps"}, "use_dora", "true or false"),
        ({"quantization_bit": 3}, "quantization_bit", "must be one of"),
        ({"finetuning_type": "prompt"}, "finetuning_type", "must be one of"),
    ],
)
def test_a_wrong_value_is_named_by_their_key_and_its_line(
    write: WriteFile, changes: dict[str, object], key: str, says: str
) -> None:
    path = write(**changes)
    line = path.read_text().splitlines().index(f"{key}: {json.dumps(changes[key])}") + 1
    with pytest.raises(UsageError) as caught:
        load_recipe(path)
    assert caught.value.message_en.startswith(f"{path}:{line}: `{key}`")
    assert says in caught.value.message_en


def test_an_unknown_key_offers_the_nearest_of_theirs(write: WriteFile) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(write(lora_rnk=4))
    assert caught.value.code == "config.unknown_key" and "`lora_rank`" in caught.value.hint_en
    with pytest.raises(UsageError, match="unknown key `learning_rte`"):
        load_recipe(write(), ["learning_rte=1"])


def test_a_file_that_trains_nothing_is_refused(write: WriteFile) -> None:
    with pytest.raises(UsageError, match="do_train") as caught:
        load_recipe(write(do_train=False))
    assert "slipway eval" in caught.value.hint_en


def test_a_hub_id_is_found_among_the_pulled_bases_or_named_with_the_command(
    write: WriteFile, home: Home
) -> None:
    path = write(model_name_or_path="Qwen/Qwen2.5-0.5B-Instruct")
    with pytest.raises(NotFoundError) as caught:
        load_recipe(path)
    assert "slipway pull Qwen/Qwen2.5-0.5B-Instruct" in caught.value.hint_en
    folder = home.bases / "Qwen--Qwen2.5-0.5B-Instruct"
    folder.mkdir(parents=True)
    assert load_recipe(path).spec.model == str(folder)


def test_the_registry_is_found_above_the_file_and_missed_by_name(
    write: WriteFile, factory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = factory / "examples" / "train_lora"
    deep.mkdir(parents=True)
    path = write(model_name_or_path=str(factory / "models" / "tiny")).rename(deep / "sft.yaml")
    monkeypatch.chdir(deep)
    assert load_recipe(path).spec.sources[0].info == str(factory / "data")
    with pytest.raises(NotFoundError, match=r"dataset_info\.json"):
        load_recipe(path, ["dataset_dir=nowhere"])


def test_every_mapped_key_leads_to_keys_we_have() -> None:
    ours = {*known_keys(), "run_dir", "fresh", "train"}
    for key in KEYS.values():
        assert (key.fate == "mapped") == bool(key.to) and set(key.to) <= ours, key.name
        assert (key.why is not None) == (key.fate != "mapped"), key.name


def test_every_key_of_transformers_is_known() -> None:
    from dataclasses import fields

    from transformers import Seq2SeqTrainingArguments

    assert {f.name for f in fields(Seq2SeqTrainingArguments)} <= set(KEYS)
