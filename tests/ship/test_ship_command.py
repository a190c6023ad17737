from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipway.cli.main import main
from slipway.core.paths import Home
from slipway.store import create_model
from slipway.testing.gguf import write_gguf


def test_the_command_plans_ships_and_tells_how_to_go_on(
    run: Path, home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["ship", "shop", "--as", "shop:v1", "-t", "Q4_K_M,Q8_0", "-p", "temperature=0.2"]
    assert main([*command, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [item["state"] for item in plan["products"]] == ["make"] * 4
    assert plan["stages"] == ["toolchain", "merge", "convert", "quantise", "measure", "create"]
    assert plan["names"]["shop:v1"] == {"type": "Q4_K_M", "state": "new"}
    assert main([*command, "--dry-run"]) == 0
    assert "will be created" in capsys.readouterr().out

    assert main([*command, "--json"]) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert list(result["names"]) == ["shop:v1", "shop:v1-q4_k_m", "shop:v1-q8_0"]
    assert "[ 1/6]" in shown.err and "MB will be taken" in shown.err

    monkeypatch.setenv("SLIPWAY_LANG", "zh")
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "shop:v1 已是最新" in shown.out and "slipway serve" in shown.out
    assert "张量" in shown.err


def test_a_taken_name_ends_with_the_reason_in_the_readers_language(
    run: Path,
    home: Home,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create_model("shop:v1", f"FROM {write_gguf(tmp_path / 'm.gguf')}\n", home=home)
    assert main(["ship", "shop", "--as", "shop:v1", "--dry-run"]) == 0
    assert "--force" in capsys.readouterr().out
    monkeypatch.setenv("SLIPWAY_LANG", "zh")
    assert main(["ship", "shop", "--as", "shop:v1"]) == 1
    assert "已存在" in capsys.readouterr().err
    assert main(["ship", "shop"]) == 2


def test_an_interrupted_ship_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("slipway.ship.ship", interrupted)
    assert main(["ship", "x", "--as", "y"]) == 130
    assert "the same command goes on" in capsys.readouterr().err
