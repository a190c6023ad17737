"""`toolchain`, `convert`, `quantize` and `eval` as a user types them; the work is in test_*.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipway.cli.commands.evaluate import quant_folders
from slipway.cli.main import main
from slipway.core.errors import NotFoundError
from slipway.core.manifest import Setting, write_manifest
from slipway.testing.toolchain import FakeToolchain


@pytest.fixture(autouse=True)
def no_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLIPWAY_TOOLCHAIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_status_without_tools(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["toolchain", "status"]) == 6
    assert "slipway toolchain install" in capsys.readouterr().err


def test_status_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeToolchain(tmp_path / "mine")
    monkeypatch.setenv("SLIPWAY_TOOLCHAIN", str(fake.folder))
    assert main(["toolchain", "status", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["provider"] == "configured" and "llama-server" in facts["programs"]


def test_install_without_compiler_exits_6(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "slipway.export.toolchain.build_tools.sys.executable", str(tmp_path / "bin" / "python")
    )
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    assert main(["toolchain", "install", "--json"]) == 6
    error = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    assert error["code"] == "toolchain.no_compiler"


def test_convert_names_the_missing_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "no-such-model"]) == 5
    assert "no-such-model" in capsys.readouterr().err


def test_quantize_refuses_what_is_no_gguf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = "echo '   7  or  Q8_0    :  7.96G'; exit 1"
    fake = FakeToolchain(tmp_path / "mine", llama_quantize=listing)
    monkeypatch.setenv("SLIPWAY_TOOLCHAIN", str(fake.folder))
    assert main(["quantize", str(tmp_path), "-t", "Q8_0"]) == 5
    assert main(["quantize", str(tmp_path), "-t", "Q9_0"]) == 2
    assert "`Q8_0`" in capsys.readouterr().err


def test_eval_names_a_missing_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--base", "x"]) == 2
    assert "--tuned" in capsys.readouterr().err


def test_quants_are_found_one_by_one_or_by_their_folder(tmp_path: Path) -> None:
    for name in ("Q4_K_M", "Q8_0"):
        folder = tmp_path / "quants" / name.lower()
        folder.mkdir(parents=True)
        (folder / "model.gguf").write_bytes(b"GGUF")
        write_manifest(folder, "quant", name, config={"type": Setting(name, "flag")})
    both = quant_folders(tmp_path / "quants")
    assert [name for name, _ in both] == ["Q4_K_M", "Q8_0"]
    assert quant_folders(both[0][1]) == [both[0]]
    with pytest.raises(NotFoundError):
        quant_folders(tmp_path / "nothing")
