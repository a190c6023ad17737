"""Number formats, sets of files, sizes, and weights that do not survive a conversion."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from slipway.cli.main import main
from slipway.core.errors import InputError, ProofError, ResourceError, SlipwayError, UsageError
from slipway.core.paths import Home
from slipway.core.process import is_alive
from slipway.export import convert_to_gguf, quantize
from slipway.export.convert import Split, gguf_files, native_outtype
from slipway.export.convert.formats import gguf_size
from slipway.export.convert.scan import scan_weights
from slipway.export.toolchain import Toolchain
from slipway.store import create_model
from slipway.testing.tiny import tiny_model
from slipway.testing.toolchain import FakeToolchain

WEIGHTS = "model.safetensors"
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny")


def rewrite(model: Path, dtype: torch.dtype | None = None, **values: float) -> Path:
    """Another number format for all tensors, or one number of the embedding."""
    tensors = load_file(model / WEIGHTS)
    for value in values.values():
        tensors[EMBEDDING][3, 5] = value
    if dtype is not None:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    save_file(tensors, model / WEIGHTS, metadata={"format": "pt"})
    return model


def test_the_weights_own_number_format_is_found(model: Path) -> None:
    assert native_outtype(model) == "f32"
    assert native_outtype(rewrite(model, torch.float16)) == "f16"
    assert native_outtype(rewrite(model, torch.bfloat16)) == "bf16"


def test_bf16_that_was_saved_as_fp32_is_bf16(model: Path) -> None:
    rewrite(model, torch.bfloat16)
    assert native_outtype(rewrite(model, torch.float32)) == "bf16"
    assert native_outtype(rewrite(model, value=1 + 2**-12)) == "f32"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_largest_number_is_found_in_every_format(model: Path, dtype: torch.dtype) -> None:
    found = scan_weights(rewrite(model, dtype, value=-48.5))
    assert found.largest_name == EMBEDDING
    assert found.largest == pytest.approx(48.5, rel=2**-8)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_no_numbers_are_refused(
    model: Path,
    home: Home,
    tmp_path: Path,
    tools_must_not_run: None,
    dtype: torch.dtype,
    value: float,
) -> None:
    rewrite(model, dtype, value=value)
    with pytest.raises(ProofError, match="embed_tokens") as caught:
        convert_to_gguf(model, tmp_path / "out", home=home)
    assert caught.value.code == "convert.not_finite" and not (tmp_path / "out").exists()


@pytest.fixture
def tools_must_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = FakeToolchain(tmp_path / "tools", converter="raise SystemExit('must not run')")
    monkeypatch.setenv("SLIPWAY_TOOLCHAIN", str(made.folder))


def test_a_weight_beyond_fp16_is_refused_there_alone(
    model: Path, home: Home, tmp_path: Path, tools_must_not_run: None
) -> None:
    rewrite(model, torch.bfloat16, value=70_000.0)
    with pytest.raises(ProofError, match="embed_tokens") as caught:
        convert_to_gguf(model, tmp_path / "out", outtype="f16", home=home)
    assert caught.value.code == "convert.f16_overflow" and "bf16" in caught.value.hint_en
    with pytest.raises(Exception, match="must not run"):
        convert_to_gguf(model, tmp_path / "out", outtype="bf16", home=home)


@pytest.mark.parametrize(
    "split",
    [Split("2X"), Split("0"), Split("-1M"), Split("1.5G"), Split(None, 0), Split("1M", 3)],
)
def test_a_split_that_the_converter_would_not_take(
    model: Path, home: Home, tmp_path: Path, split: Split
) -> None:
    with pytest.raises(UsageError, match="split"):
        convert_to_gguf(model, tmp_path / "out", split=split, home=home)


def direct(tools: Toolchain, model: Path, out: Path, *options: str) -> None:
    command = [sys.executable, str(tools.converter), str(model), "--outfile", str(out), *options]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("outtype", ["f32", "f16", "bf16", "q8_0"])
def test_the_gguf_is_byte_for_byte_the_converters_and_of_the_size_foretold(
    model: Path, home: Home, tmp_path: Path, tools: Toolchain, outtype: str
) -> None:
    made = convert_to_gguf(model, tmp_path / "out", outtype=outtype, home=home)
    direct(tools, model, tmp_path / "direct.gguf", "--outtype", outtype)
    whole = (tmp_path / "direct.gguf").read_bytes()
    assert (tmp_path / "out" / "model.gguf").read_bytes() == whole
    assert made.metrics["files"] == 1
    assert len(whole) < gguf_size(model, outtype) < len(whole) + 1_100_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "options", "count"),
    [
        (Split(max_size="200K"), ["--split-max-size", "200K"], 3),
        (Split(max_tensors=8), ["--split-max-tensors", "8"], 3),
    ],
    ids=["size", "tensors"],
)
def test_a_set_of_files_is_the_converters_and_quantises_to_what_one_file_does(
    model: Path,
    home: Home,
    tmp_path: Path,
    tools: Toolchain,
    split: Split,
    options: list[str],
    count: int,
) -> None:
    made = convert_to_gguf(model, tmp_path / "set", outtype="f32", split=split, home=home)
    files = gguf_files(tmp_path / "set")
    assert len(files) == made.metrics["files"] >= count
    assert made.metrics["size_bytes"] == sum(path.stat().st_size for path in files)
    assert made.config[options[0].removeprefix("--")].value == options[1]
    (tmp_path / "direct").mkdir()
    direct(tools, model, tmp_path / "direct" / "model.gguf", "--outtype", "f32", *options)
    for path in files:
        assert path.read_bytes() == (tmp_path / "direct" / path.name).read_bytes()

    convert_to_gguf(model, tmp_path / "one", outtype="f32", home=home)
    for name in ("set", "one"):
        quantize(tmp_path / name, ["Q8_0"], tmp_path / f"{name}-q", home=home)
    whole, joined = (tmp_path / f"{name}-q" / "Q8_0" / "model.gguf" for name in ("one", "set"))
    assert tensors_of(joined) == tensors_of(whole)
    for first in (f"FROM {tmp_path / 'set'}", f"FROM {files[1]}"):
        with pytest.raises(InputError, match="one of") as caught:
            create_model("x", first, home=home)
        assert caught.value.code == "modelfile.from_split"


def tensors_of(gguf: Path) -> dict[str, bytes]:
    from gguf import GGUFReader

    return {one.name: one.data.tobytes() for one in GGUFReader(gguf).tensors}


@pytest.mark.slow
def test_the_command_keeps_the_number_format_and_says_so(
    model: Path,
    home: Home,
    tools: Toolchain,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rewrite(model, torch.float16)
    assert main(["convert", str(model)]) == 0
    printed = capsys.readouterr()
    assert str(home.artefacts / "tiny-f16") in printed.out
    assert "number format f16" in printed.err


HALF_AND_WAIT = """
import os, sys, time
out = sys.argv[sys.argv.index("--outfile") + 1]
open(out, "wb").write(b"GGUF" * 1000)
open(__file__ + ".pid", "w").write(str(os.getpid()))
time.sleep(60)
"""


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_conversion_leaves_nothing_and_no_converter(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: signal.Signals
) -> None:
    made = FakeToolchain(tmp_path / "tools", converter=HALF_AND_WAIT)
    monkeypatch.setenv("SLIPWAY_TOOLCHAIN", str(made.folder))
    out, mark = tmp_path / "out", made.source / "convert_hf_to_gguf.py.pid"
    command = [sys.executable, "-m", "slipway", "convert", str(model), "-o", str(out)]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    assert until(lambda: mark.is_file() and mark.read_text().isdigit())
    child.send_signal(kind)
    assert child.wait(20) != 0
    converter = int(mark.read_text())
    assert until(lambda: not is_alive(converter))
    assert not out.exists()
    if kind == signal.SIGINT:  # the other two leave it to the next conversion
        assert not list(tmp_path.glob(".out.*"))
    mark.unlink()
    (made.source / "convert_hf_to_gguf.py").write_text("raise SystemExit('no')")
    assert main(["convert", str(model), "-o", str(out)]) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny", "tools"]


def until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_a_disk_that_is_too_small_is_told_before_anything_is_read(
    model: Path,
    home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tools_must_not_run: None,
) -> None:
    needed = gguf_size(model, "f32")
    for free, code in ((needed - 1, "disk.full"), (needed, "tool.failed")):
        usage = shutil._ntuple_diskusage(10**12, 0, free)
        monkeypatch.setattr("slipway.export.convert.space.shutil.disk_usage", lambda _, u=usage: u)
        with pytest.raises(SlipwayError) as caught:
            convert_to_gguf(model, tmp_path / "out", outtype="f32", home=home)
        assert caught.value.code == code
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out.*"))


@pytest.mark.slow
def test_a_disk_that_fills_up_is_told_as_such(
    model: Path, home: Home, tmp_path: Path, tools: Toolchain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real converter writes to the device that is always full."""
    real = tools.converter.read_text()
    folder = FakeToolchain(tmp_path / "tools").folder
    for name in ("gguf-py", "conversion"):
        (folder / "source" / name).rmdir()
        (folder / "source" / name).symlink_to(tools.source / name)
    full = "import sys\nsys.argv[sys.argv.index('--outfile') + 1] = '/dev/full'\n"
    future = "from __future__ import annotations\n"
    assert future in real
    script = folder / "source" / "convert_hf_to_gguf.py"
    script.write_text(real.replace(future, future + full, 1))
    monkeypatch.setenv("SLIPWAY_TOOLCHAIN", str(folder))
    with pytest.raises(ResourceError) as caught:
        convert_to_gguf(model, tmp_path / "out", outtype="f32", home=home)
    assert caught.value.code == "disk.full"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny", "tools"]
