from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipway.core.errors import InputError, NotFoundError
from slipway.core.gguf import LongArray
from slipway.store import read_gguf
from slipway.testing.gguf import write_gguf


def test_a_header_is_read(tmp_path: Path) -> None:
    header = read_gguf(write_gguf(tmp_path / "m.gguf"))
    assert header.architecture == "llama"
    assert header.context_length == 2048
    assert header.file_type == "Q4_K_M"
    assert header.parameters == 64 * 32
    tokens = header.values["tokenizer.ggml.tokens"]
    assert isinstance(tokens, LongArray) and tokens.length == 1500
    assert "im_start" in header.chat_template
    assert not header.is_embedding


def test_an_embedding_model_is_known_by_its_pooling(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "b.gguf", architecture="bert", extra={"bert.pooling_type": 1})
    assert read_gguf(path).is_embedding


def test_a_file_that_is_cut_short_is_refused_with_the_missing_bytes(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(InputError, match="cut short"):
        read_gguf(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGUF",
        b"PK\x03\x04 a zip",
        b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 62),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 77),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 8, 1 << 23),
    ],
)
def test_a_hostile_file_is_refused_quickly(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_gguf(path)
    assert caught.value.code == "gguf.bad_file"


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(4, 400), value=st.binary(min_size=1, max_size=9))
def test_any_damage_to_the_header_is_an_error_or_a_header(
    tmp_path: Path, at: int, value: bytes
) -> None:
    path = write_gguf(tmp_path / "m.gguf", extra={"tokenizer.ggml.tokens": None})
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)
    try:
        assert read_gguf(path).parameters >= 0
    except InputError as error:
        assert error.code == "gguf.bad_file"


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_gguf(tmp_path / "none.gguf")


def test_a_file_type_of_another_kind_is_unknown(tmp_path: Path) -> None:
    header = read_gguf(write_gguf(tmp_path / "m.gguf", extra={"general.file_type": ["a", "b"]}))
    assert header.file_type == "unknown"
