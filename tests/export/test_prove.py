from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from slipway.cli.main import main
from slipway.core.manifest import read_manifest
from slipway.core.paths import Home
from slipway.export import convert_to_gguf
from slipway.export.hard_chats import HARD_CHATS
from slipway.export.toolchain import Toolchain
from slipway.testing.tiny import tiny_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny")


def test_tools_thoughts_and_control_tokens_are_in_the_manifest(
    tools: Toolchain, model: Path, home: Home, tmp_path: Path
) -> None:
    convert_to_gguf(model, tmp_path / "gguf", outtype="f32", home=home)
    told = read_manifest(tmp_path / "gguf").notes["proof"]["hard_chats"]
    assert [chat["case"] for chat in told] == [chat.name for chat in HARD_CHATS]
    by_case = {chat["case"]: chat for chat in told}
    assert by_case["control tokens in a user's text"]["result"] == "equal"
    assert by_case["thoughts of an earlier answer"]["tokens"] > 0


def test_a_file_is_proved_against_its_folder_and_refused_against_another(
    tools: Toolchain, model: Path, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert_to_gguf(model, tmp_path / "gguf", outtype="f32", home=home)
    capsys.readouterr()
    assert main(["prove", str(tmp_path / "gguf"), "--against", str(model), "--json"]) == 0
    proof = json.loads(capsys.readouterr().out)
    assert proof["chats"] and len(proof["hard_chats"]) == len(HARD_CHATS)
    other = shutil.copytree(model, tmp_path / "other")
    for file in (other / "chat_template.jinja", other / "tokenizer_config.json"):
        if not file.is_file():
            continue
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("<|im_start|>", "<|im_end|>"), encoding="utf-8")
    assert main(["prove", str(tmp_path / "gguf"), "--against", str(other)]) != 0
    assert "differs" in capsys.readouterr().err


def test_a_template_that_speaks_of_other_tools_is_recorded_not_refused(
    tools: Toolchain, model: Path, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = model / "chat_template.jinja"
    if not file.is_file():
        pytest.fail("the tiny model keeps its template elsewhere")
    template = file.read_text(encoding="utf-8")
    refuse = "{% if tools %}{{ raise_exception('no tools here') }}{% endif %}"
    file.write_text(refuse + template, encoding="utf-8")
    assert main(["convert", str(model), "-o", str(tmp_path / "gguf"), "--outtype", "f32"]) == 0
    told = read_manifest(tmp_path / "gguf").notes["proof"]["hard_chats"]
    assert told[0]["result"] == "refused by the template"
    assert "no tools here" in told[0]["detail"]
    assert "tools offered: refused by the template" in capsys.readouterr().err
