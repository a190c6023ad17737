"""Conversations into text by the model's own chat template, one document for each thing to learn.

An answer is learned in the very text that serving would put before it: the conversation up to the
answer, rendered with the generation prompt. Where the template renders earlier turns the same way
however the conversation goes on, the answers of a conversation share one document; where it does
not (a reasoning model forgets the thoughts of earlier turns), each answer gets a document of its
own. Which is the case is found by comparing texts, for each conversation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

from slipway.core.errors import InputError
from slipway.core.i18n import Text, tr
from slipway.datasets.model import Message, Role, Sample, ToolCall
from slipway.datasets.rule import EncodeRule
from slipway.datasets.skeleton import Document, Skeleton
from slipway.datasets.templates import no_generation_prompt
from slipway.datasets.traced import Trace, Untraceable, traced_template

Turns = list[dict[str, Any]]
Arguments = Literal["object", "text"]

THOUGHT = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)
# of each shape so many rows are made both ways and compared, and one in so many later on
_CHECKED_FIRST, _CHECKED_EVERY = 16, 4096
_MAX_SHAPES = 1000
_EMPTY_THOUGHT = re.compile(r"(<think>)?\s*</think>\s*")
_OPENED = re.compile(r"<think>\s*\Z")
_NO_THOUGHT = "<think>\n\n</think>\n\n"


@dataclass(frozen=True, slots=True)
class _Turn:
    """One answer: the text up to it and with it; characters `start` to `end` are learned."""

    text: str
    start: int
    end: int


class Renderer:
    """A tokenizer's chat template with what is known about it.

    Attributes:
        specials: texts of the control tokens.
        thinks: the template knows thoughts (`<think>`).
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._template = tokenizer.chat_template or ""
        self._source = _source_of(tokenizer)
        added = tokenizer.added_tokens_decoder.values()
        self.specials = tuple(str(token.content) for token in added if token.special)
        self.thinks = "think>" in self._source
        self._proved = False
        self._traced: Any = None
        self._skeletons: dict[Any, tuple[Skeleton | None, int]] = {}
        self._call_style: Arguments | None = None

    def writes(self, special: str) -> bool:
        """Whether the template is known to write this control token."""
        named = self._tokenizer.special_tokens_map.items()
        return special in self._source or any(
            name in self._source and special == value for name, value in named
        )

    def documents(self, sample: Sample, rule: EncodeRule) -> list[Document]:
        """The documents of a `chat`, or the one of a `feedback`, in the order of their answers.

        Raises:
            InputError: the template cannot be used for the row, which is named.
        """
        last_only = rule.mask_history or sample.kind == "feedback"
        return self._of(sample, sample.messages, rule, last_only)

    def pair(self, sample: Sample, rule: EncodeRule) -> list[Document]:
        """The chosen and the rejected document of a `preference`; only the answer is learned."""
        rule = replace(rule, train_on_prompt=False)
        return [
            self._of(sample, (*sample.messages, answer), rule, True)[0]
            for answer in (sample.chosen, sample.rejected)
            if answer is not None
        ]

    def _of(
        self, sample: Sample, messages: Sequence[Message], rule: EncodeRule, last_only: bool
    ) -> list[Document]:
        if rule.system and messages[0].role != "system":
            messages = (Message("system", rule.system), *messages)
        if sample.tools or any(message.tool_calls for message in messages):
            return self.slowly(sample, messages, rule, last_only)
        roles = tuple(message.role for message in messages)
        shape = (rule, last_only, roles)
        if shape not in self._skeletons and len(self._skeletons) < _MAX_SHAPES:
            self._skeletons[shape] = self._skeleton(sample, roles, rule, last_only), 0
        skeleton, used = self._skeletons.get(shape, (None, 0))
        documents = skeleton.fill(messages) if skeleton else None
        if documents is None:
            return self.slowly(sample, messages, rule, last_only)
        self._skeletons[shape] = skeleton, used + 1
        if used < _CHECKED_FIRST or used % _CHECKED_EVERY == 0:
            obvious = self.slowly(sample, messages, rule, last_only)
            if obvious != documents:
                self._skeletons[shape] = None, 0
                return obvious
        return documents

    def slowly(
        self, sample: Sample, messages: Sequence[Message], rule: EncodeRule, last_only: bool
    ) -> list[Document]:
        """The documents by rendering: the obvious way, which the skeletons are held to."""
        turns = self._turns(sample, messages, rule)
        answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
        wanted = answers[-1:] if last_only else answers
        return _together([self._turn(sample, turns, i, rule) for i in wanted], rule)

    def _skeleton(
        self, sample: Sample, roles: tuple[Role, ...], rule: EncodeRule, last_only: bool
    ) -> Skeleton | None:
        """The shape worked out with stand-ins; None where the template looks into the texts."""
        traced = traced_template(self._source) if isinstance(self._template, str) else None
        if traced is None:
            return None
        trace = Trace()
        messages = [Message(role, str.__str__(trace.stand_in(i))) for i, role in enumerate(roles)]
        holes = [i for i, role in enumerate(roles) if role == "assistant"]
        self._traced = traced, trace
        try:
            return Skeleton(self.slowly(sample, messages, rule, last_only), trace, holes)
        except (Untraceable, InputError, ValueError):
            return None  # the obvious way will do, or say what is wrong
        finally:
            self._traced = None

    def render(
        self,
        turns: Turns,
        sample: Sample,
        *,
        add_generation_prompt: bool = False,
        thinking: str = "keep",
    ) -> str:
        """The turns as text.

        Raises:
            InputError: the template refuses the conversation; the row is named.
        """
        extra: dict[str, Any] = {"tools": list(sample.tools)} if sample.tools else {}
        if thinking != "keep" and "enable_thinking" in self._source:
            extra["enable_thinking"] = thinking == "on"
        try:
            if self._traced is not None:
                return self._render_traced(turns, add_generation_prompt, extra)
            text = self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt, **extra
            )
        except Untraceable:
            raise
        except Exception as error:  # a template raises whatever it likes (jinja2, ValueError, ...)
            reason = tr("the chat template refuses the conversation: {reason}", reason=str(error))
            raise template_error(sample, reason) from error
        return str(text)

    def _render_traced(
        self, turns: Turns, add_generation_prompt: bool, extra: dict[str, Any]
    ) -> str:
        traced, trace = self._traced
        text = traced.render(
            messages=[{**turn, "content": trace.stand_in(i)} for i, turn in enumerate(turns)],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **{**self._tokenizer.special_tokens_map, **extra},
        )
        return str.__str__(text)

    def _turn(self, sample: Sample, turns: Turns, index: int, rule: EncodeRule) -> _Turn:
        prompt = self.render(
            turns[:index], sample, add_generation_prompt=True, thinking=rule.thinking
        )
        upto = self.render(turns[: index + 1], sample, thinking=rule.thinking)
        # a prompt may end in `<think>\n`, which is also how the answer's thought begins
        opened = _OPENED.search(prompt)
        base = prompt[: opened.start()] if opened else prompt
        tail = upto[len(base) :]
        if not tail or not upto.startswith(base) or not _holds(tail, turns[index]):
            raise template_error(sample, _differs(index))
        self._prove_generation_prompt(sample, turns[:index], prompt, tail)
        content = turns[index]["content"]
        thought = THOUGHT.match(content)
        text, start = upto, len(prompt)
        lost = thought and not ("</think>" in tail and _inner(thought.group()) in tail)
        bare = self.thinks and not thought and "think>" not in tail
        if lost or not upto.startswith(prompt) or (bare and rule.thinking == "on"):
            text = _compose(prompt, base, content if thought else _NO_THOUGHT, tail)
        if not thought and rule.thinking != "on" and (bare or "think>" not in content):
            written = _EMPTY_THOUGHT.match(text, len(base))
            start = max(start, written.end()) if written else start
        end = len(text.rstrip())
        if not text.endswith(self.specials, 0, end):
            raise template_error(
                sample,
                tr("the chat template puts no end-of-turn token after turn {turn}", turn=index + 1),
            )
        return _Turn(text, start, end)

    def _prove_generation_prompt(
        self, sample: Sample, before: Turns, prompt: str, tail: str
    ) -> None:
        """Once for a template: what serving puts before an answer must be all but the answer."""
        if self._proved:
            return
        plain = self.render(before, sample)
        if prompt == plain and tail.lstrip().startswith(self.specials):
            raise no_generation_prompt()
        self._proved = True

    def _turns(self, sample: Sample, messages: Sequence[Message], rule: EncodeRule) -> Turns:
        if rule.thinking == "off":
            messages = [without_thought(message) for message in messages]
        calls = any(message.tool_calls for message in messages)
        style = self._style_of_calls(sample) if calls or sample.tools else "object"
        return [_as_turn(message, style) for message in messages]

    def _style_of_calls(self, sample: Sample) -> Arguments:
        """How this template wants a call written: found by trying, once for a tokenizer.

        Raises:
            InputError: it renders neither calls nor tools, so the model cannot learn them.
        """
        if self._call_style is None:
            self._call_style = self._try_styles()
        if self._call_style is None:
            raise InputError(
                "data.no_tools",
                tr(
                    "{file}:{line}: the row calls tools, which the model's chat template "
                    "does not know",
                    file=str(sample.file),
                    line=sample.line,
                ),
                tr("take a model whose chat template knows tools, or leave these rows out"),
            )
        return self._call_style

    def _try_styles(self) -> Arguments | None:
        function = {"name": "probe_tool", "description": "d", "parameters": _PROBE_PARAMETERS}
        tools = [{"type": "function", "function": function}]
        call = Message("assistant", "", (ToolCall("probe_tool", {"probe_key": "probe_value"}),))
        messages = (Message("user", "q"), call, Message("tool", "probe_answer"))
        styles: tuple[Arguments, ...] = ("object", "text")
        for style in styles:
            turns = [_as_turn(message, style) for message in messages]
            try:
                text = self._tokenizer.apply_chat_template(turns, tokenize=False, tools=tools)
            except Exception:
                continue  # this template wants the other style
            wanted = ("probe_tool", "probe_key", "probe_value", "probe_answer")
            if all(word in text for word in wanted) and "{'probe_key'" not in text:
                return style
        return None


