from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.shared_home import shared_home

from slipway.cli.main import main
from slipway.core.errors import InputError, ProofError, UsageError
from slipway.core.manifest import Setting, read_manifest, write_manifest
from slipway.core.paths import Home
from slipway.evaluation.quality import (
    Gate,
    QualityCard,
    QualityPlan,
    check_gate,
    measure_quality,
    require_gate,
)
from slipway.evaluation.quality.advice import advise
from slipway.evaluation.quality.draw import draw_quality
from slipway.evaluation.quality.keep import card_of, keep_beside, read_card
from slipway.evaluation.quality.model import CARD, PAGE
from slipway.evaluation.quality.words import page
from slipway.export import convert_to_gguf, quantize
from slipway.export.toolchain import Toolchain, install_toolchain
from slipway.store import attach_quality, create_model, describe_model, resolve_model
from slipway.testing.gguf import write_gguf
from slipway.testing.tiny import tiny_model

USED = {
    "scored_tokens": 2295,
    "text_tokens": 4608,
    "answer_rows": 16,
    "prompts": [128],
    "depths": [0],
}
MACHINE = {"cpu": "a processor", "cores": 2, "llama.cpp": "b1", "variant": "native"}


def level(size: int, kld: float, top1: float, **more: Any) -> dict[str, Any]:
    spread = {"kld_error": 0.01 * kld, "kld_median": kld, "kld_p99": 3 * kld, "top1_error": 0.005}
    return (
        {"size_bytes": size, "bpw": 4.0, "ppl": 9.0, "kld_mean": kld, "top1": top1} | spread | more
    )


def changed(value: float, low: float, high: float) -> dict[str, Any]:
    real = low > 0 or high < 0
    return {"value": value, "low": low, "high": high, "rows": 16, "real": real, "better": value > 0}


def card(**levels: dict[str, Any]) -> QualityCard:
    whole = {"size_bytes": 1000, "bpw": 16.0, "ppl": 8.5, "metrics": {"chrf": 40.0}}
    return QualityCard(whole, dict(levels), USED, MACHINE, "2026-01-01T00:00:00Z")


LADDER = card(
    Q2_K=level(200, 0.4, 0.62), Q4_K_M=level(400, 0.04, 0.88), Q8_0=level(700, 0.003, 0.97)
)


def test_the_smallest_level_within_the_limits_is_recommended() -> None:
    advice = advise(LADDER)
    assert (advice.level, advice.within, advice.alike) == ("Q4_K_M", True, ())
    assert "40%" in advice.sentence.en and "KLD 0.0400" in advice.sentence.en


def test_the_gates_limits_are_those_of_the_recommendation() -> None:
    assert advise(LADDER, Gate(max_kld=0.01)).level == "Q8_0"
    assert advise(LADDER, Gate(max_kld=1.0)).level == "Q2_K"
    nothing = advise(LADDER, Gate(max_kld=0.0001))
    assert (nothing.level, nothing.within) == ("Q8_0", False)


def test_answers_that_are_worse_beyond_chance_count_against_a_level() -> None:
    worse = {"chrf": changed(-4.0, -6.0, -1.0)}
    unsure = {"chrf": changed(-4.0, -9.0, 1.0)}
    levels = {
        "Q4_K_M": level(400, 0.04, 0.88, differences=worse),
        "Q5_K_M": level(500, 0.02, 0.92, differences=unsure),
    }
    assert advise(card(**levels)).level == "Q5_K_M"


def test_a_smaller_level_that_cannot_be_told_apart_is_named() -> None:
    levels = card(
        Q4_K_S=level(380, 0.0712, 0.88, kld_error=0.002),
        Q4_K_M=level(400, 0.069, 0.88, kld_error=0.002),
    )
    advice = advise(levels)
    assert (advice.level, advice.alike) == ("Q4_K_M", ("Q4_K_S",))


def test_a_strict_gate_stops_q2_k_and_lets_q8_0_pass() -> None:
    broken = check_gate(LADDER, Gate(max_kld=0.1, min_top1=0.8))
    assert [text.en for text in broken] == [
        "Q2_K: KLD 0.4 is above 0.1",
        "Q2_K: top-1 0.62 is below 0.8",
    ]
    with pytest.raises(ProofError, match=r"KLD 0\.4"):
        require_gate(LADDER, Gate(max_kld=0.1))
    require_gate(card(Q8_0=LADDER.levels["Q8_0"]), Gate(max_kld=0.1, min_top1=0.8))


def test_a_figure_that_is_missing_or_nan_passes_no_gate() -> None:
    broken = card(Q2_K=level(200, float("nan"), 0.9))
    assert len(check_gate(broken, Gate(max_kld=10.0))) == 1
    unmeasured = check_gate(LADDER, Gate(max_drop={"chrf": 5.0}))
    assert len(unmeasured) == 3 and "was not measured" in unmeasured[0].en


def test_a_drop_is_judged_in_the_metrics_own_points() -> None:
    levels = card(Q4_0=level(300, 0.05, 0.9, differences={"chrf": changed(-3.0, -9.0, 3.0)}))
    assert check_gate(levels, Gate(max_drop={"chrf": 3.5})) == []
    assert "worse by 3, and 2 is allowed" in check_gate(levels, Gate(max_drop={"chrf": 2.0}))[0].en


def test_rows_of_bitsandbytes_are_shown_but_neither_judged_nor_recommended() -> None:
    levels = card(int8=level(100, 0.02, 0.93, packing="int8"), Q8_0=level(700, 0.003, 0.97))
    assert advise(levels).level == "Q8_0"
    assert check_gate(levels, Gate(max_kld=0.01)) == []
    assert "| int8 |" in page(levels)


