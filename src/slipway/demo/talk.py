"""The demo's own conversation with its model, through the gateway, with the books beside it."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

from slipway.core.errors import ProofError
from slipway.core.i18n import tr
from slipway.demo.context import DemoContext
from slipway.ship.artefacts import Outputs, Results

QUESTIONS = 3
MAX_ANSWER_TOKENS = 160
BOOKING_TIMEOUT_S = 10.0


def talk(context: DemoContext, results: Results) -> Outputs:
    """Ask held-out questions and embed a sentence with the demo's key.

    The usage that the gateway booked for each request is read from its ledger and must equal what
    the engine reported to the client.

    Raises:
        ProofError: the books differ from what the engine counted.
    """
    from slipway.client import GatewayClient, load_profile

    profile = load_profile(context.home)
    model = results["create"]["chat_model"]
    requests: list[dict[str, Any]] = []
    with GatewayClient(profile.url, profile.key) as client:
        for question, messages in _questions(context, results["create"]["system"]):
            stream = client.chat(model, messages, max_tokens=MAX_ANSWER_TOKENS)
            answer = "".join(stream)
            row = _booked(context, stream.request_id)
            usage = stream.usage
            counted = (usage.prompt_tokens, usage.completion_tokens) if usage else None
            if counted != (row["prompt_tokens"], row["completion_tokens"]):
                raise ProofError(
                    "gateway.books_differ",
                    tr(
                        "request {id}: the engine counted {engine}, the gateway booked {booked}",
                        id=stream.request_id,
                        engine=counted,
                        booked=(row["prompt_tokens"], row["completion_tokens"]),
                    ),
                )
            requests.append({**_line(row), "question": question, "answer": answer})
            context.say(tr("asked: {question}", question=question))
            context.say(tr("answer: {answer}", answer=answer.strip()))
        embed = next((n for n in results["create"]["names"] if n.startswith("all-minilm")), None)
        if embed:
            vectors = client.embeddings(embed, [requests[0]["question"]])
            row = _booked(context, None, endpoint="embeddings")
            requests.append({**_line(row), "dimensions": len(vectors[0]), "question": ""})
    sums = ("prompt_tokens", "completion_tokens", "cost_micro")
    return {
        "gateway": {
            **{name: sum(request[name] for request in requests) for name in sums},
            "channel": requests[0]["channel"],
            "model": model,
            "requests": requests,
        }
    }


def _questions(context: DemoContext, system: str) -> list[tuple[str, list[Any]]]:
    """First questions of the held-out split: single-turn rows first, one a topic where rows have
    topics."""
    from slipway.datasets import load_dataset

    found: dict[str, tuple[str, list[Any]]] = {}
    rows = load_dataset(context.data, "heldout")
    for sample in sorted(rows, key=lambda row: sum(m.role == "user" for m in row.messages) > 1):
        question = next(m.content for m in sample.messages if m.role == "user")
        messages = [{"role": "user", "content": question}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        found.setdefault(sample.topic or sample.id, (question, messages))
    return list(found.values())[:QUESTIONS]


def _booked(context: DemoContext, request_id: str | None, endpoint: str = "") -> dict[str, Any]:
    """The gateway's record of a request; it is written just before the answer's last bytes."""
    from slipway.gateway import list_requests, open_store

    deadline = time.monotonic() + BOOKING_TIMEOUT_S
    with closing(open_store(context.home.gateway_db)) as store:
        while time.monotonic() < deadline:
            for row in list_requests(store, limit=20):
                if row["request_id"] == request_id or (
                    request_id is None and row["endpoint"].endswith(endpoint)
                ):
                    return row
            time.sleep(0.05)
    raise ProofError(
        "gateway.not_booked",
        tr("the gateway has no record of request {id}", id=request_id or endpoint),
    )


def _line(row: dict[str, Any]) -> dict[str, Any]:
    names = ("endpoint", "model", "channel", "prompt_tokens", "completion_tokens", "cost_micro")
    return {"id": row["request_id"], **{name: row[name] for name in names}}