_PROBE_PARAMETERS = {"type": "object", "properties": {"probe_key": {"type": "string"}}}


def _compose(prompt: str, base: str, answer: str, tail: str) -> str:
    """The text of serving where the template drops the thought: prompt, thought, answer.

    Args:
        base: the prompt without the `<think>` that it may end in.
        answer: the row's text, which begins with its thought.
        tail: what the template writes behind `base` for the answer, without the thought.
    """
    head, close, after = answer.lstrip().partition("</think>")
    gap = after[: len(after) - len(after.lstrip())]
    written = _EMPTY_THOUGHT.match(tail)
    tail = tail[written.end() :] if written else tail
    begun = prompt[len(base) :]
    head = head.removeprefix(begun) if head.startswith(begun) else head.removeprefix("<think>")
    return prompt + head + close + ("" if tail[:1].isspace() else gap) + tail


def _holds(tail: str, turn: dict[str, Any]) -> bool:
    """Whether the rendered answer holds the row's; some templates drop the text beside calls."""
    calls = turn.get("tool_calls", ())
    said = THOUGHT.sub("", turn["content"], count=1).strip()
    names = all(call["function"]["name"] in tail for call in calls)
    return names and (bool(calls) or said in tail)


def _inner(thought: str) -> str:
    return thought.strip().removeprefix("<think>").removesuffix("</think>").strip()


