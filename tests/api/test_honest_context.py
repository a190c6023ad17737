"""What does not fit is refused with numbers, or shortened when asked, and then it is said."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api.conftest import RunningDaemon, StartDaemon

from slipway.api.truncation import fit_turns, room_for_prompt
from slipway.core.errors import UsageError
from slipway.store import create_model
from slipway.testing.gguf import write_gguf

SMALL = {"num_ctx": 100, "num_predict": 20}


def talk(*turns: int, question: str = "/dump") -> list[dict[str, str]]:
    """Turns of so many words each, answered by one, and a last question."""
    messages = []
    for number, words in enumerate(turns):
        text = " ".join([f"turn{number}", *["w"] * (words - 1)])
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": "yes"})
    return [*messages, {"role": "user", "content": question}]


def chat(messages: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    return {"model": "shop:q4", "messages": messages, "options": SMALL, "stream": False, **more}


def test_without_being_asked_nothing_is_cut(http: httpx.Client) -> None:
    for path in ("/api/chat", "/v1/chat/completions"):
        answer = http.post(path, json=chat(talk(60, 60)))
        assert answer.status_code == 400
        assert "x-slipway-truncated" not in answer.headers
        assert "125 tokens" in answer.text


def test_the_oldest_turns_go_and_the_answer_says_how_much(http: httpx.Client) -> None:
    answer = http.post("/api/chat", json=chat(talk(40, 40, 20), truncate=True))
    body = answer.json()
    assert body["truncated"] == {"messages": 2, "tokens": 41}
    assert answer.headers["x-slipway-truncated"] == "messages=2, tokens=41"
    assert body["prompt_eval_count"] == 2 + 41 + 21 + 1  # the system text stays


def test_a_stream_says_it_in_its_last_line_and_its_header(http: httpx.Client) -> None:
    answer = http.post("/api/chat", json=chat(talk(60, 60), truncate=True, stream=True))
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[-1]["truncated"] == {"messages": 2, "tokens": 61}
    assert "messages=2" in answer.headers["x-slipway-truncated"]


def test_the_same_on_v1_streamed_and_whole(http: httpx.Client) -> None:
    whole = http.post("/v1/chat/completions", json=chat(talk(60, 60), truncate=True))
    assert whole.json()["truncated"] == {"messages": 2, "tokens": 61}
    streamed = http.post(
        "/v1/chat/completions", json=chat(talk(60, 60), truncate=True, stream=True)
    )
    chunks = [json.loads(x[6:]) for x in streamed.text.split("\n\n") if x.startswith("data: {")]
    assert chunks[-1]["truncated"] == {"messages": 2, "tokens": 61}


def test_a_last_turn_that_does_not_fit_alone_is_refused_with_numbers(http: httpx.Client) -> None:
    answer = http.post("/api/chat", json=chat(talk(5, question="w " * 150), truncate=True))
    assert answer.status_code == 400
    assert "152 tokens" in answer.json()["error"]
    assert "room for 80" in answer.json()["error"]


def test_a_prompt_of_generate_keeps_its_beginning_and_its_end(http: httpx.Client) -> None:
    words = " ".join(f"w{i}" for i in range(200))
    body = {"model": "shop:q4", "prompt": words, "options": SMALL, "stream": False}
    assert http.post("/api/generate", json=body).status_code == 400
    answer = http.post("/api/generate", json={**body, "truncate": True}).json()
    assert answer["response"].split()[:7] == ["echo:", "w0", "w1", "w2", "w3", "w126", "w127"]
    assert answer["truncated"] == {"messages": 0, "tokens": 122}
    raw = http.post("/api/generate", json={**body, "truncate": True, "raw": True}).json()
    assert raw["response"].split()[:7] == ["echo:", "w0", "w1", "w2", "w3", "w125", "w126"]
    assert raw["truncated"]["tokens"] == 121


def test_truncations_are_counted(http: httpx.Client) -> None:
    http.post("/api/chat", json=chat(talk(60, 60), truncate=True))
    assert 'slipway_truncations_total{model="shop:q4"} 1.0' in http.get("/metrics").text


def test_a_continued_context_is_the_tokens_of_all_that_was_said(http: httpx.Client) -> None:
    body = {"model": "shop:q4", "prompt": "my name is Ada", "stream": False}
    first = http.post("/api/generate", json=body).json()
    assert len(first["context"]) == 2 + 4 + 5  # system, prompt, answer
    more = {**body, "prompt": "who am I", "context": first["context"]}
    second = http.post("/api/generate", json=more).json()
    assert second["response"].startswith("echo: Be short. my name is Ada echo: my name is Ada who")
    assert second["context"][: len(first["context"])] == first["context"]
    assert "context" not in http.post("/api/generate", json={**body, "raw": True}).json()


def test_only_rendering_shows_the_prompt_and_generates_nothing(http: httpx.Client) -> None:
    body = chat(talk(3, question="hello"), _debug_render_only=True)
    answer = http.post("/api/chat", json=body).json()
    assert answer["_debug_info"] == {"rendered_template": "Be short.\nturn0 w w\nyes\nhello"}
    assert "message" not in answer


def test_a_suffix_asks_for_what_is_between(start_daemon: StartDaemon, shop: str) -> None:
    daemon = start_daemon("--fim")
    body = {"model": "shop:q4", "prompt": "a", "suffix": "b", "stream": False}
    with daemon.client() as http:
        assert http.post("/api/generate", json=body).json()["response"] == "echo: a ... b"


def test_images_for_a_model_without_a_projector_are_refused(http: httpx.Client) -> None:
    message = {"role": "user", "content": "what is this", "images": ["aGVsbG8="]}
    answer = http.post("/api/chat", json=chat([message]))  # type: ignore[list-item]
    assert answer.status_code == 400
    assert "does not support vision" in answer.json()["error"]


def test_a_model_says_itself_how_many_requests_it_serves_at_once(
    daemon: RunningDaemon, tmp_path: Any
) -> None:
    gguf = write_gguf(tmp_path / "one.gguf")
    create_model("one", f"FROM {gguf}\nPARAMETER num_parallel 1", home=daemon.home)
    with daemon.client() as http:
        http.post("/api/generate", json={"model": "one"})
    assert [resident.spec.slots for resident in daemon.residents()] == [1]


messages = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.integers(1, 40)),
    min_size=1,
    max_size=12,
)


@given(messages, st.integers(1, 120))
def test_what_is_kept_fits_is_the_end_and_as_much_as_can_be(
    drawn: list[tuple[str, int]], limit: int
) -> None:
    talk = [{"role": role, "content": "w " * words} for role, words in drawn]

    async def count(some: list[dict[str, Any]]) -> int:
        return sum(len(message["content"].split()) for message in some)

    try:
        kept, cut = asyncio.run(fit_turns(talk, count, limit))
    except UsageError:
        return
    total = asyncio.run(count(kept))
    assert total <= limit
    assert cut.messages == len(talk) - len(kept)
    assert cut.tokens == asyncio.run(count(talk)) - total
    lead = 0
    while lead < len(kept) and kept[lead]["role"] == "system":
        lead += 1
    assert kept[lead:] == talk[len(talk) - len(kept) + lead :]
    assert kept[-1] is talk[-1]


@pytest.mark.parametrize(("predict", "room"), [(20, 80), (90, 50), (-1, 88), (1, 99)])
def test_an_answer_still_fits_after_a_shortened_prompt(predict: int, room: int) -> None:
    assert room_for_prompt(100, predict) == room
