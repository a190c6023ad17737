"""Talking to a worker: llama-server's HTTP protocol as typed events.

Generation always streams from the worker, whether or not the client wants a stream: closing the
connection is then what cancels it, in one way.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
import orjson

from slipway.core.errors import ResourceError, SlipwayError, ToolError, UsageError
from slipway.core.i18n import tr
from slipway.engine.table import Lease, WorkerLostError
from slipway.engine.worker import Worker

FinishReason = Literal["stop", "length", "tool_calls"]

_SLOTS_S = 0.5
_SILENCE_S = 600.0  # llama-server sends a comment every 30 s while it works


@dataclass(slots=True)
class Delta:
    """A piece of the answer: text, reasoning, pieces of tool calls, log-probabilities."""

    text: str = ""
    thinking: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of an answer, with the engine's own counts and times.

    Attributes:
        prompt_tokens: tokens of the rendered prompt, those reused from the cache included.
        cached_tokens: of these, taken from the cache.
        completion_tokens: tokens generated.
        prompt_s, completion_s: seconds the engine spent on each.
    """

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    prompt_s: float = 0.0
    completion_s: float = 0.0


Event = Delta | Finish


class EngineClient:
    """Requests to workers over one pooled session."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def chat(self, lease: Lease, payload: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        """Render messages with the model's own template and answer; deltas, then one `Finish`.

        Args:
            payload: messages, tools, sampling options as llama-server's /v1/chat/completions.

        Raises:
            UsageError: the request is bad, or does not fit the context (before any delta).
            WorkerLostError: the worker died or broke the connection.
        """
        body = {**payload, "stream": True, "stream_options": {"include_usage": True}}
        reason: FinishReason = "stop"
        async with aclosing(self._stream(lease, "/v1/chat/completions", body)) as stream:
            async for data in stream:
                for choice in data.get("choices", []):
                    reason = choice.get("finish_reason") or reason
                    delta = _chat_delta(choice)
                    if delta is not None:
                        yield delta
                if "usage" in data:
                    yield _chat_finish(reason, data)
                    return
        raise _lost()

    async def complete(
        self, lease: Lease, payload: Mapping[str, Any]
    ) -> AsyncGenerator[Event, None]:
        """Continue a raw prompt (a string or token ids); deltas, then one `Finish`.

        With `input_suffix` in the payload it fills the gap between `input_prefix` and that.
        """
        body = {**payload, "stream": True}
        path = "/infill" if "input_suffix" in payload else "/completion"
        async with aclosing(self._stream(lease, path, body)) as stream:
            async for data in stream:
                if data.get("content"):
                    yield Delta(data["content"], logprobs=data.get("completion_probabilities", []))
                if data.get("stop"):
                    yield _raw_finish(data)
                    return
        raise _lost()

    async def embed(
        self, lease: Lease, inputs: list[str] | list[list[int]]
    ) -> tuple[list[list[float]], int]:
        """Unit-length embeddings of the inputs, in order, and the number of tokens read."""
        answer = await self._post(lease, "/v1/embeddings", {"input": inputs})
        rows = sorted(answer["data"], key=lambda row: row["index"])
        return [row["embedding"] for row in rows], answer["usage"]["prompt_tokens"]

    async def rerank(
        self, lease: Lease, query: str, documents: list[str]
    ) -> tuple[list[float], int]:
        """How well each document answers the query, as the model scores it, and the tokens read."""
        body = {"query": query, "documents": documents}
        answer = await self._post(lease, "/v1/rerank", body)
        scores = {row["index"]: float(row["relevance_score"]) for row in answer["results"]}
        tokens = answer["usage"]["prompt_tokens"]
        return [scores[index] for index in range(len(documents))], tokens

    async def tokenize(
        self,
        lease: Lease,
        text: str,
        *,
        special: bool = True,
        parse_special: bool = True,
        pieces: bool = False,
    ) -> list[Any]:
        """Token ids of a text.

        Args:
            special: with the special tokens at its ends.
            parse_special: texts of special tokens within it are read as such.
            pieces: objects {"id", "piece"} instead of ids.
        """
        body = {"content": text, "add_special": special, "parse_special": parse_special}
        answer = await self._post(lease, "/tokenize", {**body, "with_pieces": pieces})
        return list(answer["tokens"])

    async def detokenize(self, lease: Lease, tokens: list[int]) -> str:
        """The text of token ids."""
        answer = await self._post(lease, "/detokenize", {"tokens": tokens})
        return str(answer["content"])

    async def render(self, lease: Lease, payload: Mapping[str, Any]) -> str:
        """The prompt that a chat payload becomes, by the template that `chat` uses."""
        answer = await self._post(lease, "/apply-template", payload)
        return str(answer["prompt"])

    async def count_chat(self, lease: Lease, payload: Mapping[str, Any]) -> int:
        """Tokens of the prompt that a chat payload becomes."""
        return len(await self.tokenize(lease, await self.render(lease, payload)))

    async def cache_tokens(self, worker: Worker) -> int:
        """Tokens whose keys and values a worker holds, of running and of earlier requests.

        Raises:
            aiohttp.ClientError, TimeoutError: it does not answer at once.
        """
        async with self.session.get(
            f"{worker.base_url}/slots",
            headers={"Authorization": f"Bearer {worker.key}"},
            timeout=aiohttp.ClientTimeout(total=_SLOTS_S),
        ) as answer:
            slots = orjson.loads(await answer.read()) if answer.status == 200 else []
        return sum(_slot_tokens(slot) for slot in slots)

    async def _post(self, lease: Lease, path: str, body: Mapping[str, Any]) -> Any:
        try:
            async with self._request(lease, path, body) as answer:
                data = await answer.read()
                if answer.status != 200:
                    raise _refused(answer.status, data)
                return orjson.loads(data)
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as error:
            raise _lost(error) from error

    async def _stream(
        self, lease: Lease, path: str, body: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The JSON objects of a server-sent event stream; lines may have any length."""
        try:
            async with self._request(lease, path, body) as answer:
                if answer.status != 200:
                    raise _refused(answer.status, await answer.read())
                rest = b""
                async for block in answer.content.iter_any():
                    *lines, rest = (rest + block).split(b"\n")
                    for line in lines:
                        data = _event(line)
                        if data is not None:
                            yield data
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as error:
            raise _lost(error) from error

    def _request(self, lease: Lease, path: str, body: Mapping[str, Any]) -> Any:
        return self.session.post(
            lease.worker.base_url + path,
            data=orjson.dumps(body),
            headers={
                "Content-Type": "application/json",
                "Authorization": f"Bearer {lease.worker.key}",
            },
            timeout=aiohttp.ClientTimeout(total=None, sock_read=_SILENCE_S),
        )


