from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from slipway.core.errors import (
    InputError,
    NotFoundError,
    ProofError,
    ResourceError,
    ToolError,
    UsageError,
)
from slipway.core.manifest import read_manifest
from slipway.core.paths import Home
from slipway.export import convert_to_gguf, prove_tokenizer
from slipway.export.convert import model as convert_module
from slipway.export.hf import require_whole
from slipway.export.toolchain import Toolchain
from slipway.testing.tiny import tiny_model
from slipway.testing.toolchain import FakeToolchain


def safetensors(path: Path, *, missing_bytes: int = 0) -> Path:
    header = json.dumps({"w": {"dtype": "BF16", "shape": [8], "data_offsets": [0, 16]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16 - missing_bytes))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (folder / "tokenizer.json").write_text("{}")
    safetensors(folder / "model.safetensors")
    return folder


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converter: str) -> FakeToolchain:
    made = FakeToolchain(tmp_path / "tools", converter=converter)
    monkeypatch.setenv("SLIPWAY_TOOLCHAIN", str(made.folder))
    return made


def leftovers(folder: Path) -> list[Path]:
    return [p for p in folder.parent.iterdir() if p.name.lstrip(".").startswith(folder.name)]


def test_whole_folder_passes(model: Path) -> None:
    require_whole(model)


def test_cut_weight_file_is_named(model: Path) -> None:
    safetensors(model / "model.safetensors", missing_bytes=3)
    with pytest.raises(InputError, match=r"model\.safetensors is cut short") as caught:
        require_whole(model)
    assert caught.value.code == "model.truncated"


def test_damaged_weight_file_is_named(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"not a model, only some words that look long")
    with pytest.raises(InputError, match=r"model\.safetensors"):
        require_whole(model)


def test_missing_shard_is_named(model: Path) -> None:
    index = {"weight_map": {"w": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(NotFoundError, match="model-00002-of-00002"):
        require_whole(model)


def test_folder_without_model(tmp_path: Path, model: Path) -> None:
    with pytest.raises(NotFoundError, match=r"config\.json"):
        require_whole(tmp_path / "nothing")
    (model / "model.safetensors").unlink()
    with pytest.raises(NotFoundError, match="no weights"):
        require_whole(model)


def test_without_toolchain_the_command_is_named(model: Path, home: Home, tmp_path: Path) -> None:
    with pytest.raises(ResourceError) as caught:
        convert_to_gguf(model, tmp_path / "out", home=home)
    assert "slipway toolchain install" in caught.value.hint_en
    assert not (tmp_path / "out").exists()


def test_unknown_number_format_offers_the_nearest(model: Path, home: Home, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        convert_to_gguf(model, tmp_path / "out", outtype="bf61", home=home)
    assert "bf16" in caught.value.hint_en


@pytest.mark.parametrize(
    ("converter", "error", "code"),
    [
        ("raise OSError(28, 'No space left on device')", ResourceError, "disk.full"),
        ("raise NotImplementedError('Model Foo is not supported')", ToolError, "convert."),
        ("raise SystemExit('BPE pre-tokenizer was not recognized')", ToolError, "convert."),
        ("raise ValueError('odd')", ToolError, "tool.failed"),
        ("pass", ToolError, "convert.failed"),
        (
            "vocab_size = 1\ntokenizer = type('T', (), {'vocab': {'a': 1}})\n"
            "assert max(tokenizer.vocab.values()) < vocab_size",
            InputError,
            "convert.vocabulary_too_large",
        ),
        ("raise ValueError(\"Can not map tensor 'x'\")", InputError, "convert.unknown_tensor"),
        (
            "raise NotImplementedError(\"Quant method is not yet supported: 'awq'\")",
            InputError,
            "convert.quantised",
        ),
    ],
)
def test_failed_conversion_leaves_nothing(
    model: Path,
    home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    converter: str,
    error: type[Exception],
    code: str,
) -> None:
    fake(tmp_path, monkeypatch, converter)
    with pytest.raises(error) as caught:
        convert_to_gguf(model, tmp_path / "out", home=home)
    assert caught.value.code.startswith(code)  # type: ignore[attr-defined]
    assert leftovers(tmp_path / "out") == []


def test_full_disk_is_seen_before_the_work(
    model: Path, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, monkeypatch, "raise SystemExit('must not run')")
    monkeypatch.setattr(convert_module, "gguf_size", lambda folder, outtype: 2**62)
    with pytest.raises(ResourceError) as caught:
        convert_to_gguf(model, tmp_path / "out", home=home)
    assert caught.value.code == "disk.full"


@pytest.mark.slow
def test_tiny_model_converts_with_proof(tools: Toolchain, home: Home, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "tiny")
    made = convert_to_gguf(folder, tmp_path / "gguf", outtype="f32", home=home)
    assert made.notes["proof"]["template"] and made.notes["proof"]["chats"] == 3
    assert read_manifest(tmp_path / "gguf", kind="gguf").digest == made.digest


@pytest.mark.slow
def test_other_tokenizer_or_template_is_refused(
    tools: Toolchain, home: Home, tmp_path: Path
) -> None:
    folder = tiny_model(tmp_path / "tiny")
    convert_to_gguf(folder, tmp_path / "gguf", outtype="f32", home=home)
    gguf = tmp_path / "gguf" / "model.gguf"

    template = folder / "chat_template.jinja"
    good = template.read_text()
    template.write_text(good.replace("assistant", "helper"))
    with pytest.raises(ProofError, match="helper") as caught:
        prove_tokenizer(gguf, folder, toolchain=tools)
    assert caught.value.code == "convert.template_differs"
    template.write_text(good)

    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["e"] = vocab["e"], vocab["a"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ProofError, match="at token") as caught:
        prove_tokenizer(gguf, folder, toolchain=tools)
    assert caught.value.code == "convert.tokens_differ"
