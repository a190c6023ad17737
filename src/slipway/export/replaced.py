"""A tokenizer that `transformers` puts in the place of the folder's own.

By the model's type it may build one of its classes over the folder's vocabulary, with that class's
rule for cutting words; a model of that type with a vocabulary of another house is then tokenized
otherwise than it was pre-trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slipway.core.i18n import tr
from slipway.export.fault import Fault

_FILE = "tokenizer.json"
_TEXTS = (
    "Where is my order #48213?  It was due on 2024-11-05, at 12:30.",
    "您好！我的订单号是 20240315-8841，能帮我查一下快递到哪儿了吗？１２３",
    "DON'T stop; we'll see\n\n\tif x != 0:\n        return 3.14159  # naïve",
)


def replaced_tokenizer(folder: Path) -> Fault | None:
    """The first text that `transformers` and `tokenizer.json` tokenize otherwise; None if none."""
    from tokenizers import Tokenizer

    from slipway.export.hf import load_tokenizer

    if not (folder / _FILE).is_file():
        return None
    try:
        used, own = load_tokenizer(folder), Tokenizer.from_file(str(folder / _FILE))
    except Exception:  # tokenizers raises nothing narrower; the conversion's proof says what it is
        return None
    own.no_padding()
    own.no_truncation()
    for text in _TEXTS:
        found = list(used(text, add_special_tokens=False)["input_ids"])
        wanted = own.encode(text, add_special_tokens=False).ids
        if found != wanted:
            return _fault(folder, used, text, found, wanted)
    return None


def _fault(folder: Path, used: Any, text: str, found: list[int], wanted: list[int]) -> Fault:
    import transformers

    at = next(
        (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b),
        min(len(found), len(wanted)),
    )
    there, here = (
        " ".join(repr(one) for one in used.convert_ids_to_tokens(ids[at : at + 3]))
        for ids in (wanted, found)
    )
    return Fault(
        "model.tokenizer_replaced",
        tr(
            "transformers {version} reads {file} as `{name}` and tokenizes {text} otherwise than "
            "the file says: {there} becomes {here}",
            version=transformers.__version__,
            file=folder / _FILE,
            name=type(used).__name__,
            text=repr(text[:40]),
            there=there,
            here=here,
        ),
        tr("training and GGUF agree with each other, but not with how the model was pre-trained"),
        fatal=False,
    )
