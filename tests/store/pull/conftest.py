from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.testing.fake_hub import FakeHub, serving
from slipway.testing.tiny import tiny_tokenizer

WEIGHTS = bytes(range(256)) * 4096


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with one small model; every way to the network leads to it."""
    folder = tiny_tokenizer(tmp_path / "served")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    files["config.json"] = b'{"model_type": "llama"}'
    files["model.safetensors"] = WEIGHTS
    files["onnx/model.onnx"] = b"onnx"
    files["pytorch_model.bin"] = b"pickle"
    files["README.md"] = b"words"
    with serving(FakeHub(model=files)) as served:
        for name in list(os.environ):
            if name.lower().endswith("_proxy") or name.startswith(("HF_", "PIP_INDEX")):
                monkeypatch.delenv(name)
        for name in ("SLIPWAY_HF_ENDPOINT", "SLIPWAY_MS_ENDPOINT"):
            monkeypatch.setenv(name, served.url)
        monkeypatch.setenv("SLIPWAY_PYPI_INDEX", f"{served.url}/simple/")
        yield served
