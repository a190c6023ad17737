"""Prove that a GGUF tokenizes and renders chats as the model folder does, token by token.

Most bad quants are bad conversions: a wrong pre-tokenizer, a lost chat template, a second BOS. The
text given to the engine is compared as the engine itself sees it (`/tokenize`, `/apply-template`),
with what `transformers` makes of it.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slipway.core.errors import ProofError
from slipway.core.i18n import tr
from slipway.export.hard_chats import Asked, Conversation, compare_hard_chats
from slipway.export.server import served
from slipway.export.toolchain import Toolchain

TEXTS = (
    "Where is my order #48213? It was due on 2024-11-05.",
    "  leading, double  and trailing spaces   ",
    "tab\there,\nnew line\n\n\nthree,\r\ncarriage return, non-breaking\u00a0space, wide\u3000space",
    "您好！我的订单号是 20240315-8841，能帮我查一下快递到哪儿了吗？",
    "東京の天気はどうですか。Здравствуйте! مرحبا",
    "emoji: 🙂 👩‍👩‍👧‍👦 🇨🇳 ❤️ and ligatures ﬁ ﬂ, accents é e\u0301 naïve",
    "0 1 12 123 1234 12345 1,234.56 3.14159 1e-10 0xFF",
    "def f(x):\n    return {'a': [x**2, \"b\"]}  # comment\n\n\tif x != 0: pass",
    "DON'T stop; we'll, they've, I'm: O'Neill's CamelCaseWord snake_case_word",
    "literal markers: <|im_start|>system <|im_end|> </s> <s> [INST] <|endoftext|> <unk>",
    "https://example.com/a?b=c&d=%E4%BD%A0#frag user@example.com C:\\path\\file.txt",
    "a",
    "",
)

HANGUL_TEXTS = ("한국어 문장입니다.",)
"""llama.cpp's WordPiece decomposes Hangul otherwise than BERT's tokenizer: refused for a chat
model, recorded for an embedding model, which would otherwise be of no use for any language."""

RARE_TEXTS = (
    "1 ½ 2 ¾, 5 m ², x³",
    "Ⅳ ① ② ١٢٣ ３ 𝟜",
    "zero\u200bwidth, \ufeffmark, line\u2028separator, soft\u00adhyphen",
)
"""Characters that people hardly type and on which llama.cpp's own rules are known to differ (it
splits before " ½" where SmolLM2's tokenizer does not): differences are recorded, not refused."""

_TAKEN_FOR_ENDS = ("</s>", "<|end|>", "<end_of_turn>", "<|eot_id|>")
"""Texts of tokens that llama.cpp makes special wherever it finds them: Qwen has an ordinary one."""

CHATS: tuple[tuple[dict[str, str], ...], ...] = (
    ({"role": "user", "content": "Can I return shoes that I have worn once?"},),
    (
        {"role": "system", "content": "You are the assistant of a small shop. Be brief."},
        {"role": "user", "content": "  Hi 🙂 "},
    ),
    (
        {"role": "system", "content": "你是一家小店的客服，回答要简短。"},
        {"role": "user", "content": "发票什么时候开？"},
        {"role": "assistant", "content": "发货后 3 天内开具电子发票。"},
        {"role": "user", "content": "谢谢！\n还能改抬头吗？"},
    ),
)


