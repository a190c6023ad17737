from __future__ import annotations

from pathlib import Path

import pytest

from slipway.core.errors import InputError, NotFoundError, ResourceError, ToolError, UsageError
from slipway.core.manifest import write_manifest
from slipway.core.paths import Home
from slipway.export import quantize
from slipway.export.quantise import check_types, parse_types
from slipway.export.quantise.importance import Matrix
from slipway.export.quantise.plan import MatrixFacts
from slipway.testing.gguf import write_gguf
from slipway.testing.toolchain import FakeToolchain

HELP = """\
   2  or  Q4_0    :  4.34G, +0.4685 ppl @ Llama-3-8B
  38  or  MXFP4_MOE :  MXFP4 MoE
  20  or  IQ2_XS  :  2.31 bpw quantization
  15  or  Q4_K    : alias for Q4_K_M
  15  or  Q4_K_M  :  4.58G, +0.1754 ppl @ Llama-3-8B
   7  or  Q8_0    :  7.96G, +0.0026 ppl @ Llama-3-8B
   1  or  F16     : 14.00G, +0.0020 ppl @ Mistral-7B
          COPY    : only copy tensors, no quantizing
"""
OFFERED = parse_types(HELP)


TENSORS = """\
warning: token_embd.weight - ncols 64 not divisible by 256 (required for type q4_K) \
-> falling back to q8_0
[   1/   2] token_embd.weight - [ 64, 32, 1, 1], type =   bf16, size = 1.00 MiB -> 0.50 MiB (q8_0)
[   2/   2] output_norm.weight - [ 64, 1, 1, 1], type =    f32, size =    0.002 MiB
"""
QUANTIZE = f"""\
if [ "$1" = --help ]; then cat <<'END'
{HELP}END
exit 1; fi
cat <<'END'
{TENSORS}END
case "$*" in *--dry-run*) exit 0;; esac
# arguments: ... SOURCE TARGET TYPE THREADS
while [ $# -gt 3 ]; do shift; done
echo half > "$1"
"""


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    folder = tmp_path / "gguf"
    folder.mkdir()
    write_gguf(folder / "model.gguf")
    write_manifest(folder, "gguf", "m-bf16", files=["model.gguf"])
    return folder


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeToolchain:
    made = FakeToolchain(tmp_path / "tools", llama_quantize=QUANTIZE)
    monkeypatch.setenv("SLIPWAY_TOOLCHAIN", str(made.folder))
    monkeypatch.setattr(
        "slipway.export.quantise.importance.uniform",
        lambda tools, source, folder: Matrix(folder / "i", "uniform", MatrixFacts("uniform")),
    )
    return made


def test_types_are_those_that_the_tool_lists() -> None:
    assert OFFERED == ["Q4_0", "MXFP4_MOE", "IQ2_XS", "Q4_K", "Q4_K_M", "Q8_0", "F16"]


def test_types_are_checked() -> None:
    assert check_types(["q4_k_m", " Q8_0 ", "Q8_0"], OFFERED) == ["Q4_K_M", "Q8_0"]
    with pytest.raises(UsageError) as caught:
        check_types(["Q4KM"], OFFERED)
    assert "`Q4_K_M`" in caught.value.hint_en
    with pytest.raises(UsageError, match="importance"):
        check_types(["IQ2_XS"], OFFERED)
    assert check_types(["IQ2_XS"], OFFERED, calibrated=True) == ["IQ2_XS"]
    with pytest.raises(UsageError):
        check_types([""], OFFERED)


def test_each_type_gets_a_folder_with_its_facts(
    gguf: Path, fake: FakeToolchain, home: Home, tmp_path: Path
) -> None:
    made = quantize(gguf, ["Q4_K_M", "Q8_0"], tmp_path / "out", home=home)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["Q4_K_M", "Q8_0"]
    manifest = made["Q4_K_M"]
    assert manifest.kind == "quant" and manifest.name == "m-Q4_K_M"
    assert manifest.metrics["size_bytes"] == 5
    assert manifest.notes["fallbacks"] == [
        {
            "tensor": "token_embd.weight",
            "wanted": "Q4_K",
            "got": "Q8_0",
            "why": "row of 64 is not a multiple of 256",
        }
    ]
    assert manifest.notes["tensor_types"] == {"q8_0": 1, "f32": 1}


@pytest.mark.parametrize(
    ("body", "error", "code"),
    [
        ("echo 'write: No space left on device'; exit 1", ResourceError, "disk.full"),
        ("echo 'tensor data is not within the file bounds'; exit 1", ToolError, "tool.failed"),
        ("kill -SEGV $$", ToolError, "tool.failed"),
    ],
)
def test_failure_leaves_nothing(
    gguf: Path,
    fake: FakeToolchain,
    home: Home,
    tmp_path: Path,
    body: str,
    error: type[Exception],
    code: str,
) -> None:
    fake.script("llama-quantize", QUANTIZE + body)
    with pytest.raises(error) as caught:
        quantize(gguf, ["Q8_0"], tmp_path / "out", home=home)
    assert caught.value.code == code  # type: ignore[attr-defined]
    assert list((tmp_path / "out").iterdir()) == []


def test_damaged_or_missing_input_is_named(
    gguf: Path, fake: FakeToolchain, home: Home, tmp_path: Path
) -> None:
    (gguf / "model.gguf").write_bytes(b"GGUF" + bytes(10))
    with pytest.raises(InputError, match="damaged"):
        quantize(gguf, ["Q8_0"], tmp_path / "out", home=home)
    (gguf / "model.gguf").unlink()
    with pytest.raises(NotFoundError, match=r"model\.gguf"):
        quantize(gguf, ["Q8_0"], tmp_path / "out", home=home)
    with pytest.raises(NotFoundError):
        quantize(tmp_path / "nothing", ["Q8_0"], tmp_path / "out", home=home)
