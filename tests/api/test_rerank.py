"""POST /v1/rerank, with a reranker and with a model that only embeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from slipway.core.paths import Home
from slipway.store import create_model
from slipway.testing.gguf import write_gguf

DOCUMENTS = ["where is my parcel", "the parcel is where it was", "cats"]


@pytest.fixture
def reranker(home: Home, tmp_path: Path) -> str:
    gguf = write_gguf(
        tmp_path / "rank.gguf",
        architecture="bert",
        extra={"bert.pooling_type": 4, "tokenizer.chat_template": None},
    )
    create_model("rank", f"FROM {gguf}", home=home)
    return "rank"


def test_documents_come_by_falling_score_with_their_places(
    http: httpx.Client, reranker: str
) -> None:
    body: dict[str, Any] = {"model": reranker, "query": "parcel is", "documents": DOCUMENTS}
    answer = http.post("/v1/rerank", json=body).json()
    assert answer["method"] == "rank"
    assert [row["index"] for row in answer["results"]] == [0, 1, 2]
    assert [row["relevance_score"] for row in answer["results"]] == [2.0, 2.0, 0.0]
    assert answer["usage"]["total_tokens"] > 0
    some = http.post("/rerank", json={**body, "top_n": 1, "return_documents": True}).json()
    assert some["results"] == [
        {"index": 0, "relevance_score": 2.0, "document": {"text": DOCUMENTS[0]}}
    ]


def test_objects_with_a_text_are_documents_too(http: httpx.Client, reranker: str) -> None:
    body = {"model": reranker, "query": "cats", "documents": [{"text": "dogs"}, {"text": "cats"}]}
    assert http.post("/v1/rerank", json=body).json()["results"][0]["index"] == 1


def test_a_model_that_only_embeds_ranks_by_cosine(http: httpx.Client, embedder: str) -> None:
    body = {"model": embedder, "query": "cats", "documents": ["dogs", "cats"]}
    answer = http.post("/v1/rerank", json=body).json()
    assert answer["method"] == "cosine"
    assert answer["results"][0]["index"] == 1
    assert answer["results"][0]["relevance_score"] == pytest.approx(1.0)


def test_a_reranker_is_shown_as_one_and_does_not_embed(http: httpx.Client, reranker: str) -> None:
    shown = http.post("/api/show", json={"model": reranker}).json()
    assert shown["capabilities"] == ["rerank"]
    for path in ("/v1/embeddings", "/api/embed"):
        answer = http.post(path, json={"model": reranker, "input": "x"})
        assert answer.status_code == 400
        assert "does not support embeddings" in answer.text


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"query": ""}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": ["a", ""]}, "documents.1"),
        ({"documents": ["a", {"title": "x"}]}, "documents.1"),
        ({"documents": ["a"] * 2049}, "2049"),
        ({"top_n": 0}, "top_n"),
    ],
)
def test_what_cannot_be_ranked_is_named(
    http: httpx.Client, reranker: str, more: dict[str, Any], names: str
) -> None:
    body = {"model": reranker, "query": "q", "documents": ["a"], **more}
    answer = http.post("/v1/rerank", json=body)
    assert answer.status_code == 400
    assert names in answer.json()["error"]["message"]
