"""`langchain-ollama` and `llama-index-llms-ollama`, unmodified, against the daemon."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.ollama import Ollama
from pydantic import BaseModel
from tests.api.conftest import RunningDaemon, StartDaemon
from tests.api.conftest import embedder as embedder
from tests.api.conftest import start_daemon as start_daemon

from slipway.store import create_model
from slipway.testing.gguf import CHATML, write_gguf

pytestmark = [
    # the frameworks leave their HTTP clients to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Their sockets go while it is still known whose they are."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


class Parcel(BaseModel):
    """Where a parcel is."""

    place: str


@tool
def find(n: int) -> str:
    """Find parcel n."""
    return f"parcel {n}"


@pytest.fixture
def daemon(start_daemon: StartDaemon, tmp_path: Path) -> RunningDaemon:
    running = start_daemon()
    able = CHATML + "{# tools <think></think> #}"
    gguf = write_gguf(tmp_path / "able.gguf", extra={"tokenizer.chat_template": able})
    create_model("able", f"FROM {gguf}", home=running.home)
    return running


@pytest.fixture
def chain(daemon: RunningDaemon) -> ChatOllama:
    return ChatOllama(model="able", base_url=daemon.url, temperature=0, validate_model_on_init=True)


def test_langchain_asks_and_streams(chain: ChatOllama) -> None:
    answer = chain.invoke([SystemMessage("Be brief."), HumanMessage("hello there")])
    assert answer.content == "echo: hello there"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 3
    assert answer.response_metadata["done_reason"] == "stop"
    assert "".join(str(piece.content) for piece in chain.stream("a b c")) == "echo: a b c"

    async def in_async() -> str:
        return "".join([str(piece.content) async for piece in chain.astream("a b")])

    assert asyncio.run(in_async()) == "echo: a b"


def test_langchain_calls_tools_and_hands_results_back(chain: ChatOllama) -> None:
    able = chain.bind_tools([find])
    question = HumanMessage('/tool find {"n": 7}')
    answer = able.invoke([question])
    (call,) = answer.tool_calls  # type: ignore[attr-defined]
    assert (call["name"], call["args"]) == ("find", {"n": 7})
    result = ToolMessage(find.invoke(call["args"]), tool_call_id=call["id"])
    after = able.invoke([question, answer, result, HumanMessage("thanks")])
    assert after.content == "echo: thanks"


def test_langchain_reads_structured_answers_and_thoughts(
    chain: ChatOllama, daemon: RunningDaemon
) -> None:
    structured = chain.with_structured_output(Parcel, method="json_schema")
    assert structured.invoke('/call {"place":"door"}') == Parcel(place="door")
    thinker = ChatOllama(model="able", base_url=daemon.url, reasoning=True)
    answer = thinker.invoke("/think")
    assert answer.additional_kwargs["reasoning_content"] == "let me see"


def test_langchain_completes_embeds_and_errs(daemon: RunningDaemon, embedder: str) -> None:
    assert OllamaLLM(model="able", base_url=daemon.url).invoke("one two") == "echo: one two"
    vectors = OllamaEmbeddings(model=embedder, base_url=daemon.url).embed_documents(["a b", "c"])
    assert len(vectors) == 2 and sum(x * x for x in vectors[0]) == pytest.approx(1.0)
    with pytest.raises(ollama.ResponseError) as caught:
        ChatOllama(model="nope", base_url=daemon.url).invoke("x")
    assert caught.value.status_code == 404


@pytest.fixture
def index(daemon: RunningDaemon) -> Iterator[Ollama]:
    yield Ollama(model="able", base_url=daemon.url, request_timeout=30, context_window=2048)


def test_llama_index_asks_and_streams(index: Ollama) -> None:
    answer = index.chat([ChatMessage(role="user", content="hello there")])
    assert answer.message.content == "echo: hello there"
    assert answer.raw is not None and answer.raw["usage"]["completion_tokens"] == 3
    pieces = list(index.stream_chat([ChatMessage(role="user", content="a b")]))
    assert pieces[-1].message.content == "echo: a b"
    assert "".join(piece.delta or "" for piece in pieces) == "echo: a b"
    assert index.complete("one two").text == "echo: one two"

    async def in_async() -> str:
        return str((await index.achat([ChatMessage(role="user", content="x")])).message.content)

    assert asyncio.run(in_async()) == "echo: x"


def test_llama_index_calls_tools(index: Ollama) -> None:
    made = FunctionTool.from_defaults(fn=lambda n: f"parcel {n}", name="find", description="find")
    answer = index.chat_with_tools([made], user_msg='/tool find {"n": 7}')
    (call,) = index.get_tool_calls_from_response(answer)
    assert (call.tool_name, call.tool_kwargs) == ("find", {"n": 7})


def test_llama_index_reads_structured_answers_and_errs(
    index: Ollama, daemon: RunningDaemon
) -> None:
    answer = index.as_structured_llm(Parcel).complete('/call {"place":"door"}')
    assert Parcel.model_validate_json(answer.text) == Parcel(place="door")
    with pytest.raises(ollama.ResponseError):
        Ollama(model="nope", base_url=daemon.url).complete("x")
