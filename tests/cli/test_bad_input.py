"""Wrong use of every command: one clear error, a hint, the documented exit code, nothing made."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from slipway.cli.main import main
from slipway.core.paths import Home

GOOD_ROW = {
    "id": "a",
    "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def fails(capsys: pytest.CaptureFixture[str], *command: str) -> tuple[int, str]:
    """Exit code and what was said on stderr; a failure prints no result."""
    code = main(list(command))
    captured = capsys.readouterr()
    assert code != 0 and captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    return code, captured.err


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (["data", "check", "none"], 5, "none"),
        (["train", "none.yaml"], 5, "examples/recipes"),
        (["merge", "none"], 5, "slipway train"),
        (["convert", "none", "-o", "x"], 5, "none"),
        (["quantize", "none", "-t", "Q4_K_M", "-o", "x"], 5, "none"),
        (["create", "m", "-f", "none"], 5, "FROM ./model.gguf"),
        (["show", "none"], 5, "slipway list"),
        (["rm", "none"], 5, "slipway list"),
        (["pull", "startr"], 2, "starter"),
        (["chat", "hello"], 4, "SLIPWAY_API_KEY"),
        (["gateway", "token", "add", "x", "--user", "nobody"], 5, "gateway user add nobody"),
        (["gateway", "channel", "add", "x", "--kind", "slipway", "--url", "ftp://a"], 2, "http"),
        (["demo", "--data", "none", "--base", "starter"], 5, "none"),
    ],
)
def test_missing_things_are_named_with_a_way_on(
    capsys: pytest.CaptureFixture[str], folder: Path, command: list[str], code: int, says: str
) -> None:
    found, error = fails(capsys, *command)
    assert (found, says in error) == (code, True), error
    assert list(folder.iterdir()) == []


def test_wrong_recipe_key_offers_the_nearest(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    (folder / "r.yaml").write_text("model: starter\ndata: d\nlearnin_rate: 1e-3\n")
    code, error = fails(capsys, "train", "r.yaml")
    assert code == 2 and "r.yaml" in error and "`learning_rate`" in error


def test_broken_yaml_names_file_and_line(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "r.yaml").write_text("model: starter\ndata: [\n")
    code, error = fails(capsys, "train", "r.yaml")
    assert code == 1 and "r.yaml:3:1: " in error and "<unicode string>" not in error


def test_broken_row_is_named_by_line_and_the_others_are_counted(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    rows = [json.dumps({**GOOD_ROW, "id": str(i)}) for i in range(3)]
    rows[1] = rows[1][:-9]
    (folder / "train.jsonl").write_text("\n".join(rows) + "\n")
    assert main(["data", "check", "."]) == 1
    captured = capsys.readouterr()
    assert "train.jsonl:2" in captured.out + captured.err


def test_quantise_without_tools_says_how_to_get_them(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(folder))
    (folder / "g").mkdir()
    code, error = fails(capsys, "quantize", "g", "-t", "Q4_K_M", "-o", "x")
    assert code == 6 and "slipway toolchain install" in error
    assert [p.name for p in folder.iterdir()] == ["g"]


def test_modelfile_errors_name_file_and_line(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    (folder / "Modelfile").write_text("# a comment\nFORM x\n")
    _, error = fails(capsys, "create", "m", "-f", "Modelfile")
    assert "Modelfile:2" in error and "`FROM`" in error


def test_unreachable_gateway_exits_3(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, error = fails(capsys, "chat", "--url", "http://127.0.0.1:1", "--key", "sk-x", "hello")
    assert code == 3 and "slipway gateway serve" in error


@pytest.mark.parametrize("command", [["serve"], ["gateway", "serve"]])
def test_port_in_use_is_told_before_anything_starts(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, error = fails(capsys, *command, "--port", str(port))
    assert code == 1 and str(port) in error and f"--port {port + 1}" in error


def test_no_compiler_and_no_build_tool_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, error = fails(capsys, "toolchain", "install")
    assert code == 6 and "apt-get install" in error


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system needs root to mount")
def test_full_disk_is_told_and_nothing_is_half_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this sandbox allows no mount")
    try:
        monkeypatch.setenv("SLIPWAY_HOME", str(small))
        model = tmp_path / "model.gguf"
        _write_gguf(model, 1 << 20)
        (tmp_path / "Modelfile").write_text(f"FROM {model}\n")
        code, error = fails(capsys, "create", "m", "-f", str(tmp_path / "Modelfile"))
        assert code == 6 and "SLIPWAY_HOME" in error
        blobs = Home(small).models / "blobs"
        assert not [p for p in blobs.rglob("*") if p.is_file() and p.stat().st_size > 4096]
        assert main(["list", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def _write_gguf(path: Path, size: int) -> None:
    """A GGUF with one F32 tensor of about `size` bytes."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("output.weight", np.zeros(size // 4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
