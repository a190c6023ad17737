from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from slipway.cli.main import main
from slipway.core.errors import InputError, NotFoundError, ProofError, UsageError
from slipway.core.manifest import read_manifest
from slipway.core.paths import Home
from slipway.evaluation.quality import Gate
from slipway.ship import ShipOptions, ship
from slipway.store import resolve_model


def options(**more: Any) -> ShipOptions:
    return ShipOptions("shop", "shop:v1", **{"types": ("Q2_K", "Q8_0"), **more})


def test_levels_are_measured_on_held_out_rows_and_fewer_bits_lose_more(
    run: Path, home: Home
) -> None:
    result = ship(options())
    small, large = result.levels["Q2_K"], result.levels["Q8_0"]
    assert small["kld_mean"] > 10 * large["kld_mean"] > 0
    assert small["top1"] < large["top1"] <= 1
    assert result.unquantised["ppl"] > 1 and result.measured_on == "heldout"
    card = resolve_model("shop:v1", home=home).quality
    assert card["figures"]["kld_mean"] == small["kld_mean"]
    folder = Path(result.artefacts["measure"])
    assert read_manifest(folder, kind="evaluation").parents["gguf"]
    assert set(json.loads((folder / "quality.json").read_text())["levels"]) == {"Q2_K", "Q8_0"}
    assert "Q" in result.advice


def test_a_failed_gate_creates_no_name_and_keeps_the_files(
    run: Path, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    levels = ship(ShipOptions("shop", "other:v1", types=("Q2_K", "Q8_0"))).levels
    limit = str(math.sqrt(levels["Q2_K"]["kld_mean"] * levels["Q8_0"]["kld_mean"]))
    command = ["ship", "shop", "--as", "shop:v1", "-t", "Q2_K", "-t", "Q8_0", "--max-kld", limit]
    assert main([*command, "--json"]) == 1
    error = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    assert error["code"] == "quality.gate"
    assert "Q2_K: KLD" in error["message"] and "Q8_0" not in error["message"]
    with pytest.raises(NotFoundError):
        resolve_model("shop:v1", home=home)
    capsys.readouterr()
    assert (next(home.artefacts.glob("*-quants")) / "Q2_K" / "model.gguf").is_file()
    loose = ship(options(gate=Gate(max_kld=50.0, min_top1=0.0)))
    assert [stage["name"] for stage in loose.stages if not stage["cached"]] == [
        "toolchain",
        "create",
    ]


def test_a_gate_that_became_stricter_is_tried_again(run: Path) -> None:
    ship(options(gate=Gate(max_kld=50.0)))
    assert ship(options(gate=Gate(max_kld=50.0))).unchanged
    with pytest.raises(ProofError, match="top-1"):
        ship(options(gate=Gate(min_top1=1.0)))


def test_a_gate_without_anything_to_measure_is_refused(
    run: Path, home: Home, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="gate"):
        ship(options(measure=False, gate=Gate(max_kld=1.0)))
    assert not home.artefacts.exists()
    text = tmp_path / "short.txt"
    text.write_text("you can")
    with pytest.raises(InputError, match="tokens"):
        ship(options(text=text))
    with pytest.raises(NotFoundError, match=r"none\.txt"):
        ship(options(text=tmp_path / "none.txt"))
    text.write_text("you can return it. 可以退款。\n" * 200)
    assert ship(options(text=text)).measured_on == "short.txt"


def test_a_killed_measurement_measures_only_what_is_missing(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway.export import measure

    asked: list[str] = []
    real = measure.divergence

    def counted(tools: Any, model: Path, *more: Any, **same: Any) -> Any:
        asked.append(model.parent.name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(tools, model, *more, **same)

    monkeypatch.setattr(measure, "divergence", counted)
    with pytest.raises(KeyboardInterrupt):
        ship(options())
    ship(options())
    assert asked == ["Q2_K", "Q8_0", "Q8_0"]


def test_auto_takes_the_smallest_level_that_is_good_enough(run: Path, home: Home) -> None:
    result = ship(ShipOptions("shop", "shop:v1", types=("auto",)))
    assert set(result.levels) == {"Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"}
    (made,) = result.names.values()
    assert made["type"] in result.advice
    assert ship(ShipOptions("shop", "shop:v1", types=("auto",))).unchanged
    klds = sorted(level["kld_mean"] for level in result.levels.values())
    strict = Gate(max_kld=(klds[0] + klds[1]) / 2)
    (made,) = ship(ShipOptions("shop", "strict:v1", types=("auto",), gate=strict)).names.values()
    assert result.levels[made["type"]]["kld_mean"] == klds[0]
    with pytest.raises(ProofError):
        ship(ShipOptions("shop", "none:v1", types=("auto",), gate=Gate(max_kld=klds[0] / 2)))
    with pytest.raises(UsageError, match="auto"):
        ship(ShipOptions("shop", "none:v1", types=("auto", "Q8_0")))


def test_a_gate_on_a_metric_has_the_levels_answer_the_held_out_rows(run: Path) -> None:
    result = ship(options(types=("Q8_0",), gate=Gate(max_drop={"chrf": 100.0})))
    level = result.levels["Q8_0"]
    assert set(level["metrics"]) == {"chrf", "rouge_l"} and level["tg_tps"]
    with pytest.raises(ProofError, match="chrf"):
        ship(options(types=("Q8_0",), gate=Gate(max_drop={"chrf": -100.0})))
