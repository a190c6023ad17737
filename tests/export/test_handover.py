"""Each fault of a model folder: refused before the converter runs, or told and kept."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from slipway.core.errors import InputError, ProofError, SlipwayError
from slipway.core.i18n import Text
from slipway.core.paths import Home
from slipway.export import convert_to_gguf
from slipway.export.handover import inspect, require_convertible, template_of
from slipway.export.toolchain import Toolchain
from slipway.testing.tiny import CHATML, tiny_model
from slipway.testing.toolchain import FakeToolchain

OTHER = CHATML.replace("assistant", "helper")


def change(path: Path, **keys: Any) -> None:
    """Set keys of a JSON file; those that are None are removed."""
    content = json.loads(path.read_text()) if path.is_file() else {}
    content |= keys
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def two_templates(folder: Path) -> None:
    change(folder / "tokenizer_config.json", chat_template=OTHER)


def two_templates_one_named(folder: Path) -> None:
    named = [{"name": "default", "template": OTHER}, {"name": "tool_use", "template": CHATML}]
    change(folder / "tokenizer_config.json", chat_template=named)


def empty_template_key(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": None}))


def no_vocabulary(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def unknown_tokenizer(folder: Path) -> None:
    change(folder / "tokenizer_config.json", tokenizer_class="NoSuchTokenizer")
    (folder / "tokenizer.json").rename(folder / "vocab.json")


def too_many_tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    token = content["added_tokens"][0] | {"id": rows, "content": "<new>"}
    content["added_tokens"].append(token)
    path.write_text(json.dumps(content))


def embedding_cut_and_config_not(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "model.embed_tokens.weight"
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def config_without_architecture(folder: Path) -> None:
    change(folder / "config.json", architectures=None)


def packed_weights(folder: Path) -> None:
    change(folder / "config.json", quantization_config={"load_in_4bit": True})


def saved_with_adapter(folder: Path) -> None:
    """As `model.save_pretrained` leaves it where PEFT has wrapped the layers."""
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    inject_adapter_in_model(LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"), model)
    tensors = {n: t.clone() for n, t in model.state_dict().items() if n != "lm_head.weight"}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


FATAL: list[tuple[Callable[[Path], None], str, type[SlipwayError]]] = [
    (two_templates, "model.two_templates", ProofError),
    (two_templates_one_named, "model.two_templates", ProofError),
    (empty_template_key, "model.template_hidden", InputError),
    (no_vocabulary, "model.no_vocabulary", InputError),
    (unknown_tokenizer, "model.unknown_tokenizer", InputError),
    (too_many_tokens, "model.vocabulary_too_large", InputError),
    (embedding_cut_and_config_not, "model.vocabulary_too_large", InputError),
    (config_without_architecture, "model.no_architecture", InputError),
    (packed_weights, "model.quantised", InputError),
    (saved_with_adapter, "model.adapter_inside", InputError),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "model")


@pytest.fixture
def converter_must_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    ran = tmp_path / "ran"
    made = FakeToolchain(tmp_path / "tools", converter=f"open({str(ran)!r}, 'w')")
    monkeypatch.setenv("SLIPWAY_TOOLCHAIN", str(made.folder))
    return ran


def test_a_sound_folder_has_no_fault(folder: Path) -> None:
    assert inspect(folder) == []


@pytest.mark.parametrize(("spoil", "code", "kind"), FATAL, ids=[f[0].__name__ for f in FATAL])
def test_a_fatal_fault_refuses_before_the_converter_runs(
    folder: Path,
    home: Home,
    tmp_path: Path,
    converter_must_not_run: Path,
    spoil: Callable[[Path], None],
    code: str,
    kind: type[SlipwayError],
) -> None:
    spoil(folder)
    with pytest.raises(kind) as caught:
        convert_to_gguf(folder, tmp_path / "out", home=home)
    assert caught.value.code == code and caught.value.hint_en
    assert str(folder) in caught.value.message_en
    assert not converter_must_not_run.exists() and not (tmp_path / "out").exists()


def test_one_template_in_both_places_is_no_fault(folder: Path) -> None:
    change(folder / "tokenizer_config.json", chat_template=CHATML + "\n")
    assert inspect(folder) == []


def test_an_unknown_tokenizer_class_beside_its_fast_file_is_a_warning(folder: Path) -> None:
    change(folder / "tokenizer_config.json", tokenizer_class="NoSuchTokenizer")
    (fault,) = require_convertible(folder)
    assert fault.code == "model.unknown_tokenizer" and not fault.fatal


def test_a_tokenizer_with_code_of_its_own_is_not_called_unknown(folder: Path) -> None:
    change(
        folder / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": ["own.OwnTokenizer", None]},
    )
    assert inspect(folder) == []


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_an_unreadable_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text("{ cut")
    with pytest.raises(InputError, match=name):
        require_convertible(folder)


@pytest.mark.slow
def test_sampling_without_do_sample_is_told_and_kept(
    folder: Path, home: Home, tmp_path: Path, tools: Toolchain
) -> None:
    change(folder / "generation_config.json", temperature=0.6, top_p=0.95)
    said: list[Text] = []
    made = convert_to_gguf(folder, tmp_path / "out", outtype="f32", home=home, say=said.append)
    assert len(said) == 1 and "`temperature`, `top_p`" in said[0].en
    assert made.notes["warnings"] == [said[0].en]


def test_transformers_refuses_to_save_what_the_warning_says(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    change(folder / "generation_config.json", temperature=0.6)
    (fault,) = inspect(folder)
    assert "refuses to save" in fault.message.en
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.generation_config.temperature = 0.7
    with pytest.raises(ValueError, match="temperature"):
        model.save_pretrained(tmp_path / "again")


def test_what_save_pretrained_writes_is_convertible(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "again")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert inspect(tmp_path / "again") == []
    assert template_of(tmp_path / "again") == template_of(folder)


def gguf_template(tools: Toolchain, folder: Path, out: Path) -> str | None:
    """The template that the converter writes, read by its own `gguf` package."""
    command = [sys.executable, str(tools.converter), str(folder), "--vocab-only"]
    subprocess.run([*command, "--outfile", str(out)], check=True, capture_output=True)
    read = (
        "import sys; from gguf import GGUFReader; "
        "field = GGUFReader(sys.argv[1]).fields.get('tokenizer.chat_template'); "
        "print(field.contents() if field else '', end='')"
    )
    printed = subprocess.run(
        [sys.executable, "-c", read, str(out)], check=True, capture_output=True, text=True
    )
    return printed.stdout or None


@pytest.mark.slow
def test_transformers_takes_the_file_and_the_converter_the_key(
    folder: Path, tmp_path: Path, tools: Toolchain
) -> None:
    from transformers import AutoTokenizer

    two_templates(folder)
    assert AutoTokenizer.from_pretrained(folder).chat_template == CHATML == template_of(folder)
    assert gguf_template(tools, folder, tmp_path / "two.gguf") == OTHER
    empty_template_key(folder)
    assert AutoTokenizer.from_pretrained(folder).chat_template == CHATML == template_of(folder)
    assert gguf_template(tools, folder, tmp_path / "none.gguf") is None


def test_a_bert_that_classifies_is_refused_because_its_pooler_would_be_lost(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    config = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        require_convertible(folder)
    assert caught.value.code == "model.pooler_lost"
