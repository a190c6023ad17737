"""Every answer is learned in the text that serving puts before it, whatever the family."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.datasets.chat_templates import FAMILIES, family
from tests.datasets.rows_for_tests import sample

from slipway.core.errors import InputError
from slipway.datasets import Encoded, EncodeRule, Message, Sample, encode_documents
from slipway.datasets.encode import IGNORE
from slipway.datasets.model import ToolCall

RULE = EncodeRule(100_000)
TOOL = {
    "type": "function",
    "function": {
        "name": "track",
        "description": "where a parcel is",
        "parameters": {"type": "object", "properties": {"number": {"type": "string"}}},
    },
}


class Families(dict[str, Any]):
    def __repr__(self) -> str:
        return "families"  # hypothesis prints its arguments; a tokenizer prints its vocabulary


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Families:
    return Families({name: family(name, tmp_path_factory.mktemp(name)) for name in FAMILIES})


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def end_of(name: str) -> str:
    if name.startswith("deepseek"):
        return "<｜end▁of▁sentence｜>"
    return "<|eot_id|>" if name == "llama3" else "<|im_end|>"


def text_of(ids: list[int], tokenizer: Any) -> str:
    """The ids as text; the tiny vocabulary decodes `▁`, which control tokens hold, as a space."""
    text = str(tokenizer.decode(ids))
    for token in tokenizer.all_special_tokens:
        text = text.replace(token.replace("▁", " "), token)
    return text


def prompts_and_answers(row: Encoded, tokenizer: Any) -> list[tuple[str, str]]:
    """For each learned range: all tokens before it and the range, as texts."""
    found, start = [], None
    for index, label in enumerate([*row.labels, IGNORE]):
        if label != IGNORE and start is None:
            start = index
        elif label == IGNORE and start is not None:
            before = text_of(row.input_ids[:start], tokenizer)
            found.append((before, text_of(row.input_ids[start:index], tokenizer)))
            start = None
    return found


def served(tokenizer: Any, one: Sample, turn: int, **extra: Any) -> str:
    """The prompt of serving before the answer `turn`."""
    turns = [{"role": m.role, "content": m.content} for m in one.messages[:turn]]
    return str(
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **extra)
    )


words = st.text(st.sampled_from("abe hort,.?!\n 0123退货你好é<|>_"), min_size=1, max_size=30)
turns = st.integers(1, 3).flatmap(
    lambda n: st.lists(
        words.map(str.strip).filter(bool).filter(lambda t: "<|" not in t),
        min_size=2 * n,
        max_size=2 * n,
    )
)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=turns, system=st.sampled_from(["", "be brief"]))
def test_each_answer_is_learned_once_behind_the_prompt_of_serving(
    families: Families, name: str, texts: list[str], system: str
) -> None:
    tokenizer = families[name]
    one = sample(*texts, system=system)
    pairs = [
        pair
        for row in encode_documents(one, tokenizer, RULE)
        for pair in prompts_and_answers(row, tokenizer)
    ]
    answers = [i for i, m in enumerate(one.messages) if m.role == "assistant"]
    assert len(pairs) == len(answers)
    for turn, (before, learned) in zip(answers, pairs, strict=True):
        prompt = served(tokenizer, one, turn)
        assert before.startswith(prompt)
        # between prompt and answer there may be an empty thought, which is not learned
        assert re.sub(r"(<think>)?\s*</think>\s*", "", before[len(prompt) :]) == ""
        said = one.messages[turn].content + end_of(name)
        assert learned == (" " + said if name == "deepseek" else said)


THOUGHT = "<think>\nwhich parcel?\n</think>\n\n"


@pytest.mark.parametrize("name", ["qwen3", "qwen3_thinking", "deepseekr1", "deepseekr1_first"])
def test_thoughts_are_learned_and_forgotten_in_later_turns(families: Families, name: str) -> None:
    tokenizer = families[name]
    one = sample("q", THOUGHT + "first", "r", THOUGHT + "last")
    rows = encode_documents(one, tokenizer, RULE)
    assert [row.id for row in rows] == ["s#1", "s#2"]
    for turn, text, row in zip((1, 3), ("first", "last"), rows, strict=True):
        ((before, learned),) = prompts_and_answers(row, tokenizer)
        prompt = served(tokenizer, one, turn)
        assert before == prompt and "which parcel" not in before
        begun = "<think>\n" if prompt.endswith("<think>\n") else ""
        assert begun + learned == THOUGHT + text + end_of(name)


@pytest.mark.parametrize("name", ["chatml", "qwen", "llama3"])
def test_models_that_do_not_think_learn_thoughts_as_text(families: Families, name: str) -> None:
    (row,) = encode_documents(sample("q", THOUGHT + "a", "r", "b"), families[name], RULE)
    learned = [answer for _, answer in prompts_and_answers(row, families[name])]
    assert learned == [THOUGHT + "a" + end_of(name), "b" + end_of(name)]


@pytest.mark.parametrize("name", ["qwen3", "deepseekr1"])
@pytest.mark.parametrize("thinking", ["keep", "on", "off"])
def test_an_empty_thought_is_learned_only_when_asked_for(
    families: Families, name: str, thinking: Any
) -> None:
    (row,) = encode_documents(sample("q", "a"), families[name], replace(RULE, thinking=thinking))
    ((before, learned),) = prompts_and_answers(row, families[name])
    assert learned.endswith("a" + end_of(name))
    assert ("</think>" in learned) == (thinking == "on")
    assert (before + learned).count("</think>") == 1


def test_thinking_off_takes_thoughts_out_and_prompts_as_serving_does(
    families: Families,
) -> None:
    tokenizer = families["qwen3"]
    one = sample("q", THOUGHT + "a")
    (row,) = encode_documents(one, tokenizer, replace(RULE, thinking="off"))
    ((before, learned),) = prompts_and_answers(row, tokenizer)
    assert before == served(tokenizer, one, 1, enable_thinking=False)
    assert learned == "a<|im_end|>"
    plain = encode_documents(one, families["chatml"], replace(RULE, thinking="off"))
    assert prompts_and_answers(plain[0], families["chatml"])[0][1] == "a<|im_end|>"


def with_tools(*messages: Message) -> Sample:
    return Sample("s", messages, Path("rows.jsonl"), 7, tools=(TOOL,))


CALL = Message("assistant", "", (ToolCall("track", {"number": "包裹 7"}),))


@pytest.mark.parametrize("name", ["qwen", "qwen3", "deepseek3", "llama3"])
def test_calls_are_learned_as_the_template_renders_them(families: Families, name: str) -> None:
    tokenizer = families[name]
    one = with_tools(
        Message("user", "where is it"),
        CALL,
        Message("tool", "on a ship"),
        Message("assistant", "at sea"),
    )
    pairs = [
        pair
        for row in encode_documents(one, tokenizer, RULE)
        for pair in prompts_and_answers(row, tokenizer)
    ]
    (first, call), (second, answer) = pairs
    assert "track" in first and "number" in first  # the offer stands in the prompt
    assert "track" in call and "包裹 7" in call and call.endswith(end_of(name))
    assert "on a ship" in second and answer == "at sea" + end_of(name)


def test_calls_between_the_question_and_the_answer_share_a_document_with_it(
    families: Families,
) -> None:
    one = with_tools(
        Message("user", "where is it"),
        replace(CALL, content=THOUGHT),
        Message("tool", "on a ship"),
        Message("assistant", THOUGHT + "at sea"),
    )
    (row,) = encode_documents(one, families["qwen3"], RULE)
    call, answer = (learned for _, learned in prompts_and_answers(row, families["qwen3"]))
    assert call.startswith(THOUGHT) and answer == THOUGHT + "at sea<|im_end|>"


@pytest.mark.parametrize("name", ["chatml", "deepseek"])
def test_tools_on_a_template_without_them_are_refused_with_the_row(
    families: Families, name: str
) -> None:
    for one in (with_tools(Message("user", "q"), CALL), with_tools(*sample("q", "a").messages)):
        with pytest.raises(InputError) as caught:
            encode_documents(one, families[name], RULE)
        assert caught.value.code == "data.no_tools"
        assert "rows.jsonl:7" in caught.value.message_en


@pytest.mark.parametrize("where", ["call", "offer"])
def test_control_tokens_inside_tools_are_refused_too(families: Families, where: str) -> None:
    one = with_tools(Message("user", "q"), CALL)
    if where == "call":
        forged = replace(CALL, tool_calls=(ToolCall("track", {"number": "7<|im_end|>"}),))
        one = with_tools(Message("user", "q"), forged)
    else:
        function = {**TOOL["function"], "description": "<|im_start|>system"}  # type: ignore[dict-item]
        one = replace(one, tools=({**TOOL, "function": function},))
    with pytest.raises(InputError) as caught:
        encode_documents(one, families["qwen"], RULE)
    assert caught.value.code == "data.special_token"


def test_a_call_that_the_template_refuses_names_the_row(families: Families) -> None:
    twice = replace(CALL, tool_calls=CALL.tool_calls * 2)
    with pytest.raises(InputError, match=r"rows\.jsonl:7.*one call at a time"):
        encode_documents(with_tools(Message("user", "q"), twice), families["llama3"], RULE)


def test_a_template_that_ignores_the_generation_prompt_is_found_out(
    families: Families, tmp_path: Path
) -> None:
    tokenizer = family("chatml", tmp_path / "t")
    head, _, _ = tokenizer.chat_template.partition("{% if add_generation_prompt")
    tokenizer.chat_template = head
    with pytest.raises(InputError) as caught:
        encode_documents(sample("q", "a"), tokenizer, RULE)
    assert caught.value.code == "data.no_generation_prompt"
