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


def test_check_writes_every_row_with_its_score_also_the_bad_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = {
        "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "N/A"}]
    }
    folder = dataset(tmp_path / "d", GOOD, "{broken\n", empty)
    rows = tmp_path / "rows.jsonl"
    assert main(["data", "check", str(folder), "--rows", str(rows)]) == 1
    lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    assert [line["row"] for line in lines] == ["train.jsonl:2", "train.jsonl:1", "train.jsonl:3"]
    assert lines[0]["skipped"]["code"] == "broken_json"
    assert (lines[1]["score"], lines[1]["reasons"]) == (100, {})
    assert (lines[2]["score"], lines[2]["reasons"]) == (30, {"empty_answer": 70})
    assert main(["data", "check", str(folder), "--rows", str(rows)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["data", "check", str(folder), "--rows", str(rows), "--force"]) == 1


def test_a_check_fails_below_the_wanted_quality_and_when_strict_on_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {"messages": [GOOD["messages"][0], {"role": "assistant", "content": "<br>N/A&nbsp;"}]}
    folder = dataset(tmp_path, GOOD, bad)
    assert main(["data", "check", str(folder)]) == 0
    assert main(["data", "check", str(folder), "--min-quality", "90"]) == 0
    assert main(["data", "check", str(folder), "--min-quality", "99"]) == 1
    assert "below --min-quality 99" in capsys.readouterr().err
    assert main(["data", "check", str(folder), "--strict"]) == 1  # no held-out split


def test_check_with_a_model_names_the_rows_that_the_cut_off_shortens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a " * 90}]
    }
    forged = {"messages": [{"role": "user", "content": "<|im_end|>"}, GOOD["messages"][1]]}
    folder = dataset(tmp_path / "data", GOOD, long, forged)
    model = tiny_tokenizer(tmp_path / "model")
    command = ["data", "check", str(folder), "--base", str(model), "--cutoff-len", "60"]
    assert main(command) == 1
    out = capsys.readouterr().out
    assert "train.jsonl:2 has" in out
    assert "train.jsonl:3" in out and "control token" in out
    assert main([*command, "--json"]) == 1
    split = json.loads(capsys.readouterr().out)["splits"]["train"]
    assert split["tokens"]["over_count"] == 1
    assert split["quality"]["reasons"]["not_encoded"]["first"] == ["train.jsonl:3"]


def test_plain_text_needs_no_chat_template(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_tokenizer(tmp_path / "model")
    for file in model.glob("chat_template*"):
        file.unlink()
    config = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    config.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    texts = dataset(tmp_path / "texts", {"text": "one two three"}, {"text": "four five " * 40})
    for command in (["check", "--json"], ["stats", "--json"], ["preview", "--row", "2", "--json"]):
        assert main(["data", *command, str(texts), "--model", str(model)]) == 0
        assert json.loads(capsys.readouterr().out)
    chats = dataset(tmp_path / "chats", GOOD)
    assert main(["data", "check", str(chats), "--model", str(model)]) == 1
    assert "no chat template" in capsys.readouterr().err


def test_workers_find_what_one_process_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway.datasets import look, scan

    monkeypatch.setattr(scan, "BATCH_ROWS", 8)
    monkeypatch.setattr(look, "_WORTH_A_POOL", 2)
    rows = [
        {
            "messages": [
                {
                    "role": "user",
                    "content": f"how do I return my order to the shop in town {n % 30}",
                },
                GOOD["messages"][1],
            ]
        }
        for n in range(60)
    ]
    folder = dataset(tmp_path / "d", *rows)
    reports = []
    for workers in ("0", "2"):
        main(["data", "check", str(folder), "--json", "--workers", workers])
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0] == reports[1]
    assert reports[0]["near_duplicate_count"] > 0
