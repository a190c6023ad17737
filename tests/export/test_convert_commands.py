"""`slipway convert` as a user types it: a model, a run or an adapter, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.export.test_convert_adapter import peft_adapter

from slipway.cli.main import main
from slipway.core.events import EventLog
from slipway.core.manifest import read_manifest
from slipway.core.paths import Home
from slipway.export.toolchain import Toolchain
from slipway.testing.tiny import tiny_model
from slipway.training import LoraSpec, TrainSpec, train

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning:transformers", "ignore::UserWarning:peft"
)


def row(index: int) -> str:
    answer = f"you can return it within {index % 7} days."
    messages = [
        {"role": "user", "content": f"may i return order {index}"},
        {"role": "assistant", "content": answer},
    ]
    return json.dumps({"messages": messages})


def train_run(folder: Path, run: Path, **keys: Any) -> Path:
    base = tiny_model(folder / "base")
    (folder / "train.jsonl").write_text("\n".join(row(i) for i in range(16)) + "\n")
    spec = TrainSpec(
        model=str(base),
        data=str(folder / "train.jsonl"),
        learning_rate=0.02,
        max_steps=8,
        epochs=20.0,
        batch_tokens=512,
        threads=1,
        dtype="fp32",
        **keys,
    )
    train(spec, run_dir=run, events=EventLog(None))
    return run


@pytest.mark.slow
def test_a_runs_adapter_is_converted_by_its_name_and_gives_what_was_trained(
    tmp_path: Path, home: Home, tools: Toolchain, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = LoraSpec(rank=4, alpha=8.0, rslora=True)
    train_run(tmp_path, home.runs / "shop", lora=lora)
    assert main(["convert", "shop"]) == 2
    told = capsys.readouterr().err
    assert "slipway merge" in told and "--adapter" in told
    assert main(["convert", "shop", "--adapter", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    folder = home.artefacts / "shop-adapter"
    assert made["folder"] == str(folder)
    assert read_manifest(folder, kind="gguf-adapter").digest == made["digest"]
    assert made["notes"]["proof"] == "logits" and made["metrics"]["rescaled_layers"] > 0
    assert made["metrics"]["kl_mean"] < 0.001 * made["metrics"]["adapter_kl_mean"]
    assert set(made["parents"]) == {"run", "base"}
    # again, from the folder inside the run: the same file in the same place
    assert main(["convert", str(home.runs / "shop" / "adapter")]) == 0
    printed = capsys.readouterr()
    assert str(folder) in printed.out
    assert "is an adapter" in printed.err and "were rescaled" in printed.err
    assert read_manifest(folder).digest == made["digest"]


def test_a_run_of_a_whole_model_has_no_adapter(
    tmp_path: Path, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_run(tmp_path, tmp_path / "run", method="full")
    assert main(["convert", str(run)]) == 2
    told = capsys.readouterr().err
    assert "slipway merge" in told and "--adapter" not in told
    assert main(["convert", str(run), "--adapter"]) == 2
    assert "has no adapter" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--base", "--base-gguf"])
def test_options_of_adapters_are_refused_for_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    model = tiny_model(tmp_path / "tiny")
    assert main(["convert", str(model), option, "x"]) == 2
    assert option in capsys.readouterr().err


def test_options_of_models_are_refused_for_adapters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = peft_adapter(tiny_model(tmp_path / "base"), tmp_path / "adapter")
    for option, value in (("--split-max-size", "1G"), ("--split-max-tensors", "2")):
        assert main(["convert", str(adapter), option, value]) == 2
        assert option in capsys.readouterr().err


def test_an_adapter_without_its_base_says_what_to_type_in_chinese_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = peft_adapter(tiny_model(tmp_path / "base"), tmp_path / "adapter")
    monkeypatch.setenv("SLIPWAY_LANG", "zh")
    assert main(["convert", str(adapter)]) == 2
    told = capsys.readouterr().err
    assert f"slipway convert {adapter} --base" in told and "适配器" in told
