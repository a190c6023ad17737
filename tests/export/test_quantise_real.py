"""The real quantiser: the same bytes as when it is called directly, and exact sizes beforehand."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slipway.core.errors import ResourceError
from slipway.core.files import sha256_file
from slipway.core.manifest import read_manifest, write_manifest
from slipway.core.paths import Home
from slipway.export import convert_to_gguf, quantize
from slipway.export.quantise import Options, parse_options, plan_quantize
from slipway.export.quantise.importance import measured, uniform
from slipway.export.toolchain import Toolchain
from slipway.testing.tiny import tiny_model

pytestmark = pytest.mark.slow
WORDS = "Where is my parcel? It was due a week ago. "

VARIANTS = {
    "plain": (["Q4_K_M", "Q8_0", "Q2_K", "IQ4_XS", "F16"], Options(without_imatrix=True)),
    "uniform": (["Q5_K_M", "Q4_0", "IQ3_XXS"], Options()),
    "pure": (["Q4_K_M"], parse_options(pure=True, output_type="Q8_0")),
    "mix": (
        ["Q4_K_M"],
        parse_options(
            tensor_types=[r"blk\.0\.attn_v=q8_0", "ffn_down=q6_k"], embedding_type="q5_0"
        ),
    ),
}


@pytest.fixture
def floats(tools: Toolchain, home: Home, tmp_path: Path) -> Path:
    convert_to_gguf(tiny_model(tmp_path / "tiny"), tmp_path / "gguf", outtype="f32", home=home)
    return tmp_path / "gguf"


def direct(tools: Toolchain, source: Path, out: Path, name: str, options: Options) -> str:
    """The digest of what `llama-quantize` makes in a folder that holds `imatrix.gguf`."""
    matrix = [] if options.without_imatrix else ["--imatrix", "imatrix.gguf"]
    program = str(tools.program("llama-quantize"))
    command = [program, *options.arguments(), *matrix, str(source), "direct.gguf", name]
    subprocess.run(command, check=True, capture_output=True, cwd=out)
    return sha256_file(out / "direct.gguf")


@pytest.mark.parametrize("variant", VARIANTS)
def test_bytes_are_those_of_the_tool_and_sizes_are_known_before(
    variant: str, tools: Toolchain, floats: Path, home: Home, tmp_path: Path
) -> None:
    types, options = VARIANTS[variant]
    plans = plan_quantize(floats, types, home=home, options=options)
    made = quantize(floats, types, tmp_path / "q", home=home, options=options)
    if not options.without_imatrix:
        uniform(tools, [floats / "model.gguf"], tmp_path)
    for label, plan in plans.items():
        file = tmp_path / "q" / label / "model.gguf"
        expected = direct(tools, floats / "model.gguf", tmp_path, plan.type, options)
        assert sha256_file(file) == expected, label
        assert file.stat().st_size == plan.size_bytes == made[label].metrics["size_bytes"], label


def test_a_measured_matrix_is_written_without_a_path_and_gives_the_tools_bytes(
    tools: Toolchain, floats: Path, home: Home, tmp_path: Path
) -> None:
    text = tmp_path / "customers-of-acme.txt"
    text.write_text(WORDS * 100)
    options = Options()
    made = quantize(floats, ["Q4_K_M"], tmp_path / "q", home=home, calibration=text)
    assert made["Q4_K_M"].config["importance"].value == "measured on customers-of-acme.txt"
    data = (tmp_path / "q" / "Q4_K_M" / "model.gguf").read_bytes()
    assert b"customers-of-acme" not in data and str(tmp_path).encode() not in data
    assert len(data) == made["Q4_K_M"].metrics["planned_bytes"]

    measured(tools, floats / "model.gguf", tmp_path, text)
    expected = direct(tools, floats / "model.gguf", tmp_path, "Q4_K_M", options)
    assert sha256_file(tmp_path / "q" / "Q4_K_M" / "model.gguf") == expected
    again = quantize(
        floats, ["Q4_K_M"], tmp_path / "f", home=home, imatrix=tmp_path / "imatrix.gguf"
    )
    assert again["Q4_K_M"].digest == made["Q4_K_M"].digest


def test_a_split_source_is_kept_split(
    tools: Toolchain, floats: Path, home: Home, tmp_path: Path
) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    program = str(tools.program("llama-gguf-split"))
    split = ["--split", "--split-max-tensors", "8", str(floats / "model.gguf"), "model"]
    subprocess.run([program, *split], check=True, capture_output=True, cwd=parts)
    write_manifest(parts, "gguf", "tiny-f32")
    options = Options(keep_split=True)
    made = quantize(parts, ["Q8_0"], tmp_path / "q", home=home, options=options)
    sizes = {f.path: f.size for f in made["Q8_0"].files}
    assert len(sizes) == len(list(parts.glob("*.gguf"))) > 1
    assert sum(sizes.values()) == made["Q8_0"].metrics["planned_bytes"]
    whole = quantize(parts, ["Q8_0"], tmp_path / "w", home=home)
    assert whole["Q8_0"].metrics["size_bytes"] == whole["Q8_0"].metrics["planned_bytes"]


def test_a_full_disk_is_told_and_leaves_nothing(
    floats: Path, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(small)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(mount).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        monkeypatch.setattr("slipway.export.quantise.run.require_space", lambda *given: None)
        with pytest.raises(ResourceError) as caught:
            quantize(floats, ["Q8_0"], small, home=home)
        assert caught.value.code == "disk.full"
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_killed_run_leaves_nothing_and_the_next_one_works(
    floats: Path, home: Home, tmp_path: Path
) -> None:
    out = tmp_path / "q"
    code = (
        "import sys; from pathlib import Path; from slipway.core.paths import Home;"
        "from slipway.export import quantize;"
        "quantize(Path(sys.argv[1]), ['Q4_K_M'], Path(sys.argv[2]), home=Home.current())"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(floats), str(out)])
    deadline = time.monotonic() + 60
    while not out.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    finished = (out / "Q4_K_M" / "manifest.json").is_file()
    assert finished or not (out / "Q4_K_M").exists()
    quantize(floats, ["Q4_K_M"], out, home=home)
    assert [path.name for path in out.iterdir()] == ["Q4_K_M"]
    assert read_manifest(out / "Q4_K_M", kind="quant")
