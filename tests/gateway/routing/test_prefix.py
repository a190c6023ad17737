from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.gateway.routing.prefix import PREFIX_BYTES, prefix_hash

SYSTEM = {"role": "system", "content": "You are terse."}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def chat(*messages: Any, **more: Any) -> int | None:
    return prefix_hash({"messages": list(messages), **more})


def test_the_turns_of_a_conversation_have_one_hash_and_two_conversations_have_two() -> None:
    first = chat(SYSTEM, user("hello"))
    later = chat(SYSTEM, user("hello"), {"role": "assistant", "content": "hi"}, user("more"))
    assert first is not None and first == later
    assert first != chat(SYSTEM, user("good day"))
    assert first != chat(user("hello"))


def test_sampling_settings_do_not_matter_but_tools_and_salt_do() -> None:
    plain = chat(SYSTEM, user("hello"))
    assert plain == chat(SYSTEM, user("hello"), temperature=1, stream=True)
    tool = {"type": "function", "function": {"name": "look_up", "description": "x"}}
    assert plain != chat(SYSTEM, user("hello"), tools=[tool])
    body = {"messages": [SYSTEM, user("hello")]}
    assert plain != prefix_hash(body, salt=b"model")


def test_a_system_prompt_that_fills_the_bound_keeps_all_its_conversations_together() -> None:
    long = {"role": "system", "content": "x" * PREFIX_BYTES}
    assert chat(long, user("a")) == chat(long, user("b"))
    assert prefix_hash({"messages": [long, user("a")]}, 2 * PREFIX_BYTES) != prefix_hash(
        {"messages": [long, user("b")]}, 2 * PREFIX_BYTES
    )


def test_pieces_do_not_run_into_each_other() -> None:
    assert chat(user("ab"), SYSTEM) != chat({"role": "usera", "content": "b"}, SYSTEM)


def test_parts_of_a_message_count_pictures_too() -> None:
    def picture(url: str) -> dict[str, Any]:
        parts = [
            {"type": "text", "text": "what is it"},
            {"type": "image_url", "image_url": {"url": url}},
        ]
        return {"role": "user", "content": parts}

    assert chat(picture("data:1")) == chat(picture("data:1"))
    assert chat(picture("data:1")) != chat(picture("data:2"))


def test_other_bodies_have_their_hash_as_well() -> None:
    anthropic = {"system": [{"type": "text", "text": "s"}], "messages": [user("a")]}
    assert prefix_hash(anthropic) != prefix_hash({**anthropic, "system": "t"})
    assert prefix_hash({"instructions": "s", "input": "a"}) is not None
    assert prefix_hash({"input": [user("a")]}) == chat(user("a"))
    start = "once upon a time " * 100
    assert prefix_hash({"prompt": start + "a"}) == prefix_hash({"prompt": start + "b"})


@pytest.mark.parametrize("body", [{}, {"messages": []}, {"prompt": ""}, {"messages": [3]}])
def test_a_body_without_a_prompt_has_no_hash(body: dict[str, Any]) -> None:
    assert prefix_hash(body) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "text", "type", "image_url"]), inner)
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from(["messages", "tools", "system", "input", "prompt", "instructions"]), JSON
    )
)
def test_an_odd_body_is_taken_as_it_comes(body: dict[str, Any]) -> None:
    found = prefix_hash(body)
    assert found == prefix_hash(body)
    assert found is None or 0 <= found < 1 << 64
