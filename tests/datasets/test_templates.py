from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.datasets.chat_templates import FAMILIES, family
from tests.datasets.rows_for_tests import sample

from slipway.core.errors import InputError, UsageError
from slipway.datasets import EncodeRule, encode_documents, load_tokenizer
from slipway.datasets.templates import check_template, find_template, save_template
from slipway.testing.tiny import tiny_tokenizer

RIGHT = {
    "chatml": ["chatml", "qwen", "qwen3_nothink"],
    "qwen": ["qwen", "chatml", "qwen2_vl"],
    "qwen3": ["qwen3", "qwen3_nothink"],
    "qwen3_thinking": ["qwen3"],
    "deepseek": ["deepseek"],
    "deepseek3": ["deepseek3", "deepseekr1"],
    "deepseekr1": ["deepseekr1"],
    "deepseekr1_first": ["deepseekr1"],
    "llama3": ["llama3"],
}


@pytest.mark.parametrize("model", FAMILIES)
def test_a_name_fits_its_own_family_and_no_other(model: str, tmp_path: Path) -> None:
    tokenizer = family(model, tmp_path / "t")
    for name in RIGHT[model]:
        assert check_template(tokenizer, name).family is not None
    for name in ("vicuna", "default", "empty", "gemma", "llama2", "deepseekcoder"):
        with pytest.raises(InputError) as caught:
            check_template(tokenizer, name)
        assert caught.value.code == "template.mismatch"
        assert RIGHT[model][0].removesuffix("_thinking") in caught.value.message_en or (
            find_template(tokenizer).name in caught.value.message_en
        )


def test_what_is_found_is_told(tmp_path: Path) -> None:
    found = find_template(family("qwen", tmp_path / "q"))
    assert (found.name, found.thinks) == ("chatml", False)
    assert found.default_system == "You are a helpful assistant."
    assert find_template(family("chatml", tmp_path / "c")).default_system == ""
    assert find_template(family("deepseekr1", tmp_path / "r")).thinks


def test_a_name_that_thinks_otherwise_is_a_note(tmp_path: Path) -> None:
    plain, thinks = family("chatml", tmp_path / "c"), family("qwen3", tmp_path / "q")
    assert "models that think" in check_template(plain, "qwen3").notes[0].en
    assert "see `thinking`" in check_template(thinks, "qwen3_nothink").notes[0].en
    assert check_template(thinks, "qwen3").notes == ()
    assert check_template(plain, None).notes == ()


def test_a_misspelt_name_gets_the_nearest(tiny: Any) -> None:
    with pytest.raises(UsageError, match="qwen33") as caught:
        check_template(tiny, "qwen33")
    assert "qwen3" in caught.value.hint_en and "leave `template` out" in caught.value.hint_en


@pytest.mark.parametrize(
    ("template", "code"),
    [
        (
            "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n'"
            " }}{% endfor %}",
            "data.no_generation_prompt",
        ),
        ("{% for m in messages %}{{ '<|im_start|>' }}{% endfor %}", "template.unusable"),
        ("{{ raise_exception('no') }}", "template.unusable"),
    ],
)
def test_broken_templates_are_found_out(tmp_path: Path, template: str, code: str) -> None:
    tokenizer = family("chatml", tmp_path / "t")
    tokenizer.chat_template = template
    with pytest.raises(InputError) as caught:
        find_template(tokenizer)
    assert caught.value.code == code


def test_a_template_of_its_own_kind_is_found_and_shown(tmp_path: Path) -> None:
    tokenizer = family("chatml", tmp_path / "t")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '[' + m.role + ']' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
    )
    found = find_template(tokenizer)
    assert found.family is None and "[assistant]" in found.name
    with pytest.raises(InputError, match="assistant"):
        check_template(tokenizer, "chatml")


def base_model(folder: Path) -> Path:
    tiny_tokenizer(folder)
    (folder / "chat_template.jinja").unlink()
    return folder


@pytest.mark.parametrize("name", ["chatml", "default"])
def test_a_base_model_gets_our_template_only_when_asked_by_name(tmp_path: Path, name: str) -> None:
    folder = base_model(tmp_path / "base")
    with pytest.raises(InputError, match="no chat template") as caught:
        load_tokenizer(folder)
    assert "template: chatml" in caught.value.hint_en
    assert not load_tokenizer(folder, chat=False).chat_template
    tokenizer = load_tokenizer(folder, name)
    assert check_template(tokenizer, name).family is not None
    (row,) = encode_documents(sample("q", "a", "r", "b"), tokenizer, EncodeRule(500))
    learned = tokenizer.decode([label for label in row.labels if label != -100])
    assert learned == "a<|im_end|>b<|im_end|>"
    out = tmp_path / "adapter"
    out.mkdir()
    assert save_template(tokenizer, out)
    assert (out / "chat_template.jinja").read_text(encoding="utf-8") == tokenizer.chat_template


def test_a_models_own_template_is_not_saved_again(tiny: Any, tmp_path: Path) -> None:
    assert not save_template(tiny, tmp_path) and not list(tmp_path.iterdir())


def test_a_base_model_without_the_marks_is_refused(tmp_path: Path) -> None:
    folder = base_model(tmp_path / "base")
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("<|im_", "<|other_"), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_tokenizer(folder, "chatml")
    assert caught.value.code == "template.no_marks" and "<|im_start|>" in caught.value.message_en
    with pytest.raises(UsageError, match="none named `qwen3`"):
        load_tokenizer(folder, "qwen3")


def test_loading_checks_the_name(tiny_folder: Path) -> None:
    assert load_tokenizer(tiny_folder, "qwen").chat_template
    with pytest.raises(InputError, match="template: llama3"):
        load_tokenizer(tiny_folder, "llama3")
