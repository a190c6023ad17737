"""Samples into token ids and labels: what the model reads, and what it learns.

`render` gives the text of a document and the characters that are learned; here it becomes tokens.
A token is learned when all its characters are. So training sees the very tokens that serving will
see, whatever the template.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

from slipway.core.errors import InputError, SlipwayError
from slipway.core.i18n import tr
from slipway.datasets.cut import cut
from slipway.datasets.encoded import IGNORE, Encoded, LongRow, Tokens
from slipway.datasets.model import Sample
from slipway.datasets.render import renderer_for, template_error
from slipway.datasets.rule import EncodeRule
from slipway.datasets.segments import SegmentEncoder
from slipway.datasets.skeleton import Document

_MAX_NAMED = 5

__all__ = ["IGNORE", "Encoded", "LongRow", "Tokens"]  # known by this name too


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


def encode_documents(sample: Sample, tokenizer: Any, rule: EncodeRule) -> list[Encoded]:
    """All documents of a sample, each cut to the first `rule.cutoff_len` tokens.

    A `chat` gives one document, or one for each answer where the template renders earlier turns
    differently; a `preference` the chosen and the rejected one; a long `text` its pieces.

    Raises:
        InputError: the row cannot be encoded; it is named.
    """
    tools = tools_for(tokenizer)
    whole = [tools.encoder.obviously(text) for text in tools.documents(sample, rule)]
    return [row.encoded() for row in cut(sample, whole, rule, tools.text_ends).rows]


def encode_sample(sample: Sample, tokenizer: Any, cutoff_len: int) -> Encoded:
    """Encode a conversation that is one document, cut to the first `cutoff_len` tokens.

    Args:
        tokenizer: from `load_tokenizer`.

    Raises:
        InputError: the row holds the text of a special token, or the template cannot be used for
            it, or renders its turns in several documents; the row is named.
    """
    rows = encode_documents(sample, tokenizer, EncodeRule(cutoff_len))
    if len(rows) != 1:
        raise template_error(
            sample, tr("the chat template makes {count} documents of the row", count=len(rows))
        )
    return rows[0]


def encode_all(
    samples: Iterable[Sample], tokenizer: Any, cutoff_len: int, *, rule: EncodeRule | None = None
) -> EncodedSet:
    """Encode a dataset in memory; every row that is cut or dropped is listed with its length.

    Args:
        rule: what is learned; default: all answers. Its cut-off gives way to `cutoff_len`.

    Raises:
        UsageError: `cutoff_len` is not positive.
        InputError: rows that cannot be encoded; the first of them are named, all are counted.
    """
    from slipway.datasets.stream import encode_batches

    rule = replace(rule, cutoff_len=cutoff_len) if rule else EncodeRule(cutoff_len)
    done = EncodedSet([], [], [], cutoff_len)
    errors: list[SlipwayError] = []
    for sample, result in encode_batches(samples, tokenizer, rule):
        if isinstance(result, InputError):
            errors.append(result)
            continue
        done.rows.extend(row.encoded() for row in result.rows)
        long = LongRow(sample.id, str(sample.file), sample.line, result.longest)
        if result.dropped:
            done.dropped.append(long)
        elif result.truncated:
            done.truncated.append(long)
    if errors:
        raise together(errors, len(errors))
    return done


def together(errors: Sequence[SlipwayError], count: int | str) -> SlipwayError:
    """One error for `count` rows (a text such as `1000+` when nobody counted on)."""
    if count == 1:
        return errors[0]
    named = "\n".join(error.message_en for error in errors[:_MAX_NAMED])
    return InputError(
        errors[0].code,
        tr("{count} rows cannot be encoded:\n{rows}", count=count, rows=named),
        errors[0].hint,
    )


class Tools:
    """What is made once for a tokenizer: a bare copy of it and the texts of its special tokens."""

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers import Tokenizer

        # the copy has no post-processor, which would trim whitespace from the offsets, and none
        # of the padding or truncation that somebody may have set on the original
        plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        plain.post_processor = None
        plain.no_padding()
        plain.no_truncation()
        self.renderer = renderer_for(tokenizer)
        self._starts = {special[:2] for special in self.renderer.specials}
        # a template's own control tokens; one that it puts together from parts stays in its piece
        cuts = [special for special in self.renderer.specials if self.renderer.writes(special)]
        self.encoder = SegmentEncoder(plain, cuts)
        self.text_ends = _text_ends(tokenizer)

    def documents(self, sample: Sample, rule: EncodeRule) -> Sequence[Document]:
        """The texts to learn from of one sample.

        Raises:
            InputError: the row cannot be rendered, holds a control token, or is of a kind that
                this stage does not learn from.
        """
        _hold_to_stage(sample, rule)
        self.refuse_special_text(sample)
        if sample.kind == "text":
            return (Document(sample.text, ()),)  # all of it is learned; `cut` sees to that
        if sample.kind == "preference":
            return self.renderer.pair(sample, rule)
        return self.renderer.documents(sample, rule)

    def refuse_special_text(self, sample: Sample) -> None:
        """Text such as `<|im_end|>` in a row would become the control token: forged turns."""
        answers = [answer for answer in (sample.chosen, sample.rejected) if answer]
        said: list[tuple[str, str]] = [
            (turn.role, turn.content) for turn in (*sample.messages, *answers)
        ]
        said += [("text", sample.text)] if sample.text else []
        for turn in (*sample.messages, *answers):
            said += [("tool call", call.name + _json(call.arguments)) for call in turn.tool_calls]
        said += [("tool", _json(tool)) for tool in sample.tools]
        for role, text in said:
            if not any(start in text for start in self._starts):
                continue
            for special in self.renderer.specials:
                if special in text:
                    raise InputError(
                        "data.special_token",
                        tr(
                            "{file}:{line}: the text of the {role} holds the model's control "
                            "token `{token}`",
                            file=str(sample.file),
                            line=sample.line,
                            role=role,
                            token=special,
                        ),
                        tr("remove the token from the text, or write it with a space inside"),
                    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _text_ends(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids before and after a plain text: what this tokenizer puts first, and the end."""
    ids = tokenizer("a")["input_ids"]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    first = [bos] if bos is not None and ids[:1] == [bos] else []
    return first, [eos] if eos is not None else []


def _hold_to_stage(sample: Sample, rule: EncodeRule) -> None:
    if rule.pt == (sample.kind == "text"):
        return
    if rule.pt:
        raise InputError(
            "data.kind",
            tr(
                "{file}:{line}: stage pt learns plain text, and the row is a conversation",
                file=str(sample.file),
                line=sample.line,
            ),
            tr("set `stage: sft`, or give rows with `text` only"),
        )
    raise InputError(
        "data.kind",
        tr(
            "{file}:{line}: the row is plain text, which only stage pt learns from",
            file=str(sample.file),
            line=sample.line,
        ),
        tr("set `stage: pt`, or give conversations"),
    )


_TOOLS: WeakKeyDictionary[Any, tuple[Any, Tools]] = WeakKeyDictionary()


def tools_for(tokenizer: Any) -> Tools:
    """The tools of a tokenizer, made once and again when its template is changed."""
    known = _TOOLS.get(tokenizer)
    if known is None or known[0] != tokenizer.chat_template:
        known = _TOOLS[tokenizer] = (tokenizer.chat_template, Tools(tokenizer))
    return known[1]
