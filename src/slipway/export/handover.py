"""What in a model folder would break, or mean different things to, the next program that reads it.

`transformers` writes folders that it reads otherwise than llama.cpp's converter does, or that its
next version refuses. Such a fault shows here by its cause, not later as a strange answer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError, ProofError
from slipway.core.i18n import tr
from slipway.export.experts import routing_fault
from slipway.export.fault import Fault
from slipway.export.shards import Weights

_TEMPLATE = "chat_template.jinja"
_CONFIG = "tokenizer_config.json"
# names under which families keep their input embedding
_EMBEDDINGS = (
    "embed_tokens.weight",
    "word_embeddings.weight",
    "wte.weight",
    "tok_embeddings.weight",
)
_SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": None, "typical_p": 1.0}


def inspect(folder: Path) -> list[Fault]:
    """All faults of a model folder; only its small files and the headers of its shards are read."""
    config = _json(folder / "config.json")
    tokenizer = _json(folder / _CONFIG)
    found = [
        _no_architecture(folder, config),
        _packed(folder, config),
        _wrapped(folder),
        routing_fault(folder, config),
        _pooler_lost(folder, config),
        _template_hidden(folder, tokenizer),
        _two_templates(folder, tokenizer),
        _no_vocabulary(folder, tokenizer),
        _no_such_tokenizer(folder, tokenizer),
        _too_many_tokens(folder, config),
        _sampling_that_is_not_used(folder),
    ]
    return [fault for fault in found if fault is not None]


def require_convertible(folder: Path) -> list[Fault]:
    """The faults that do not hinder the conversion.

    Raises:
        InputError, ProofError: one that does.
    """
    faults = inspect(folder)
    for fault in faults:
        if fault.fatal:
            kind = ProofError if fault.code == "model.two_templates" else InputError
            raise kind(fault.code, fault.message, fault.hint)
    return faults


def template_of(folder: Path) -> str | None:
    """The folder's chat template as transformers takes it; None if there is none."""
    if (folder / _TEMPLATE).is_file():
        return (folder / _TEMPLATE).read_text(encoding="utf-8")
    return _template_inside(_json(folder / _CONFIG))


def _template_inside(tokenizer: dict[str, Any]) -> str | None:
    """The template in `tokenizer_config.json`; of several named ones the default."""
    inside = tokenizer.get("chat_template")
    if isinstance(inside, list):
        named = {one.get("name"): one.get("template") for one in inside if isinstance(one, dict)}
        inside = named.get("default")
    return inside if isinstance(inside, str) else None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(
            "model.bad_json",
            tr("{path} is no readable JSON: {reason}", path=str(path), reason=str(error)),
            tr("make or fetch it again"),
        ) from error
    return value if isinstance(value, dict) else {}


def _no_architecture(folder: Path, config: dict[str, Any]) -> Fault | None:
    """A config that was saved without a model; the converter chooses by this name alone."""
    inner = config.get("text_config")
    if config.get("architectures") or (isinstance(inner, dict) and inner.get("architectures")):
        return None
    return Fault(
        "model.no_architecture",
        tr("{path} does not say of which architecture the model is", path=folder / "config.json"),
        tr('copy `"architectures"` from the config.json of the base'),
        fatal=True,
    )


def _packed(folder: Path, config: dict[str, Any]) -> Fault | None:
    """Saving a model that bitsandbytes holds in few bits saves the packed weights."""
    packed = config.get("quantization_config")
    if not isinstance(packed, dict) or packed.get("quant_method", "bitsandbytes") != "bitsandbytes":
        return None
    return Fault(
        "model.quantised",
        tr(
            "the weights in {folder} are quantised ({method})", folder=folder, method="bitsandbytes"
        ),
        tr("convert the full-precision model; quantise the GGUF with `slipway quantize`"),
        fatal=True,
    )


def _pooler_lost(folder: Path, config: dict[str, Any]) -> Fault | None:
    """The converter leaves BERT's pooler out, and llama.cpp then classifies without it."""
    if "BertForSequenceClassification" not in (config.get("architectures") or ()):
        return None
    return Fault(
        "model.pooler_lost",
        tr("{folder} is a BERT that classifies, and its pooler would be lost", folder=folder),
        tr("take a reranker of the XLM-RoBERTa or Qwen3 family, such as bge-reranker-v2-m3"),
        fatal=True,
    )


def _wrapped(folder: Path) -> Fault | None:
    """Names that PEFT gives to the layers it wraps: a whole model saved with its adapter on."""
    marks = ("base_model.model.", ".base_layer.", ".lora_A.", ".lora_B.")
    for name in Weights(folder).entries:
        if any(mark in name for mark in marks):
            return Fault(
                "model.adapter_inside",
                tr(
                    "{folder} was saved with its adapter unmerged: `{name}`",
                    folder=folder,
                    name=name,
                ),
                tr("save the adapter alone, and merge it: `slipway merge ADAPTER --base FOLDER`"),
                fatal=True,
            )
    return None


