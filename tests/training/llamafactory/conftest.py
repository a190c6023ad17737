"""LLaMA Factory files as their users write them, and a data folder that they name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

WriteFile = Callable[..., Path]

REGISTRY = {
    "shop": {"file_name": "shop.json"},
    "shop_chat": {
        "file_name": "shop_chat.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations"},
    },
    "pairs": {
        "file_name": "pairs.json",
        "ranking": True,
        "columns": {
            "prompt": "instruction",
            "query": "input",
            "chosen": "chosen",
            "rejected": "rejected",
        },
    },
    "votes": {
        "file_name": "votes.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "kto_tag": "label"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    },
    "texts": {"file_name": "texts.jsonl", "columns": {"prompt": "text"}},
}


def shop_rows(count: int = 24) -> dict[str, list[dict[str, object]]]:
    """The rows of every dataset in `REGISTRY`."""
    items = ["cup", "lamp", "sofa", "desk"]
    asked = [f"can i return my {items[i % 4]} bought {i} days ago" for i in range(count)]
    good = [f"yes, you can return the {items[i % 4]}. we send a label." for i in range(count)]
    bad = [f"no idea {i}" for i in range(count)]
    return {
        "shop.json": [
            {"instruction": q, "input": "", "output": a} for q, a in zip(asked, good, strict=True)
        ],
        "shop_chat.jsonl": [
            {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
            for q, a in zip(asked, good, strict=True)
        ],
        "pairs.json": [
            {"instruction": q, "input": "", "chosen": a, "rejected": b}
            for q, a, b in zip(asked, good, bad, strict=True)
        ],
        "votes.json": [
            {
                "messages": [
                    {"role": "user", "content": q},
                    {"role": "assistant", "content": good[i] if i % 2 else bad[i]},
                ],
                "label": bool(i % 2),
            }
            for i, q in enumerate(asked)
        ],
        "texts.jsonl": [{"text": f"{q}. {a}"} for q, a in zip(asked, good, strict=True)],
    }


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `data/` (registry and files) and a base in `models/tiny`."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "dataset_info.json").write_text(json.dumps(REGISTRY), encoding="utf-8")
    for name, rows in shop_rows().items():
        text = (
            "\n".join(json.dumps(row) for row in rows)
            if name.endswith("l")
            else json.dumps(rows, indent=1)
        )
        (data / name).write_text(text + "\n", encoding="utf-8")
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SFT = """\
### model
model_name_or_path: models/tiny
trust_remote_code: true

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all

### dataset
dataset: shop,shop_chat
template: qwen
cutoff_len: 256
max_samples: 1000
overwrite_cache: true
preprocessing_num_workers: 16
dataloader_num_workers: 4

### output
output_dir: saves/tiny/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
"""


@pytest.fixture
def write(factory: Path) -> WriteFile:
    """Write the sft file with lines changed: `write(stage="dpo", dataset="pairs", template=None)`.

    None takes a key out.
    """

    def make(name: str = "sft.yaml", **changes: object) -> Path:
        lines = [
            line
            for line in SFT.splitlines()
            if not line.strip() or line.startswith("#") or line.split(":")[0] not in changes
        ]
        lines += [
            f"{key}: {json.dumps(value)}" for key, value in changes.items() if value is not None
        ]
        path = factory / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return make