def _slot_tokens(slot: Mapping[str, Any]) -> int:
    new = slot.get("next_token") or [{}]
    decoded = (new[0] if isinstance(new, list) else new).get("n_decoded", 0)
    return int(slot.get("n_prompt_tokens", 0)) + int(decoded)


def _event(line: bytes) -> dict[str, Any] | None:
    """The object of one line; None for blank lines, comments and the end mark."""
    field_name, _, value = line.partition(b":")
    value = value.strip()
    if field_name not in (b"data", b"error") or value == b"[DONE]":
        return None
    data = orjson.loads(value)
    if not isinstance(data, dict):
        return None
    problem = data.get("error") or (data if field_name == b"error" else None)
    if problem:
        raise _engine_error(500, problem if isinstance(problem, dict) else {"message": problem})
    return data


def _chat_delta(choice: dict[str, Any]) -> Delta | None:
    delta = choice.get("delta") or {}
    logprobs = (choice.get("logprobs") or {}).get("content") or []
    text, thinking = delta.get("content") or "", delta.get("reasoning_content") or ""
    calls = delta.get("tool_calls") or []
    if not (text or thinking or calls or logprobs):
        return None
    return Delta(text, thinking, calls, logprobs)


def _chat_finish(reason: FinishReason, data: dict[str, Any]) -> Finish:
    usage, timings = data["usage"], data.get("timings", {})
    return Finish(
        reason,
        usage["prompt_tokens"],
        usage["completion_tokens"],
        (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        timings.get("prompt_ms", 0.0) / 1e3,
        timings.get("predicted_ms", 0.0) / 1e3,
    )


def _raw_finish(data: dict[str, Any]) -> Finish:
    timings = data.get("timings", {})
    return Finish(
        "length" if data.get("stop_type") == "limit" else "stop",
        data["tokens_evaluated"],
        data["tokens_predicted"],
        timings.get("cache_n", 0),
        timings.get("prompt_ms", 0.0) / 1e3,
        timings.get("predicted_ms", 0.0) / 1e3,
    )


def _refused(status: int, data: bytes) -> SlipwayError:
    try:
        problem = orjson.loads(data)["error"]
    except (ValueError, KeyError, TypeError):
        problem = {"message": data[:200].decode("utf-8", "replace")}
    return _engine_error(status, problem)


def _engine_error(status: int, problem: dict[str, Any]) -> SlipwayError:
    """The engine's refusal in our words."""
    message = str(problem.get("message", "unknown"))
    if problem.get("type") == "exceed_context_size_error":
        return UsageError(
            "engine.context_overflow",
            tr(
                "the prompt has {tokens} tokens, but the context holds {limit}; nothing was cut",
                tokens=problem.get("n_prompt_tokens", "too many"),
                limit=problem.get("n_ctx", "fewer"),
            ),
            tr("shorten the messages, or ask for more context with the option `num_ctx`"),
        )
    if "input is too large" in message or "too large to process" in message:
        return UsageError(
            "engine.context_overflow",
            tr("the input length exceeds the context length ({reason})", reason=message),
        )
    if status == 503:
        busy = ResourceError("engine.busy", tr("the engine is busy: {reason}", reason=message))
        busy.http_status = 503
        return busy
    if 400 <= status < 500 or status == 501:
        return UsageError("engine.refused", tr("the engine refused: {reason}", reason=message))
    return ToolError("engine.failed", tr("the engine failed: {reason}", reason=message))


def _lost(error: Exception | None = None) -> WorkerLostError:
    lost = WorkerLostError(
        "engine.lost",
        tr("the engine stopped while it was answering"),
        tr("send the request again: a new engine starts by itself"),
    )
    # Nothing was sent when the connection was refused, so the request can go to another worker.
    lost.unsent = isinstance(error, aiohttp.ClientConnectorError)
    return lost
