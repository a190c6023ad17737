from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from slipway.cli.main import main
from slipway.core.errors import InputError, NotFoundError, UsageError
from slipway.core.manifest import read_manifest
from slipway.core.paths import Home
from slipway.export import convert_to_gguf, quantize
from slipway.export.coverage import coverage_of
from slipway.export.imatrix import CalibrationPlan, coverage_in, measure_imatrix
from slipway.export.toolchain import Toolchain
from slipway.testing.tiny import tiny_model

ROW = {
    "messages": [
        {"role": "user", "content": "Where is my parcel? It was due a week ago. " * 3},
        {"role": "assistant", "content": "It left our house on Monday and will be there soon."},
    ]
}


def write_matrix(path: Path, counts: dict[str, list[float]], dead: str = "") -> Path:
    writer = gguf.GGUFWriter(str(path), "", use_temp_file=False)
    for name, seen in counts.items():
        sums = np.ones((len(seen), 8), dtype=np.float32)
        if name == dead:
            sums[:, :2] = 0
        writer.add_tensor(f"{name}.in_sum2", sums)
        writer.add_tensor(f"{name}.counts", np.array(seen, dtype=np.float32)[:, None])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_model(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    writer = gguf.GGUFWriter(str(path), "llama", use_temp_file=False)
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_coverage_names_weights_experts_and_columns_without_data(tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (4, 8),
        "blk.0.attn_norm.weight": (8,),
        "blk.0.attn_q.weight": (8, 8),
        "blk.0.ffn_down.weight": (8, 8),
        "blk.0.ffn_up_exps.weight": (3, 4, 8),
    }
    model = write_model(tmp_path / "model.gguf", shapes)
    counts = {"blk.0.attn_q.weight": [5000.0], "blk.0.ffn_up_exps.weight": [4000.0, 0.0, 30.0]}
    found = coverage_of(write_matrix(tmp_path / "m.gguf", counts, "blk.0.attn_q.weight"), [model])
    assert (found.tensors, found.covered, found.tokens) == (4, 2, 0)
    assert found.missing == ["blk.0.ffn_down.weight"] and found.is_poor
    assert found.experts_missing == {"blk.0.ffn_up_exps.weight": 1}
    assert found.experts_few == {"blk.0.ffn_up_exps.weight": 1}
    assert found.dead_columns == {"blk.0.attn_q.weight": 0.25}


def test_a_file_that_is_no_matrix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUFnonsense")
    with pytest.raises(InputError, match="no importance matrix"):
        coverage_of(tmp_path / "m.gguf", [])


def test_neither_text_nor_rows_is_an_error(home: Home, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        measure_imatrix(tmp_path, tmp_path / "out", CalibrationPlan(), home=home)
    assert "--data" in caught.value.hint_en


@pytest.fixture
def floats(tools: Toolchain, home: Home, tmp_path: Path) -> Path:
    convert_to_gguf(tiny_model(tmp_path / "tiny"), tmp_path / "gguf", outtype="f32", home=home)
    return tmp_path / "gguf"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "train.jsonl").write_text((json.dumps(ROW) + "\n") * 20)
    return tmp_path / "shop"


def test_a_matrix_from_rows_is_kept_used_and_not_measured_twice(
    floats: Path, rows: Path, home: Home, tmp_path: Path
) -> None:
    plan = CalibrationPlan(datasets=(rows,), chunks=4, context=64)
    made = measure_imatrix(floats, tmp_path / "im", plan, home=home)
    found = coverage_in(made)
    assert made.kind == "imatrix" and made.parents["gguf"] == read_manifest(floats).digest
    assert found.covered > 0 and not found.is_poor and found.tokens == 4 * 64
    stamp = (tmp_path / "im" / "imatrix.gguf").stat().st_mtime_ns
    assert measure_imatrix(floats, tmp_path / "im", plan, home=home) == made
    assert (tmp_path / "im" / "imatrix.gguf").stat().st_mtime_ns == stamp
    quants = quantize(floats, ["Q4_0"], tmp_path / "q", home=home, imatrix=tmp_path / "im")
    assert quants["Q4_0"].parents["imatrix"] == made.digest
    other = CalibrationPlan(datasets=(rows,), chunks=5, context=64)
    assert measure_imatrix(floats, tmp_path / "im", other, home=home).metrics["chunks"] == 5


def test_a_text_that_is_too_short_or_missing_leaves_nothing(
    floats: Path, home: Home, tmp_path: Path
) -> None:
    (tmp_path / "t.txt").write_text("hello there")
    plan = CalibrationPlan(texts=(tmp_path / "t.txt",), context=64)
    with pytest.raises(InputError, match="128 are needed"):
        measure_imatrix(floats, tmp_path / "im", plan, home=home)
    missing = CalibrationPlan(texts=(tmp_path / "no.txt",))
    with pytest.raises(NotFoundError, match=r"no\.txt"):
        measure_imatrix(floats, tmp_path / "im", missing, home=home)
    assert not (tmp_path / "im").exists()


def test_the_commands_measure_and_quantise_with_what_was_measured(
    floats: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["imatrix", str(floats), "--data", str(rows), "--context", "64", "--chunks", "4"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == str(tmp_path / "gguf-imatrix")
    assert "weights have data of 256 tokens at least" in captured.err
    done = ["quantize", str(floats), "-t", "Q4_0", "-t", "Q8_0", "--calibration-data", str(rows)]
    assert main([*done, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert set(made) == {"Q4_0", "Q8_0"} and "imatrix" in made["Q4_0"]["parents"]
    assert main([*done, "--no-imatrix"]) == 2
    assert "exclude each other" in capsys.readouterr().err
