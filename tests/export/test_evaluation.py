from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slipway.core.errors import InputError, NotFoundError, ToolError
from slipway.core.events import EventLog
from slipway.core.manifest import read_manifest
from slipway.core.paths import Home
from slipway.datasets import Message, Sample
from slipway.export import EvalPlan, convert_to_gguf, evaluate_models, quantize
from slipway.export.answers import context_tokens
from slipway.export.eval_inputs import spread
from slipway.export.measure import parse_divergence
from slipway.export.parts import Parts
from slipway.export.scoring import score, words
from slipway.export.toolchain import Toolchain
from slipway.testing.tiny import tiny_model

DIVERGENCE = """\
Mean PPL(Q)                   :  13.394189 ±   0.868509
Mean PPL(base)                :  12.587640 ±   0.797172
Mean    KLD:   0.040903 ±   0.001225
Maximum KLD:   1.291151
99.9%   KLD:   0.391420
99.0%   KLD:   0.216023
Median  KLD:   0.029705
Minimum KLD:   0.000009
Same top p: 89.461 ± 0.680 %
"""


def test_divergence_is_read_from_the_tools_words() -> None:
    found = parse_divergence(DIVERGENCE)
    assert found == {
        "ppl": 13.394189,
        "kld_mean": 0.040903,
        "kld_error": 0.001225,
        "kld_median": 0.029705,
        "kld_p99": 0.216023,
        "kld_max": 1.291151,
        "top1": 0.89461,
        "top1_error": 0.0068,
    }


def test_missing_figure_is_an_error_not_a_zero() -> None:
    with pytest.raises(ToolError, match="kld_median"):
        parse_divergence(DIVERGENCE.replace("Median", "Middle"))


def test_words_are_characters_in_chinese() -> None:
    assert words("Hello_World 3.14, 您好ABC订单12") == [
        *("hello", "world", "3", "14", "您", "好", "abc", "订", "单", "12"),
    ]


def test_scores_of_equal_different_and_chinese_answers() -> None:
    same = score(["the cat sat"], ["the cat sat"])
    assert (same.chrf, same.rouge_l) == (100.0, 1.0)
    none = score(["zzz"], ["the cat sat"])
    assert none.rouge_l == 0 and none.chrf < 5
    chinese = score(["你好，订单"], ["你好，您的订单"])  # 4 of 4 and 4 of 6 characters
    assert chinese.rouge_l == 0.8
    with pytest.raises(ValueError, match="2 answers"):
        score(["a", "b"], ["a"])


def sample(*turns: str) -> Sample:
    roles: Any = ("user", "assistant")
    messages = tuple(Message(roles[at % 2], text) for at, text in enumerate(turns))
    return Sample("id", messages, Path("f"), 1)


def test_context_holds_the_longest_prompt_and_answer() -> None:
    short, long = sample("hi", "yes"), sample("您" * 500, "好", "再" * 100, "是")
    assert context_tokens([short], 64) == 256
    assert context_tokens([short, long], 64) >= 1803 + 64


def test_rows_are_spread_over_the_whole() -> None:
    rows = [sample(str(at), "x") for at in range(10)]
    assert spread(rows, None) == rows and spread(rows, 99) == rows
    assert [s.messages[0].content for s in spread(rows, 3)] == ["0", "3", "6"]


def test_part_is_measured_once_and_again_when_its_inputs_change(tmp_path: Path) -> None:
    calls: list[int] = []

    def measure() -> int:
        calls.append(1)
        return len(calls)

    parts = Parts(tmp_path, EventLog(None), 1)
    assert parts.get("a", ["x"], measure) == 1
    assert Parts(tmp_path, EventLog(None), 1).get("a", ["x"], measure) == 1
    assert parts.get("a", ["y"], measure) == 2
    (tmp_path / "a.json").write_text('{"key": ')  # a torn file is as none
    assert parts.get("a", ["y"], measure) == 3


@pytest.fixture
def world(tools: Toolchain, home: Home, tmp_path: Path) -> EvalPlan:
    """A tiny model, its GGUF, two quants and four conversations."""
    model = tiny_model(tmp_path / "tiny")
    convert_to_gguf(model, tmp_path / "gguf", outtype="f32", home=home)
    quantize(tmp_path / "gguf", ["Q4_0", "Q8_0"], tmp_path / "q", home=home)
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Where is parcel number {at}? " * 4},
                {"role": "assistant", "content": f"Parcel {at} is on its way to your door."},
            ]
        }
        for at in range(4)
    ]
    data = tmp_path / "held.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return EvalPlan(
        base=model,
        tuned=model,
        gguf=tmp_path / "gguf",
        quants={name: tmp_path / "q" / name for name in ("Q4_0", "Q8_0")},
        heldout=data,
        home=home,
        out_dir=tmp_path / "eval",
        max_new_tokens=8,
        context=64,
        chunks=2,
    )


@pytest.mark.slow
def test_evaluation_measures_everything_and_continues(world: EvalPlan) -> None:
    result = evaluate_models(world)
    quants = result.quants
    assert 0 < quants["Q8_0"]["kld_mean"] < quants["Q4_0"]["kld_mean"]
    assert quants["Q4_0"]["size_bytes"] < quants["Q8_0"]["size_bytes"]
    for row in (*quants.values(), result.unquantised):
        for key in ("bpw", "ppl", "pp_tps", "tg_tps", "rss_bytes", "load_s"):
            assert row[key] > 0, key
        assert 0 <= row["rouge_l"] <= 1 and 0 <= row["chrf"] <= 100
    assert result.base["eval_loss"] == result.tuned["eval_loss"] > 0
    assert set(result.samples[0]["answers"]) == {"base", "tuned", "Q4_0", "Q8_0"}
    assert read_manifest(world.out_dir, kind="evaluation").parents["quant:Q8_0"]
    assert json.loads((world.out_dir / "results.json").read_text()) == result.as_json()
    assert not list(world.out_dir.rglob("logits"))

    # a killed evaluation: one part is missing, the others are kept with their times
    lost = world.out_dir / "parts" / "Q8_0.kld.json"
    kept = {p: p.stat().st_mtime_ns for p in lost.parent.iterdir() if p != lost}
    lost.unlink()
    again = evaluate_models(world)
    assert again.quants["Q8_0"]["kld_mean"] == quants["Q8_0"]["kld_mean"]
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


@pytest.mark.slow
def test_too_short_text_and_missing_files_are_named(world: EvalPlan, tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(NotFoundError, match="no-text"):
        evaluate_models(replace(world, text=tmp_path / "no-text"))
    with pytest.raises(NotFoundError, match="no-such"):
        evaluate_models(replace(world, quants={"Q8_0": tmp_path / "no-such.gguf"}))
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    short = tmp_path / "short.jsonl"
    short.write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match="tokens"):
        evaluate_models(replace(world, heldout=short))