def without_thought(message: Message) -> Message:
    """The message without its leading `<think>...</think>`, if it is an answer that has one."""
    if message.role != "assistant":
        return message
    return replace(message, content=THOUGHT.sub("", message.content, count=1))


def _as_turn(message: Message, style: Arguments) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "type": "function",
                "id": f"call_{number}",
                "function": {
                    "name": call.name,
                    "arguments": call.arguments
                    if style == "object"
                    else json.dumps(call.arguments, ensure_ascii=False),
                },
            }
            for number, call in enumerate(message.tool_calls)
        ]
    return turn


def _together(turns: list[_Turn], rule: EncodeRule) -> list[Document]:
    """As few documents as keep every answer behind the text that serving puts before it."""
    done: list[Document] = []
    for turn in reversed(turns):
        span = (turn.start, turn.end)
        if done and done[-1].text.startswith(turn.text[: turn.end]):
            done[-1] = Document(done[-1].text, (span, *done[-1].spans))
        else:
            done.append(Document(turn.text, (span,)))
    if rule.train_on_prompt and done:
        # earlier documents repeat what the last one holds: of them only the answers are learned
        done[0] = Document(done[0].text, ((0, len(done[0].text)),))
    return done[::-1]


def _differs(index: int) -> Text:
    return tr(
        "the chat template does not render turn {turn} behind its own generation prompt, "
        "so what is to be learned cannot be told",
        turn=index + 1,
    )


def template_error(sample: Sample, reason: Text) -> InputError:
    """The row cannot be rendered."""
    return InputError(
        "data.template",
        tr("{file}:{line}: {reason}", file=str(sample.file), line=sample.line, reason=reason),
        tr("change the row, or take a base model with a plain chat template"),
    )


_RENDERERS: WeakKeyDictionary[Any, Renderer] = WeakKeyDictionary()


def renderer_for(tokenizer: Any) -> Renderer:
    """The renderer of a tokenizer, made once."""
    known = _RENDERERS.get(tokenizer)
    if known is None or known._source != _source_of(tokenizer):
        known = _RENDERERS[tokenizer] = Renderer(tokenizer)
    return known


def _source_of(tokenizer: Any) -> str:
    template = tokenizer.chat_template or ""
    return template if isinstance(template, str) else json.dumps(template)
