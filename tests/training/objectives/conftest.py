from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slipway.training import TrainSpec

ITEMS = ["cup", "lamp", "sofa", "desk", "rug", "vase", "bed", "chair"]


def pair(index: int) -> dict[str, str]:
    item = ITEMS[index % len(ITEMS)]
    return {
        "prompt": f"can i return my {item} bought {index} days ago" + " please" * (index % 5),
        "chosen": f"yes, you can return the {item}." + " thank you." * (index % 3),
        "rejected": f"no. keep the {item}" + " for ever" * (index % 4),
    }


def answer(index: int) -> dict[str, Any]:
    both = pair(index // 2)
    good = index % 2 == 0
    text = both["chosen" if good else "rejected"]
    return {"prompt": both["prompt"], "completion": text, "label": good}


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in rows]
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pairs"
    write(folder, "train", [pair(i) for i in range(20)])
    write(folder, "heldout", [pair(i) for i in range(100, 106)])
    return folder


@pytest.fixture(scope="session")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "answers"
    write(folder, "train", [answer(i) for i in range(32)])
    write(folder, "heldout", [answer(i) for i in range(200, 208)])
    return folder


def make_spec(base: Path, data: Path, **values: Any) -> TrainSpec:
    settings: dict[str, Any] = {
        "model": str(base),
        "data": str(data),
        "lora": {"rank": 4, "alpha": 8.0},
        "batch_rows": 6,
        "pack_tokens": 256,
        "learning_rate": 0.01,
        "max_steps": 8,
        "epochs": 50.0,
        "save_every_steps": 3,
        "threads": 1,
        "dtype": "fp32",
        **values,
    }
    return TrainSpec.model_validate(settings)
