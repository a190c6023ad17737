from __future__ import annotations

import json
from pathlib import Path

import pytest

ITEMS = ["cup", "lamp", "sofa", "desk", "rug", "vase", "bed", "chair"]


def conversation(index: int) -> dict[str, object]:
    item = ITEMS[index % len(ITEMS)]
    question = f"can i return my {item} bought {index} days ago" + " please" * (index % 5)
    answer = f"yes, you can return the {item}. we send a label." + " thank you." * (index % 3)
    return {
        "id": f"row-{index}",
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ],
    }


def write_rows(path: Path, numbers: range) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(conversation(number)) for number in numbers]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from slipway.testing.tiny import tiny_model

    return tiny_model(tmp_path_factory.mktemp("model") / "tiny", seed=0)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shop"
    write_rows(folder / "train.jsonl", range(24))
    write_rows(folder / "heldout.jsonl", range(100, 106))
    return folder
