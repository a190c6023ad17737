from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.testing.fake_upstream import FakeUpstream
from slipway.testing.tiny import tiny_model

ROWS = [
    ("where is my order", "it will come soon"),
    ("can i return it", "yes you can"),
    ("how long does it take", "it takes a week"),
    ("who are you", "i am the assistant"),
    ("is it free", "yes it is free"),
    ("do you ship abroad", "no we do not"),
    ("may i pay later", "yes you may"),
    ("is there a shop", "no there is not"),
    ("what is the price", "it is ten"),
    ("may i call you", "yes please do"),
]


def write_rows(path: Path, rows: list[tuple[str, str]] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "id": f"r{number}",
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ],
        }
        for number, (question, answer) in enumerate(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tiny models, `one` and `two`."""
    folder = tmp_path_factory.mktemp("models")
    tiny_model(folder / "one", seed=1)
    tiny_model(folder / "two", seed=2)
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl")


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream(["tiny", "other", "judge"]) as server:
        yield server
