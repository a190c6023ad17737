from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.datasets.rows_for_tests import Rows, byte_level_tokenizer

from slipway.datasets import load_tokenizer
from slipway.testing.tiny import tiny_tokenizer


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a dataset folder: rows per split."""

    def writer(train: Rows, heldout: Rows | None = None) -> Path:
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        for name, rows in (("train", train), ("heldout", heldout)):
            if rows is not None:
                text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
                (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        return folder

    return writer


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_tokenizer(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Any:
    return load_tokenizer(tiny_folder)


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(byte_level_tokenizer(tmp_path_factory.mktemp("bytes") / "t"))


@pytest.fixture(params=["tiny", "byte_level"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)
