"""Conversations into token ids and labels: what the model reads, and what it learns.

The whole conversation is rendered once by the tokenizer's chat template and tokenised once. Which
characters are the assistant's is found by rendering prefixes: everything up to a turn with the
generation prompt must be the start of the whole, and so must everything up to its end. The text
between, cut after its end-of-turn token, is learned; all else is masked. So training sees the very
tokens that serving will see, whatever the template.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from slipway.core.errors import InputError, SlipwayError, UsageError
from slipway.core.i18n import Text, tr
from slipway.datasets.model import Sample

IGNORE = -100
_MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class Encoded:
    """One conversation as tokens.

    Attributes:
        input_ids: token ids, at most the cut-off length.
        labels: as long; the id itself where the token is learned, else -100. Not shifted:
            `labels[i]` belongs to `input_ids[i]`.
    """

    id: str
    input_ids: list[int]
    labels: list[int]

    @property
    def learned(self) -> int:
        """How many tokens are learned."""
        return sum(label != IGNORE for label in self.labels)


@dataclass(frozen=True, slots=True)
class LongRow:
    """A row that was longer than the cut-off; `tokens` is its whole length."""

    id: str
    file: str
    line: int
    tokens: int


@dataclass(frozen=True, slots=True)
class EncodedSet:
    """An encoded dataset and what became of every row.

    Attributes:
        rows: what can be learned from, in order.
        truncated: rows of `rows` that lost their end to the cut-off.
        dropped: rows left out because no learned token is before the cut-off.
        cutoff_len: the cut-off in tokens.
    """

    rows: list[Encoded]
    truncated: list[LongRow]
    dropped: list[LongRow]
    cutoff_len: int

    @property
    def tokens(self) -> int:
        """Tokens in all rows."""
        return sum(len(row.input_ids) for row in self.rows)

    @property
    def learned(self) -> int:
        """Learned tokens in all rows."""
        return sum(row.learned for row in self.rows)


def encode_sample(sample: Sample, tokenizer: Any, cutoff_len: int) -> Encoded:
    """Encode one conversation, cut to the first `cutoff_len` tokens.

    Args:
        tokenizer: from `load_tokenizer`.

    Raises:
        InputError: the row holds the text of a special token, or the template cannot be used for
            it; the row is named.
    """
    ids, labels = _encode_whole(sample, tokenizer)
    return Encoded(sample.id, ids[:cutoff_len], labels[:cutoff_len])


def encode_all(samples: Iterable[Sample], tokenizer: Any, cutoff_len: int) -> EncodedSet:
    """Encode a dataset; every row that is cut or dropped is listed with its place and length.

    Raises:
        UsageError: `cutoff_len` is not positive.
        InputError: rows that cannot be encoded; the first of them are named, all are counted.
    """
    if cutoff_len < 1:
        raise UsageError("data.cutoff", tr("cutoff_len must be at least 1, not {n}", n=cutoff_len))
    done = EncodedSet([], [], [], cutoff_len)
    errors: list[SlipwayError] = []
    for sample in samples:
        try:
            ids, labels = _encode_whole(sample, tokenizer)
        except InputError as error:
            errors.append(error)
            continue
        row = Encoded(sample.id, ids[:cutoff_len], labels[:cutoff_len])
        long = LongRow(sample.id, str(sample.file), sample.line, len(ids))
        if not row.learned:
            done.dropped.append(long)
            continue
        done.rows.append(row)
        if len(ids) > cutoff_len:
            done.truncated.append(long)
    if errors:
        raise _together(errors)
    return done


def _together(errors: Sequence[SlipwayError]) -> SlipwayError:
    if len(errors) == 1:
        return errors[0]
    named = "\n".join(error.message_en for error in errors[:_MAX_NAMED])
    return InputError(
        errors[0].code,
        tr("{count} rows cannot be encoded:\n{rows}", count=len(errors), rows=named),
        errors[0].hint,
    )


def _encode_whole(sample: Sample, tokenizer: Any) -> tuple[list[int], list[int]]:
    tools = _tools_for(tokenizer)
    tools.refuse_special_text(sample)
    text, spans = _assistant_spans(sample, tokenizer, tools.specials)
    encoding = tools.plain.encode(text, add_special_tokens=False)
    ids: list[int] = encoding.ids
    labels = [IGNORE] * len(ids)
    at = 0
    # tokens and spans both run left to right; a token that begins before its span (a newline of
    # the template merged with one of the answer) is never generated, so it is not learned
    for index, (start, end) in enumerate(encoding.offsets):
        while at < len(spans) and start >= spans[at][1]:
            at += 1
        if at < len(spans) and start >= spans[at][0] and end <= spans[at][1]:
            labels[index] = ids[index]
    return ids, labels


def _assistant_spans(
    sample: Sample, tokenizer: Any, specials: tuple[str, ...]
) -> tuple[str, list[tuple[int, int]]]:
    """The rendered text, and the character range of each answer with its end-of-turn token."""
    messages = [{"role": m.role, "content": m.content} for m in sample.messages]
    whole = render(messages, tokenizer, sample)
    spans: list[tuple[int, int]] = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render(messages[:index], tokenizer, sample, add_generation_prompt=True)
        upto = render(messages[: index + 1], tokenizer, sample)
        if not (whole.startswith(prompt) and whole.startswith(upto) and len(prompt) < len(upto)):
            raise _template_error(
                sample,
                tr(
                    "the chat template renders turn {turn} differently inside the whole "
                    "conversation, so what is to be learned cannot be told",
                    turn=index + 1,
                ),
            )
        answer = upto.rstrip()
        if not answer.endswith(specials):
            raise _template_error(
                sample,
                tr("the chat template puts no end-of-turn token after turn {turn}", turn=index + 1),
            )
        spans.append((len(prompt), len(answer)))
    return whole, spans


def render(
    messages: list[dict[str, str]],
    tokenizer: Any,
    sample: Sample,
    *,
    add_generation_prompt: bool = False,
) -> str:
    """The conversation as text, by the tokenizer's chat template.

    Raises:
        InputError: the template refuses the conversation; the row is named.
    """
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except Exception as error:  # a template raises whatever it likes (jinja2, ValueError, ...)
        reason = tr("the chat template refuses the conversation: {reason}", reason=str(error))
        raise _template_error(sample, reason) from error
    return str(text)


def _template_error(sample: Sample, reason: Text) -> InputError:
    return InputError(
        "data.template",
        tr("{file}:{line}: {reason}", file=str(sample.file), line=sample.line, reason=reason),
        tr("change the row, or take a base model with a plain chat template"),
    )


class _Tools:
    """What is made once for a tokenizer: a bare copy of it and the texts of its special tokens."""

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers import Tokenizer

        # the copy has no post-processor, which would trim whitespace from the offsets, and none
        # of the padding or truncation that somebody may have set on the original
        plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        plain.post_processor = None
        plain.no_padding()
        plain.no_truncation()
        self.plain = plain
        added = tokenizer.added_tokens_decoder.values()
        self.specials = tuple(str(token.content) for token in added if token.special)

    def refuse_special_text(self, sample: Sample) -> None:
        """Text such as `<|im_end|>` in a row would become the control token: forged turns."""
        for message in sample.messages:
            for special in self.specials:
                if special in message.content:
                    raise InputError(
                        "data.special_token",
                        tr(
                            "{file}:{line}: the text of the {role} holds the model's control "
                            "token `{token}`",
                            file=str(sample.file),
                            line=sample.line,
                            role=message.role,
                            token=special,
                        ),
                        tr("remove the token from the text, or write it with a space inside"),
                    )


_TOOLS: WeakKeyDictionary[Any, _Tools] = WeakKeyDictionary()


def _tools_for(tokenizer: Any) -> _Tools:
    if tokenizer not in _TOOLS:
        _TOOLS[tokenizer] = _Tools(tokenizer)
    return _TOOLS[tokenizer]
