"""The search of a mixture below a size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from slipway.cli.main import main
from slipway.core.errors import UsageError
from slipway.core.paths import Home
from slipway.export import convert_to_gguf, quantize
from slipway.export.quantise import Options, Plan, Target, find_mix, parse_options, plan_quantize
from slipway.export.quantise.mix import choose_raises, overrides_for, sensitivity
from slipway.export.quantise.options import Override
from slipway.export.quantise.plan import TensorPlan
from slipway.export.toolchain import Toolchain
from slipway.testing.tiny import tiny_model

PARTS = ("attn_q", "attn_v", "ffn_down", "ffn_up")
ROW = 256


def plan(name: str, tensor_type: str, layers: int = 8) -> Plan:
    tensors = tuple(
        TensorPlan(f"blk.{layer}.{part}.weight", (ROW, 8), "BF16", tensor_type)
        for layer in range(layers)
        for part in PARTS
    )
    return Plan(name, tensors, (), 1000 + sum(t.bytes for t in tensors), {})


LOW, HIGH = plan("Q4_K_M", "Q4_K"), plan("Q5_K_M", "Q5_K")
STEP = 8 * (176 - 144)


@pytest.mark.parametrize("room", [0, 1, 3, 20, 32])
def test_as_many_tensors_are_raised_as_have_room(room: int) -> None:
    limit = LOW.size_bytes + room * STEP + STEP // 2
    raised = choose_raises(LOW, HIGH, (), Target(size_bytes=limit))
    assert len(raised) == room
    assert {t.type for t in raised} <= {"Q5_K"}


def test_the_most_sensitive_tensors_are_raised_first() -> None:
    raised = choose_raises(LOW, HIGH, (), Target(size_bytes=LOW.size_bytes + 9 * STEP))
    names = [t.name for t in raised]
    assert names[:4] == [f"blk.{n}.attn_v.weight" for n in (0, 3, 6, 7)]
    assert names[8] == "blk.0.ffn_down.weight"


def test_bits_per_weight_are_a_limit_too() -> None:
    raised = choose_raises(LOW, HIGH, (), Target(bpw=5.0))
    mixed = {t.name: t for t in raised}
    after = replace(LOW, tensors=tuple(mixed.get(t.name, t) for t in LOW.tensors))
    assert 5.0 - 1 / len(LOW.tensors) < after.bpw <= 5.0


def test_tensors_that_the_user_decided_stay() -> None:
    everything = Target(size_bytes=HIGH.size_bytes)
    raised = choose_raises(LOW, HIGH, (Override("attn_v", "Q8_0"),), everything)
    assert len(raised) == 24
    assert not any("attn_v" in t.name for t in raised)


def test_the_overrides_name_exactly_the_raised_tensors() -> None:
    raised = choose_raises(LOW, HIGH, (), Target(size_bytes=LOW.size_bytes + 11 * STEP))
    overrides = overrides_for(raised)
    hit = {t.name for t in plan("x", "Q4_K", 80).tensors if any(o.finds(t.name) for o in overrides)}
    assert hit == {t.name for t in raised}
    assert len(overrides) == 2  # one for a kind, not for a tensor


def test_the_rule_is_that_of_the_tool_for_its_mixtures() -> None:
    more = [n for n in range(32) if sensitivity(f"blk.{n}.ffn_down.weight", 32)[1] == 0]
    assert more == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert sensitivity("output.weight", 32) < sensitivity("blk.0.attn_v.weight", 32)
    assert sensitivity("blk.9.ffn_down_exps.weight", 32) < sensitivity("blk.0.ffn_up.weight", 32)


@pytest.fixture
def floats(tools: Toolchain, home: Home, tmp_path: Path) -> Path:
    convert_to_gguf(tiny_model(tmp_path / "tiny"), tmp_path / "gguf", outtype="f32", home=home)
    return tmp_path / "gguf"


@pytest.mark.slow
def test_the_result_is_below_the_target_and_as_large_as_was_told(
    floats: Path, home: Home, tmp_path: Path
) -> None:
    whole = plan_quantize(floats, ["Q5_K_M", "Q8_0"], home=home)
    least, most = (whole[name].size_bytes for name in ("Q5_K_M", "Q8_0"))
    target = Target(size_bytes=(least + most) // 2)
    mix = find_mix(floats, target, home=home)
    made = quantize(floats, [mix.type], tmp_path / "out", home=home, options=mix.options)
    label, manifest = next(iter(made.items()))
    size = (tmp_path / "out" / label / "model.gguf").stat().st_size
    assert least < size == mix.plan.size_bytes <= (least + most) // 2
    assert mix.raised
    assert manifest.config["overrides"].value == [
        f"{o.pattern}={o.type}" for o in mix.options.overrides
    ]
    assert find_mix(floats, Target(size_bytes=10**9), home=home).type == "Q8_0"


@pytest.mark.slow
def test_a_target_below_every_type_is_refused(floats: Path, home: Home) -> None:
    with pytest.raises(UsageError, match="no type is as small as 1000 bytes"):
        find_mix(floats, Target(size_bytes=1000), home=home)
    with pytest.raises(UsageError, match="exclude each other"):
        find_mix(floats, Target(bpw=5), home=home, options=Options(pure=True))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target-size", "4.5 parsecs"], "is no size"),
        (["--target-size", "0"], "is no size"),
        (["--target-size", "1GiB", "--target-bpw", "4"], "exclude each other"),
        (["--target-size", "1GiB", "-t", "Q8_0"], "exclude each other"),
    ],
)
def test_targets_that_make_no_sense_are_refused(
    arguments: list[str], said: str, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", str(tmp_path), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_the_hint_on_upper_case_offers_no_pattern_of_another_meaning() -> None:
    with pytest.raises(UsageError) as caught:
        parse_options(tensor_types=[r"blk\.\S=Q8_0"])
    assert r"\s" not in caught.value.hint_en
    assert r"\S" in caught.value.hint_en
    with pytest.raises(UsageError) as caught:
        parse_options(tensor_types=["Attn_V=Q8_0"])
    assert "attn_v" in caught.value.hint_en
