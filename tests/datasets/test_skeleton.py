"""The fast way of rendering is held to the slow and obvious one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.datasets.chat_templates import FAMILIES, family
from tests.datasets.rows_for_tests import sample

from slipway.core.errors import InputError
from slipway.datasets import EncodeRule, render
from slipway.datasets.render import Renderer
from slipway.testing.tiny import CHATML


@pytest.fixture(scope="module", params=FAMILIES)
def renderer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    name = str(request.param)
    return Renderer(family(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison that the renderer itself makes would hide a difference from these tests."""
    monkeypatch.setattr(render, "_CHECKED_FIRST", 0)
    monkeypatch.setattr(render, "_CHECKED_EVERY", 1 << 40)


words = st.text(st.sampled_from("ab \n<>/你{}%'\""), max_size=8)
texts = st.one_of(
    words.map(lambda text: "x" + text),
    st.sampled_from([" ", "\n a \n", "</think>", "<think>\nt\n</think>\n\na", "a</think>b"]),
    st.sampled_from(["<tool_response>\n1\n</tool_response>", "think>", "<think>", "a\n", " a"]),
    words,
)
conversations = st.integers(1, 3).flatmap(lambda n: st.lists(texts, min_size=2 * n, max_size=2 * n))
rules = st.builds(
    EncodeRule,
    st.just(999),
    train_on_prompt=st.booleans(),
    mask_history=st.booleans(),
    thinking=st.sampled_from(["keep", "on", "off"]),
    system=st.sampled_from([None, "be brief"]),
)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(said=conversations, system=st.sampled_from(["", "你 \n"]), rule=rules)
def test_both_ways_give_the_same_documents_or_the_same_error(
    renderer: Renderer, said: list[str], system: str, rule: EncodeRule
) -> None:
    one = sample(*said, system=system)
    messages = one.messages
    if rule.system and not system:
        messages = sample(*said, system=rule.system).messages
    try:
        slow = renderer.slowly(one, messages, rule, rule.mask_history)
    except InputError as error:
        with pytest.raises(InputError, match=r".*") as caught:
            renderer.documents(one, rule)
        assert caught.value.message_en == error.message_en
    else:
        assert renderer.documents(one, rule) == slow


def test_every_family_takes_the_fast_way(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = renderer.documents(sample("q", "a", "r", "b"), EncodeRule(99))
    monkeypatch.setattr(Renderer, "slowly", None)  # from here on it would be an error to call it
    again = renderer.documents(sample("q", "a", "r", "b"), EncodeRule(99))
    assert again == first
    other = renderer.documents(sample("who", "me", "why", "so"), EncodeRule(99))
    assert [document.text for document in other] != [document.text for document in first]


@pytest.mark.parametrize(
    "expression",
    [
        "m['content'] | upper",
        "m['content'] | tojson",
        "m['content'] | replace('a', 'b')",
        "m['content'][0] + m['content']",
        "m['content'][1:] + m['content'][:1]",
        "'%s' % m['content']",
        "'%s' % (m['content'],)",
        "'{}'.format(m['content'])",
        "[m['content'], 'x'] | join('-')",
        "m['content'] * 2",
        "m['content'].split('a')[-1] + m['content']",
        "(m['content'] ~ ' ') | trim",
        "(m['content'] + ' ').strip()",
        "m['content'] + ('!' if m['content'] | length > 3 else '?')",
        "m['content'] + ('!' if m['content'] in ['abc', 'x'] else '?')",
        "m['content'] + ('!' if m['content'] == 'abc' else '?')",
        "m['content'] + ('!' if 'b' in m['content'] else '?')",
        "m['content'] + ('!' if m['content'].startswith('x') else '?')",
        "m['content'] + ('!' if m['content'] < 'b' else '?')",
        "m['content'] + ('!' if messages[0]['content'] == m['content'] else '?')",
        "m['content'] + ('!' if {'abc': 1}[m['content']] else '?')",
        "m['content'] | trim | trim",
        "m['content'].strip().upper()",
        "m['content'] | first + m['content']",
        "(m['content'] | list)[0] + m['content']",
        "m['content'] | string | trim",
        "m['content'] if m['content'] else 'nothing'",
    ],
)
def test_whatever_a_template_does_with_a_text_both_ways_agree(
    tmp_path: Path, expression: str
) -> None:
    tokenizer = family("chatml", tmp_path / "t")
    user = f"{{{{ {expression} if m['role'] == 'user' else m['content'] }}}}"
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        + user
        + "{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    renderer = Renderer(tokenizer)
    for question in ("abc", "x", " edge ", 'quote "', "b%sc{}", "aaaaaa", "abc"):
        one = sample(question, "yes")
        try:
            slow: Any = renderer.slowly(one, one.messages, EncodeRule(99), False)
        except InputError as error:
            slow = error.message_en
        try:
            fast: Any = renderer.documents(one, EncodeRule(99))
        except InputError as error:
            fast = error.message_en
        assert fast == slow


def test_blocks_and_macros_keep_what_they_hold(tmp_path: Path) -> None:
    tokenizer = family("chatml", tmp_path / "t")
    tokenizer.chat_template = (
        "{% macro turn(m) %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content }}<|im_end|>\n"
        "{% endmacro %}"
        "{% for m in messages %}{% set text %}{{ turn(m) }}{% endset %}{{ text | trim }}\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    renderer = Renderer(tokenizer)
    for question in ("q", "another"):
        one = sample(question, "a")
        slow = renderer.slowly(one, one.messages, EncodeRule(99), False)
        assert renderer.documents(one, EncodeRule(99)) == slow


def test_a_skeleton_that_is_found_wrong_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "_CHECKED_FIRST", 2)
    tokenizer = family("chatml", tmp_path / "t")
    # a literal text looks into a content without asking it: the one way that stays unseen
    tokenizer.chat_template = CHATML.replace(
        "message['content'] +",
        "message['content'] + ('!' if message['content'] in 'abc' else '') +",
    )
    renderer = Renderer(tokenizer)
    one = sample("abc", "yes")
    for _ in range(2):
        slow = renderer.slowly(one, one.messages, EncodeRule(99), False)
        assert renderer.documents(one, EncodeRule(99)) == slow
