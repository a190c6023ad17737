from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipway.cli.main import main
from slipway.core.paths import Home
from slipway.testing.tiny import tiny_tokenizer

GOOD = {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes"}]}


def dataset(folder: Path, *lines: object) -> Path:
    folder.mkdir(exist_ok=True)
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_check_of_a_good_dataset_exits_with_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(dataset(tmp_path, GOOD))]) == 0
    assert "ok: no errors" in capsys.readouterr().out


def test_check_names_each_bad_row_and_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = dataset(tmp_path, GOOD, "{broken\n", {"messages": [{"role": "user"}]})
    assert main(["data", "check", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "train.jsonl:2: broken JSON" in out
    assert "train.jsonl:3: `messages[0].content` the field is missing" in out
    assert "2 errors" in out


def test_check_prints_chinese_for_chinese_readers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_LANG", "zh")
    main(["data", "check", str(dataset(tmp_path, {"messages": [{"role": "user"}]}, GOOD))])
    assert "缺少该字段" in capsys.readouterr().out


def test_check_json_is_one_document_also_when_not_ok(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(dataset(tmp_path, GOOD, "[]\n")), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["errors"][0]["line"] == 2


def test_check_of_a_missing_folder_exits_with_5(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(tmp_path / "nothing")]) == 5
    assert "does not exist" in capsys.readouterr().err


def test_stats_count_tokens_with_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = dataset(tmp_path / "data", GOOD)
    model = tiny_tokenizer(tmp_path / "model")
    command = ["data", "stats", str(folder), "--model", str(model), "--cutoff-len", "10"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "over the cut-off of 10" in out
    assert "sha256:" in out
    assert main([*command, "--json"]) == 0
    tokens = json.loads(capsys.readouterr().out)["splits"]["train"]["tokens"]
    assert tokens["over_cutoff"][0]["line"] == 1


def test_stats_take_a_pulled_base_by_name(
    tmp_path: Path, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_tokenizer(home.bases / "starter")
    command = ["data", "stats", str(dataset(tmp_path / "d", GOOD)), "--model", "starter", "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["tokens"]["learned"] > 0
    assert main([*command[:4], "none"]) == 5
    assert "slipway pull" in capsys.readouterr().err
