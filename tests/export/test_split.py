"""Splitting and joining by the real tool, checked tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from slipway.cli.main import main as run
from slipway.core.errors import ConflictError, InputError, NotFoundError, ProofError, UsageError
from slipway.core.paths import Home
from slipway.export.split import checksums, join_gguf, parts_of, split_gguf
from slipway.export.toolchain import Toolchain
from slipway.store import read_gguf
from slipway.testing.toolchain import FakeToolchain


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A GGUF of eight tensors with different bytes, 4 MB in all."""
    import gguf

    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    random = np.random.default_rng(1)
    for number in range(8):
        writer.add_tensor(f"t{number}", random.random((256, 512), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_parts_hold_what_the_whole_held_and_become_it_again(
    tools: Toolchain, home: Home, model: Path, tmp_path: Path
) -> None:
    parts = split_gguf(model, tmp_path / "p", home=home, max_tensors=3)
    assert [part.name for part in parts] == [f"p-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert checksums(parts) == checksums([model])
    whole = join_gguf(parts[1], tmp_path / "again.gguf", home=home)
    assert checksums([whole]) == checksums([model])
    assert (
        "split.count" not in read_gguf(whole).values or not read_gguf(whole).values["split.count"]
    )


def test_a_size_limit_is_kept(tools: Toolchain, home: Home, model: Path, tmp_path: Path) -> None:
    parts = split_gguf(model, tmp_path / "p", home=home, max_size=2_000_000)
    assert len(parts) > 1
    assert all(sum(t.nbytes for t in read_gguf(part).tensors) <= 2_000_000 for part in parts)


def test_wrong_use_is_told_and_leaves_nothing(
    tools: Toolchain, home: Home, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="one limit"):
        split_gguf(model, tmp_path / "p", home=home)
    with pytest.raises(UsageError, match="at least 1M"):
        split_gguf(model, tmp_path / "p", home=home, max_size=10)
    with pytest.raises(UsageError, match="not named like a part"):
        join_gguf(model, tmp_path / "w.gguf", home=home)
    parts = split_gguf(model, tmp_path / "p", home=home, max_tensors=3)
    with pytest.raises(ConflictError, match="exists already"):
        split_gguf(model, tmp_path / "p", home=home, max_tensors=3)
    with pytest.raises(ConflictError, match="a part of a split model"):
        split_gguf(parts[0], tmp_path / "q", home=home, max_tensors=1)
    with pytest.raises(ConflictError, match="exists already"):
        join_gguf(parts[0], model, home=home)
    parts[1].unlink()
    with pytest.raises(NotFoundError, match="p-00002-of-00003"):
        parts_of(parts[0])
    assert sorted(path.name for path in tmp_path.glob("*q*")) == []


def test_a_part_of_another_set_is_refused(
    tools: Toolchain, home: Home, model: Path, tmp_path: Path
) -> None:
    parts = split_gguf(model, tmp_path / "p", home=home, max_tensors=3)
    parts[1].write_bytes(parts[0].read_bytes())
    with pytest.raises(InputError, match="stands in two parts"):
        join_gguf(parts[0], tmp_path / "w.gguf", home=home)
    assert not (tmp_path / "w.gguf").exists()


def test_a_tool_that_loses_tensors_is_not_believed(
    home: Home, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = 'for last; do :; done; cp "$(eval echo \\$$(($# - 1)))" "$last-00001-of-00001.gguf"\n'
    body += 'printf "\\001" | dd of="$last-00001-of-00001.gguf" bs=1 seek=3000000 conv=notrunc'
    fake = FakeToolchain(tmp_path / "fake", llama_gguf_split=body)
    monkeypatch.setattr("slipway.export.split.require_toolchain", lambda home: _Programs(fake.bin))
    with pytest.raises(ProofError, match="1 tensors differ"):
        split_gguf(model, tmp_path / "p", home=home, max_tensors=3)
    assert list(tmp_path.glob("p-*")) == []
    assert list(tmp_path.glob(".p.*")) == []


def test_a_tool_that_changes_metadata_is_not_believed(
    home: Home, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = 'for last; do :; done; from="$(eval echo \\$$(($# - 1)))"\n'
    body += 'LC_ALL=C sed "0,/llama/s//lXama/" "$from" > "$last-00001-of-00001.gguf"\n'
    fake = FakeToolchain(tmp_path / "fake", llama_gguf_split=body)
    monkeypatch.setattr("slipway.export.split.require_toolchain", lambda home: _Programs(fake.bin))
    with pytest.raises(ProofError, match=r"1 metadata keys differ.*general.architecture"):
        split_gguf(model, tmp_path / "p", home=home, max_tensors=3)
    assert list(tmp_path.glob("p-*")) == []


class _Programs:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def program(self, name: str) -> Path:
        return self.folder / name


def test_the_commands_split_and_join(
    tools: Toolchain, home: Home, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["gguf", "split", str(model), "--max-tensors", "5", "--json"]) == 0
    files = [entry["file"] for entry in json.loads(capsys.readouterr().out)["files"]]
    assert [Path(file).name for file in files] == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    assert run(["gguf", "join", files[0], str(tmp_path / "w.gguf")]) == 0
    assert "w.gguf" in capsys.readouterr().out
    assert run(["gguf", "split", str(model), "--max-size", "much"]) == 2