def test_the_picture_is_drawn_with_and_without_answers(tmp_path: Path) -> None:
    draw_quality(LADDER, tmp_path / "a.png")
    levels = card(Q4_0=level(300, 0.05, 0.9, differences={
        "chrf": changed(-3.0, -9.0, 3.0), "rouge_l": changed(1.0, -1.0, 2.0)}))  # fmt: skip
    draw_quality(levels, tmp_path / "b.png")
    for name in ("a", "b"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def quant_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    write_gguf(folder / "model.gguf")
    write_manifest(folder, "quant", "m-Q4_0", config={"type": Setting("Q4_0", "flag")})
    return folder


def kept(folder: Path, home: Home, out: Path) -> QualityCard:
    digest = read_manifest(folder).digest
    made = card(Q4_0=level(300, 0.05, 0.9, digest=digest))
    plan = QualityPlan(reference=folder, models={"Q4_0": folder}, home=home, out_dir=out)
    assert keep_beside(made, plan) == [folder / CARD]
    return made


def test_the_card_beside_an_artefact_goes_with_it_into_the_store(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = quant_folder(tmp_path / "q")
    kept(folder, home, tmp_path / "out")
    before = read_manifest(folder).digest
    create_model("shop", f"FROM {folder}", home=home)
    facts = describe_model(resolve_model("shop", home=home))
    assert facts["quality"]["figures"]["kld_mean"] == 0.05
    assert read_manifest(folder).digest == before
    create_model("other", "FROM shop\nSYSTEM Be brief.", home=home)
    assert resolve_model("other", home=home).quality == facts["quality"]
    assert main(["show", "shop"]) == 0
    shown = capsys.readouterr().out
    assert "Q4_0 against the unquantised model" in shown and "0.0500" in shown
    assert max(len(line) for line in shown.splitlines()) < 300


def test_a_card_of_another_artefact_is_not_taken(home: Home, tmp_path: Path) -> None:
    folder = quant_folder(tmp_path / "q")
    kept(folder, home, tmp_path / "out")
    value = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(value | {"artefact": "sha256:" + "0" * 64}))
    create_model("shop", f"FROM {folder}", home=home)
    assert resolve_model("shop", home=home).quality == {}


def test_a_card_can_be_given_to_a_model_of_the_store_of_the_same_file(
    home: Home, tmp_path: Path
) -> None:
    folder = quant_folder(tmp_path / "q")
    model = create_model("shop", f"FROM {folder / 'model.gguf'}", home=home)
    file = next(layer.digest for layer in model.layers if layer.media_type.endswith("image.model"))
    own = card_of(card(Q4_0=level(300, 0.05, 0.9, digest=file)), "Q4_0")
    attach_quality("shop", own, home=home)
    attach_quality("shop", own, home=home)  # takes the place of the first
    assert (
        len([x for x in resolve_model("shop", home=home).layers if "quality" in x.media_type]) == 1
    )
    with pytest.raises(InputError, match="is not of"):
        attach_quality("shop", own | {"artefact": "sha256:" + "0" * 64}, home=home)


def test_neither_text_nor_rows_is_an_error_that_names_both_options(
    home: Home, tmp_path: Path
) -> None:
    plan = QualityPlan(reference=tmp_path, models={}, home=home, out_dir=tmp_path / "out")
    with pytest.raises(UsageError) as caught:
        measure_quality(plan)
    assert "--data" in caught.value.hint_en and "--text" in caught.value.hint_en


@pytest.fixture
def tools(home: Home, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    found = install_toolchain(shared_home())
    monkeypatch.setenv("SLIPWAY_TOOLCHAIN", str(found.folder))
    return found


@pytest.mark.slow
def test_real_levels_are_measured_once_gated_and_shown(
    tools: Toolchain, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model(tmp_path / "tiny")
    convert_to_gguf(model, tmp_path / "gguf", outtype="f32", home=home)
    quantize(tmp_path / "gguf", ["Q4_0", "Q8_0"], tmp_path / "q", home=home)
    rows = [
        {"messages": [
            {"role": "user", "content": f"Where is parcel number {at}? " * 4},
            {"role": "assistant", "content": f"Parcel {at} is on its way to your door."}]}
        for at in range(9)
    ]  # fmt: skip
    data = tmp_path / "held.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["quality", str(tmp_path / "gguf"), str(tmp_path / "q"), "--data", str(data)]
    command += ["--context", "64", "--chunks", "2", "--prompt", "16", "--depth", "0,16"]
    command += ["--bitsandbytes", "int8", "--folder", str(model), "-o", str(tmp_path / "card")]
    assert main(command) == 0
    made = read_card(tmp_path / "card" / CARD)
    assert made is not None and (tmp_path / "card" / PAGE).is_file()
    assert 0 < made.levels["Q8_0"]["kld_mean"] < made.levels["Q4_0"]["kld_mean"]
    assert set(made.levels) == {"Q4_0", "Q8_0", "bitsandbytes int8"}
    assert set(made.levels["Q4_0"]["tg_tps"]) == {"0", "16"}
    assert made.levels["Q4_0"]["differences"]["chrf"]["rows"] == 9
    assert read_manifest(tmp_path / "card", kind="evaluation").files
    parts = {p: p.stat().st_mtime_ns for p in (tmp_path / "card" / "parts").iterdir()}
    capsys.readouterr()
    assert main([*command, "--max-kld", "1e-9"]) != 0
    assert "Q8_0: KLD" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "card" / "parts").iterdir()} == parts
    create_model("shop", f"FROM {tmp_path / 'q' / 'Q4_0'}", home=home)
    assert resolve_model("shop", home=home).quality["level"] == "Q4_0"
