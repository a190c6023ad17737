"""What is told of a GGUF that somebody else made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slipway.cli.main import main as run
from slipway.core.paths import Home
from slipway.store import create_model, read_gguf, resolve_model
from slipway.store.import_check import check_import, from_json
from slipway.testing.gguf import CHATML, write_gguf


def codes(path: Path, template: str | None = None, **extra: Any) -> list[str]:
    header = read_gguf(write_gguf(path / "m.gguf", extra=extra))
    return [finding.code for finding in check_import(header, template)]


def test_a_sound_file_gives_no_word(tmp_path: Path) -> None:
    assert codes(tmp_path) == []
    bert = write_gguf(
        tmp_path / "b.gguf",
        architecture="bert",
        extra={"bert.pooling_type": 1, "tokenizer.chat_template": None},
    )
    assert check_import(read_gguf(bert)) == []


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("tokenizer.chat_template", None, "no_template"),
        ("tokenizer.chat_template", "{% for %}", "template_syntax"),
        ("tokenizer.chat_template", "{{ messages[3].content }}", "template_fails"),
        ("tokenizer.chat_template", "{{ raise_exception('no') }}", "template_fails"),
        ("tokenizer.chat_template", "<|user|>", "template_drops_user"),
        ("tokenizer.ggml.eos_token_id", None, "no_end_token"),
        ("tokenizer.ggml.eos_token_id", 99_999, "fault"),
        ("llama.context_length", None, "no_context_length"),
    ],
)
def test_what_looks_wrong_is_found(key: str, value: Any, expected: str, tmp_path: Path) -> None:
    assert codes(tmp_path, **{key: value}) == [expected]


def test_a_template_cannot_reach_the_system(tmp_path: Path) -> None:
    hostile = "{{ ''.__class__.__mro__[1].__subclasses__() }}" + CHATML
    assert codes(tmp_path, **{"tokenizer.chat_template": hostile}) == ["template_fails"]


def test_the_modelfiles_template_is_looked_at_instead(tmp_path: Path) -> None:
    assert codes(tmp_path, template=CHATML, **{"tokenizer.chat_template": None}) == []
    assert codes(tmp_path, template="hello") == ["template_drops_user"]


def test_findings_are_told_at_create_and_kept_with_the_model(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gguf = write_gguf(tmp_path / "m.gguf", extra={"tokenizer.chat_template": None})
    (tmp_path / "Modelfile").write_text(f"FROM {gguf}")
    assert run(["create", "shop:q4", "-f", str(tmp_path / "Modelfile")]) == 0
    assert "no chat template" in capsys.readouterr().err
    (kept,) = resolve_model("shop:q4", home=home).lineage["import"]["findings"]
    assert "没有对话模板" in from_json(kept).text.in_language("zh")
    create_model("clean", f"FROM {write_gguf(tmp_path / 'c.gguf')}", home=home)
    assert resolve_model("clean", home=home).lineage == {}
