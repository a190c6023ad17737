from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipway.cli.main import main
from slipway.core.paths import Home
from slipway.datasets import EncodeRule, encode_stream, load_dataset, load_tokenizer
from slipway.testing.tiny import tiny_tokenizer


def fill(folder: Path) -> None:
    rows = folder / "rows.jsonl"
    turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes"}]
    rows.write_text(json.dumps({"messages": turns}) + "\n", encoding="utf-8")
    tokenizer = load_tokenizer(tiny_tokenizer(folder / "model"))
    encode_stream(
        load_dataset(rows), tokenizer, EncodeRule(99), cache=Home.current().token_cache, digest="d"
    )


def test_cached_tokens_are_listed_and_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "cache"]) == 0
    assert "0 in " in capsys.readouterr().out
    fill(tmp_path)
    main(["data", "cache", "--json"])
    (entry,) = json.loads(capsys.readouterr().out)["cached"]
    assert Path(entry["folder"]).is_dir() and entry["bytes"] > 0
    assert main(["data", "cache", "--clear"]) == 0
    assert "1 removed" in capsys.readouterr().out
    assert not Path(entry["folder"]).exists()
