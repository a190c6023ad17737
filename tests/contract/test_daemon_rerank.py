"""/v1/rerank with a real reranker: the engine's scores are those of transformers."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import torch
from tests.contract.test_daemon_real import tools as tools
from tests.export.conftest import shared_tools as shared_tools
from tests.export.model_zoo import xlm_reranker

from slipway.api import build_app
from slipway.core.paths import Home
from slipway.engine.settings import EngineSettings
from slipway.export import convert_to_gguf
from slipway.export.toolchain import Toolchain
from slipway.store import create_model
from slipway.testing.asgi_server import AsgiServer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning:transformers")]

QUERY = "where is my parcel"
DOCUMENTS = ["the parcel was sent on monday", "cats and dogs", "where is it"]


def test_scores_are_those_of_transformers(home: Home, tmp_path: Path, tools: Toolchain) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = xlm_reranker(tmp_path / "rank")
    convert_to_gguf(folder, tmp_path / "gguf", outtype="f32", home=home)
    create_model("rank", f"FROM {tmp_path / 'gguf' / 'model.gguf'}", home=home)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = tokenizer([QUERY] * 3, DOCUMENTS, return_tensors="pt", padding=True)
    with torch.inference_mode():
        wanted = model(**pairs).logits[:, 0].tolist()
    with AsgiServer(build_app(home, EngineSettings(engine="native"))) as server:
        body = {"model": "rank", "query": QUERY, "documents": DOCUMENTS}
        answer = httpx.post(f"{server.url}/v1/rerank", json=body, timeout=60).json()
    assert answer["method"] == "rank"
    found = {row["index"]: row["relevance_score"] for row in answer["results"]}
    assert [found[i] for i in range(3)] == pytest.approx(wanted, abs=2e-3)
