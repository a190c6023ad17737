from __future__ import annotations

from pathlib import Path

import pytest

from slipway.core.errors import InputError
from slipway.store import parse_modelfile, read_modelfile


def test_every_directive_is_read_whatever_its_case() -> None:
    parsed = parse_modelfile(
        "# the shop\n"
        "from ./m.gguf\n"
        "PARAMETER temperature 0.3\n"
        'parameter stop "<|im_end|>"\n'
        "PARAMETER stop User:\n"
        "PARAMETER use_mmap false\n"
        'SYSTEM """You answer\nfor the "shop"."""\n'
        'TEMPLATE "{{ messages }}"\n'
        "MESSAGE user Hello there\n"
        'MESSAGE assistant "Hi!"\n'
        "LICENSE MIT\n"
    )
    assert (parsed.from_, parsed.from_line) == ("./m.gguf", 2)
    assert parsed.parameters == {
        "temperature": 0.3,
        "stop": ["<|im_end|>", "User:"],
        "use_mmap": False,
    }
    assert parsed.system == 'You answer\nfor the "shop".'
    assert parsed.template == "{{ messages }}"
    assert parsed.messages == (
        {"role": "user", "content": "Hello there"},
        {"role": "assistant", "content": "Hi!"},
    )
    assert parsed.licenses == ("MIT",)


@pytest.mark.parametrize(
    ("text", "line", "what", "hint"),
    [
        ("FROM x\nSYTEM hi", 2, "no directive", "`SYSTEM`"),
        ("FROM x\nPARAMETER temprature 1", 2, "unknown parameter `temprature`", "`temperature`"),
        ("FROM x\nPARAMETER top_k many", 2, "kind int, not `many`", ""),
        ("FROM x\nPARAMETER top_k", 2, "needs a name and a value", ""),
        ('FROM x\n\nSYSTEM """open', 3, "never closed", ""),
        ('FROM x\nSYSTEM """a""" b', 2, "text after the closing quotes", ""),
        ("FROM x\nMESSAGE robot hi", 2, "role must be one of", ""),
        ("FROM x\nDRAFT a", 2, "not supported yet", ""),
        ("FROM x\nADAPTER", 2, "ADAPTER has no value", ""),
        ("FROM x\nFROM y", 2, "only one FROM", ""),
        ("SYSTEM hi", 1, "no FROM", ""),
        ("FROM", 1, "no value", ""),
    ],
)
def test_a_bad_line_is_named_with_the_nearest_word(
    text: str, line: int, what: str, hint: str
) -> None:
    with pytest.raises(InputError) as caught:
        parse_modelfile(text, source="M")
    assert f"M:{line}: " in caught.value.message_en
    assert what in caught.value.message_en
    assert hint in caught.value.hint_en


def test_an_option_that_ollama_dropped_is_a_warning() -> None:
    parsed = parse_modelfile("FROM x\nPARAMETER low_vram true\n")
    assert parsed.parameters == {}
    assert "low_vram" in parsed.warnings[0].en


def test_utf16_with_a_mark_is_read_and_other_bytes_are_refused(tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    wide.write_bytes("FROM x\nSYSTEM 你好\n".encode("utf-16"))
    assert read_modelfile(wide).system == "你好"
    broken = tmp_path / "broken"
    broken.write_bytes(b"FROM x\nSYSTEM \xff\xfe\xfa\n")
    with pytest.raises(InputError, match="UTF-8"):
        read_modelfile(broken)
