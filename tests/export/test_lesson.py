"""The lesson's numpy: exact where llama.cpp is exact, and true where it explains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.cli.main import main as run
from slipway.core.errors import InputError, NotFoundError
from slipway.core.paths import Home
from slipway.export.lesson import take_weight, walk
from slipway.export.lesson.blocks import ENCODERS, back, codes_of
from slipway.export.lesson.schemes import Floats, asymmetric, symmetric
from slipway.export.lesson.superblocks import READERS
from slipway.export.lesson.tool import quantised_by_tool
from slipway.export.lesson.weights import Weight
from slipway.export.toolchain import Toolchain
from slipway.testing.gguf import write_gguf


def matrix(rows: int = 16, columns: int = 512, seed: int = 0) -> Floats:
    """Ordinary weights with a few large ones, a row of zeros and a row of one value."""
    random = np.random.default_rng(seed)
    values = random.normal(0, 0.05, (rows, columns)).astype(np.float32)
    values[random.random(values.shape) < 0.01] *= 8
    values[1], values[2] = 0, 0.125
    values[3], values[4] = -0.0, np.abs(values[4])
    values[4, ::2], values[4, 1::4] = -0.0, 0.0
    values[5] = -values[4]
    return values


@pytest.mark.parametrize("kind", list(ENCODERS))
def test_our_bytes_are_those_of_llama_cpp(kind: str, tools: Toolchain) -> None:
    values = matrix()
    ours = ENCODERS[kind](values)
    assert ours.tobytes() == quantised_by_tool(values, kind, tools).tobytes()


@pytest.mark.parametrize("kind", list(READERS))
def test_super_blocks_are_read_as_llama_cpp_reads_them(kind: str, tools: Toolchain) -> None:
    import gguf

    data = quantised_by_tool(matrix(), kind, tools)
    size, read = READERS[kind]
    theirs = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind])
    assert np.array_equal(read(data.reshape(-1, size)).back.ravel(), theirs.ravel())


@pytest.mark.parametrize("kind", list(ENCODERS))
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.03, 1.0, 100.0]))
def test_codes_stay_in_range_and_the_error_below_a_step(kind: str, seed: int, scale: float) -> None:
    values = (np.random.default_rng(seed).normal(0, scale, (4, 32))).astype(np.float32)
    data = ENCODERS[kind](values)
    codes = codes_of(kind, data)
    low, high = {"Q8_0": (-127, 127), "Q5_0": (0, 31)}.get(kind, (0, 15))
    assert low <= codes.min() and codes.max() <= high
    steps = np.abs(data[:, :2].copy().view(np.float16).astype(np.float32))
    # The scale itself is rounded to fp16, which moves the farthest code by some thousandths, and
    # the side of the block that lacks a code is cut by up to one step.
    limit = steps * (1.01 if kind in ("Q4_0", "Q5_0") else 0.6) + 1e-6
    assert np.all(np.abs(back(kind, data) - values).max(axis=1, keepdims=True) <= limit)


@given(st.integers(0, 2**31), st.sampled_from([4, 8]))
def test_smaller_groups_and_more_bits_lose_less(seed: int, bits: int) -> None:
    values = matrix(seed=seed)

    def loss(quantise: object, group: str, bits: int = bits) -> float:
        return float(((quantise(values, bits, group).back - values) ** 2).sum())  # type: ignore[operator]

    for quantise in (symmetric, asymmetric):
        losses = [loss(quantise, group) for group in ("tensor", "row", "block of 32")]
        assert losses == sorted(losses, reverse=True)
    assert loss(symmetric, "row", 8) < loss(symmetric, "row", 4)
    assert symmetric(values, bits, "row").back[1].any() == np.False_


def test_bits_are_counted_with_the_scales() -> None:
    values = matrix()
    assert symmetric(values, 4, "block of 32").bits == 4.5
    assert asymmetric(values, 4, "block of 32").bits == 5.0
    assert symmetric(values, 8, "row").bits == 8 + 16 / 512
    rows = {row.scheme: row for row in walk(_weight(values), "Q4_0", None).rows}
    assert [rows[kind].bits for kind in ENCODERS] == [8.5, 5.5, 5.0, 4.5]
    assert rows["Q4_0"].exact is None


def _weight(values: Floats) -> Weight:
    rows, columns = values.shape
    return Weight("w", "F32", (rows, columns), values)


def test_the_walk_shows_one_block_and_one_super_block_of_real_bytes(tools: Toolchain) -> None:
    lesson = walk(_weight(matrix()), "Q4_1", tools)
    assert all(row.exact for row in lesson.rows if row.scheme.startswith("Q"))
    block, steps = lesson.block, lesson.super_block
    assert block.offset is not None
    assert steps is not None and steps.mins is not None and steps.dmin is not None
    for weight, code, value in zip(block.weights, block.codes, block.back, strict=True):
        assert value == pytest.approx(block.scale * code + block.offset, abs=1e-6)
        assert abs(value - weight) <= block.worst + 1e-9
    for code, value in zip(steps.codes, steps.back, strict=True):
        expected = steps.d * steps.scales[0] * code - steps.dmin * steps.mins[0]
        assert value == pytest.approx(expected, abs=1e-5)
    assert max(steps.scales) <= 63
    json.dumps(lesson.as_json())


def test_a_tensor_is_found_by_name_or_refused_with_the_nearest(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    with pytest.raises(NotFoundError, match=r"no tensor `token_embd"):
        take_weight(path, "token_embd.weigth")
    found = take_weight(path)
    assert found.name == "token_embd.weight"
    import gguf

    odd = tmp_path / "odd.gguf"
    writer = gguf.GGUFWriter(odd, "llama")
    writer.add_tensor("x", np.zeros((4, 40), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="whole blocks of 32"):
        take_weight(odd, "x")
    with pytest.raises(InputError, match="no matrix to show"):
        take_weight(odd)


def test_the_command_tells_draws_and_prints_json(
    tools: Toolchain, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.numpy import save_file

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"a.down_proj.weight": matrix()}, folder / "model.safetensors")
    picture = tmp_path / "p.png"
    assert run(["explain", "quant", str(folder), "--picture", str(picture)]) == 0
    told = capsys.readouterr().out
    assert "a.down_proj.weight (F32): 16 x 512 weights" in told
    assert "Q4_K" in told and "d * (q - 8)" in told
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run(["explain", "quant", str(folder), "-t", "q8_0", "--json"]) == 0
    told_json = json.loads(capsys.readouterr().out)
    assert told_json["block"]["kind"] == "Q8_0"
    assert {row["scheme"] for row in told_json["schemes"]} >= {"INT4 symmetric", "Q6_K", "Q4_0"}
    assert run(["explain", "quant"]) == 2
    assert "slipway pull starter" in capsys.readouterr().err