@dataclass(frozen=True, slots=True)
class ProofResult:
    """What was compared and found equal.

    Attributes:
        texts: plain texts whose token ids agree, each with and without special tokens added.
        chats: conversations whose rendered token ids agree; 0 for a model without chat template.
        template: whether there is a chat template (and it is the same text).
        rare_differences: what is tokenized otherwise among the texts that are only recorded (see
            `RARE_TEXTS` and `HANGUL_TEXTS`).
        skipped_chats: conversations that the template itself refuses (such as one that takes no
            system message); named so that nothing is passed over in silence.
        seconds: time taken.
        hard_chats: tools, thoughts and control tokens, as `hard_chats.compare_hard_chats` tells
            them; differences are recorded, not refused.
    """

    texts: int
    chats: int
    template: bool
    rare_differences: tuple[str, ...]
    skipped_chats: int
    seconds: float
    hard_chats: tuple[dict[str, Any], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The result for a manifest's notes."""
        return asdict(self)


def prove_tokenizer(gguf: Path, model_dir: Path, *, toolchain: Toolchain) -> ProofResult:
    """Compare the GGUF with the folder it was converted from.

    Args:
        gguf: the converted file.
        model_dir: Hugging Face folder with tokenizer and, for a chat model, a chat template.

    Raises:
        ProofError: ids or template differ; the message shows the first difference.
    """
    from slipway.export.hf import load_tokenizer

    arguments = ["-c", "512", "-np", "1", "--no-warmup"]
    if _template_of(load_tokenizer(model_dir)) is None:
        arguments.append("--embeddings")
    with served(toolchain, gguf, arguments) as server:
        return prove_by(server, model_dir)


def prove_by(server: Asked, model_dir: Path, *, conversation: Conversation = list) -> ProofResult:
    """Compare what `server` tokenizes and renders with what the folder says; see the module.

    Args:
        conversation: what the server is expected to make of messages before it renders them.

    Raises:
        ProofError: ids or template differ; the message shows the first difference.
    """
    from slipway.export.hf import load_tokenizer

    started = time.monotonic()
    tokenizer = load_tokenizer(model_dir)
    template = _template_of(tokenizer)
    required = TEXTS if template is None else (*TEXTS, *HANGUL_TEXTS)
    recorded = list(RARE_TEXTS if template else (*RARE_TEXTS, *HANGUL_TEXTS))
    for text in required:
        if _is_explained(server, tokenizer, text):
            recorded.append(text)
        else:
            _compare_text(server, tokenizer, text)
    rare = tuple(_differences(server, tokenizer, recorded))
    chats = skipped = 0
    hard: list[dict[str, Any]] = []
    if template is not None:
        _compare_template(server, template)
        chats, skipped = _compare_chats(server, tokenizer, conversation)
        hard = compare_hard_chats(server, tokenizer, conversation)
    seconds = round(time.monotonic() - started, 2)
    return ProofResult(
        len(required), chats, template is not None, rare, skipped, seconds, tuple(hard)
    )


def _template_of(tokenizer: Any) -> str | None:
    """The chat template as one text; of several named ones the default."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) and template else None


def _compare_text(server: Asked, tokenizer: Any, text: str) -> None:
    for add_special in (False, True):
        trained = list(tokenizer(text, add_special_tokens=add_special)["input_ids"])
        served_ids = tokenize(server, text, add_special=add_special)
        if trained != served_ids:
            raise _difference(tokenizer, text, trained, served_ids)


def _is_explained(server: Asked, tokenizer: Any, text: str) -> bool:
    """Whether a text differs only in what llama.cpp is known to do otherwise.

    It does not compose characters (an e and its accent), as Qwen's tokenizers do; what people type
    is composed. And it takes some vocabularies' ordinary tokens for the end of an answer.
    """
    plain = unicodedata.normalize("NFC", text)
    vocabulary, added = tokenizer.get_vocab(), tokenizer.get_added_vocab()
    for marker in _TAKEN_FOR_ENDS:
        if marker in vocabulary and marker not in added:
            plain = plain.replace(marker, "")
    if plain == text or _same_ids(server, tokenizer, text):
        return False
    return _same_ids(server, tokenizer, plain)


def _same_ids(server: Asked, tokenizer: Any, text: str) -> bool:
    trained = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return trained == tokenize(server, text, add_special=False)


def _differences(server: Asked, tokenizer: Any, texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        try:
            _compare_text(server, tokenizer, text)
        except ProofError as difference:
            yield difference.message_en


def _compare_template(server: Asked, template: str) -> None:
    found = server.get("/props").get("chat_template", "")
    if found.strip() == template.strip():
        return
    at = next(
        (i for i, (a, b) in enumerate(zip(template, found, strict=False)) if a != b),
        min(len(template), len(found)),
    )
    raise ProofError(
        "convert.template_differs",
        tr(
            "the GGUF's chat template differs from the model's at character {at}: "
            "{trained} became {found}",
            at=at,
            trained=repr(template[max(0, at - 20) : at + 40]),
            found=repr(found[max(0, at - 20) : at + 40]),
        ),
        tr("check `chat_template.jinja` in the model folder, then convert again"),
    )


def _compare_chats(server: Asked, tokenizer: Any, conversation: Conversation) -> tuple[int, int]:
    """Compare rendered conversations; (compared, refused by the template itself)."""
    from jinja2 import TemplateError

    compared = skipped = 0
    for chat in CHATS:
        messages = [dict(message) for message in chat]
        try:
            trained = tokenizer.apply_chat_template(
                conversation(messages), add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except TemplateError:
            skipped += 1
            continue
        prompt = server.post("/apply-template", {"messages": messages})["prompt"]
        served_ids = tokenize(server, prompt, add_special=True)
        if list(trained) != served_ids:
            raise _difference(tokenizer, messages[-1]["content"], list(trained), served_ids)
        compared += 1
    return compared, skipped


def tokenize(server: Asked, text: str, *, add_special: bool) -> list[int]:
    """Token ids of a text as the engine sees it; special tokens in the text are recognised."""
    body = {"content": text, "add_special": add_special, "parse_special": True}
    ids: list[int] = server.post("/tokenize", body)["tokens"]
    return ids


def _difference(
    tokenizer: Any, text: str, trained: Sequence[int], served_ids: Sequence[int]
) -> ProofError:
    at = next(
        (i for i, (a, b) in enumerate(zip(trained, served_ids, strict=False)) if a != b),
        min(len(trained), len(served_ids)),
    )
    return ProofError(
        "convert.tokens_differ",
        tr(
            "the GGUF tokenizes {text} otherwise than the model was trained: "
            "at token {at} trained {trained}, GGUF {found}",
            text=repr(text[:60]),
            at=at,
            trained=_show(tokenizer, trained[at : at + 4]),
            found=_show(tokenizer, served_ids[at : at + 4]),
        ),
        tr("the converter does not know this tokenizer; use a base model that llama.cpp supports"),
    )


def _show(tokenizer: Any, ids: Sequence[int]) -> str:
    tokens = tokenizer.convert_ids_to_tokens(list(ids))
    shown = " ".join(f"{token!r}({id})" for token, id in zip(tokens, ids, strict=True))
    return shown or "(end)"
