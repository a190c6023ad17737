"""The commands that show a row or make datasets, as they are typed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from slipway.cli.main import main
from slipway.testing.tiny import tiny_tokenizer


def rows(folder: Path, count: int = 12) -> Path:
    folder.mkdir()
    lines = []
    for n in range(count):
        turns = [
            {"role": "user", "content": f"q{n} q{n * 7} q{n * 11} 电话 1381234567{n % 10}"},
            {"role": "assistant", "content": f"a{n} a{n * 5} a{n * 3}"},
        ]
        lines.append(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
    (folder / "train.jsonl").write_text("".join([*lines, "{broken\n"]), encoding="utf-8")
    return folder


def test_a_row_is_previewed_with_marks_that_need_no_colour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_tokenizer(tmp_path / "model")
    command = ["data", "preview", str(rows(tmp_path / "d")), "--row", "2", "--base", str(model)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "⟦a1 a5 a3<|im_end|>" in out
    assert "\x1b[" not in out
    assert main([*command, "--tokens"]) == 0
    assert "⟦<|im_end|>⟧" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["documents"][0]["learned"] == sum(
        token["learned"] for token in shown["documents"][0]["tokens"]
    )
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    main(command)
    assert "\x1b[32m⟦" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    main(command)
    assert "\x1b[" not in capsys.readouterr().out


def test_a_row_that_is_not_there_or_no_row_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(rows(tmp_path / "d"))
    assert main(["data", "preview", folder, "--row", "99"]) == 5
    assert main(["data", "preview", folder, "--row", "x"]) == 2
    assert main(["data", "preview", folder, "--row", "train.jsonl:13"]) == 1
    assert "broken JSON" in capsys.readouterr().err


def test_a_dataset_is_converted_masked_cleaned_and_divided(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = rows(tmp_path / "d")
    file, masked, clean = (
        tmp_path / "lf/rows.json",
        tmp_path / "masked.jsonl",
        tmp_path / "clean.csv",
    )
    gone, parts = tmp_path / "gone.jsonl", tmp_path / "parts"
    steps = [
        f"convert {folder} {file} --to alpaca --register mine",
        f"mask {file} {masked}",
        f"dedupe {masked} {clean} --removed {gone}",
        f"split {clean} {parts} --heldout 3 --type parquet",
    ]
    for step in steps:
        assert main(["data", *step.split()]) == 0, capsys.readouterr().err
    out = capsys.readouterr()
    assert "train.jsonl:13: broken JSON" in out.err
    assert "rows left out: 1" in out.out
    assert "masked: 12 × mobile" in out.out
    assert json.loads((tmp_path / "lf/dataset_info.json").read_text())["mine"]["file_name"]
    for step in steps:
        assert main(["data", *step.split()]) == 1
        assert "--force" in capsys.readouterr().err
        assert main(["data", *step.split(), "--force", "--json"]) == 0
        json.loads(capsys.readouterr().out)
    assert main(["data", "check", str(tmp_path / "parts")]) == 0
    named = ["data", "check", "mine", "--dataset-dir", str(tmp_path / "lf")]
    assert main(named) == 0


def test_wrong_words_on_the_command_line_are_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(rows(tmp_path / "d"))
    assert main(["data", "mask", folder, str(tmp_path / "o"), "--kinds", "phone"]) == 2
    assert "known kinds" in capsys.readouterr().err
    assert main(["data", "split", folder, str(tmp_path / "o"), "--stratify", "mood"]) == 2
    assert main(["data", "split", folder, str(tmp_path / "o.jsonl")]) == 2
    assert main(["data", "convert", folder, str(tmp_path / "o.txt")]) == 2
    assert main(["data", "convert", folder, str(tmp_path / "o.json"), "--to", "text"]) == 1
    assert "--lossy" in capsys.readouterr().err
    assert not list(tmp_path.glob("o*"))