def _template_hidden(folder: Path, tokenizer: dict[str, Any]) -> Fault | None:
    """An empty key stands before the file for the converter, which then writes no template."""
    if "chat_template" not in tokenizer or not (folder / _TEMPLATE).is_file():
        return None
    if isinstance(tokenizer["chat_template"], str | list):
        return None
    return Fault(
        "model.template_hidden",
        tr(
            "`chat_template` in {path} is empty and hides `{file}`",
            path=folder / _CONFIG,
            file=_TEMPLATE,
        ),
        tr("delete the key there"),
        fatal=True,
    )


def _two_templates(folder: Path, tokenizer: dict[str, Any]) -> Fault | None:
    """transformers takes the file, the converter the key of `tokenizer_config.json`."""
    inside, file = _template_inside(tokenizer), folder / _TEMPLATE
    if inside is None or not file.is_file():
        return None
    if inside.strip() == file.read_text(encoding="utf-8").strip():
        return None
    return Fault(
        "model.two_templates",
        tr(
            "{folder} has two chat templates: `{file}` and another in `{config}`",
            folder=folder,
            file=_TEMPLATE,
            config=_CONFIG,
        ),
        tr(
            "transformers uses the first, llama.cpp the second: delete the one that the model "
            "was not trained with"
        ),
        fatal=True,
    )


def _no_vocabulary(folder: Path, tokenizer: dict[str, Any]) -> Fault | None:
    files = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "tiktoken.model")
    other = list(folder.glob("*.tiktoken")) or list(folder.glob("*.model"))
    if other or any((folder / name).is_file() for name in files):
        return None
    name = tokenizer.get("tokenizer_class") or "tokenizer.json"
    return Fault(
        "model.no_vocabulary",
        tr("{folder} has no vocabulary (tokenizer.json, tokenizer.model)", folder=folder),
        tr("copy the tokenizer's files of the base into it (`{name}` needs them)", name=name),
        fatal=True,
    )


def _no_such_tokenizer(folder: Path, tokenizer: dict[str, Any]) -> Fault | None:
    name = tokenizer.get("tokenizer_class")
    if not isinstance(name, str) or tokenizer.get("auto_map"):
        return None
    import transformers

    if hasattr(transformers, name) or hasattr(transformers, name.removesuffix("Fast")):
        return None
    return Fault(
        "model.unknown_tokenizer",
        tr(
            "`tokenizer_class` in {path} is `{name}`, which transformers {version} does not have",
            path=folder / _CONFIG,
            name=name,
            version=transformers.__version__,
        ),
        tr("write `PreTrainedTokenizerFast` there if the folder has a tokenizer.json"),
        fatal=not (folder / "tokenizer.json").is_file(),
    )


def _too_many_tokens(folder: Path, config: dict[str, Any]) -> Fault | None:
    """The converter stops at a token without an embedding; transformers at the first such text."""
    largest = _largest_token(folder)
    counts = [_embedding_rows(folder), config.get("vocab_size")]
    rows = min((count for count in counts if isinstance(count, int)), default=None)
    if largest is None or rows is None or largest < rows:
        return None
    return Fault(
        "model.vocabulary_too_large",
        tr(
            "the tokenizer in {folder} has the token {largest}, but the model has embeddings for "
            "{rows} tokens",
            folder=folder,
            largest=largest,
            rows=rows,
        ),
        tr("take the tokenizer of the base, or resize the embeddings and train them"),
        fatal=True,
    )


def _largest_token(folder: Path) -> int | None:
    content = _json(folder / "tokenizer.json")
    if not content:
        return None
    vocabulary = content.get("model", {}).get("vocab", {})
    ids = [len(vocabulary) - 1]
    if isinstance(vocabulary, dict):
        ids = [max(vocabulary.values(), default=-1)]
    ids += [token["id"] for token in content.get("added_tokens", [])]
    return max(ids)


def _embedding_rows(folder: Path) -> int | None:
    entries = Weights(folder).entries
    for name, entry in entries.items():
        if name.endswith(_EMBEDDINGS) and len(entry.shape) == 2:
            return entry.shape[0]
    return None


def _sampling_that_is_not_used(folder: Path) -> Fault | None:
    """Values of `generation_config.json` that transformers passes over."""
    config = _json(folder / "generation_config.json")
    if config.get("do_sample", False):
        return None
    unused = [k for k, usual in _SAMPLING.items() if config.get(k) not in (None, usual)]
    if not unused:
        return None
    return Fault(
        "model.generation_config",
        tr(
            "`{path}` sets {keys} without `do_sample`: transformers ignores them, and refuses "
            "to save them once one was changed",
            path=folder / "generation_config.json",
            keys=", ".join(f"`{key}`" for key in unused),
        ),
        tr('add `"do_sample": true` there'),
        fatal=False,
    )
