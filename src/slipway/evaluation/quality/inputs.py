"""Check what a plan names, and write the text that perplexity and KLD are measured on."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError, NotFoundError, UsageError
from slipway.core.i18n import tr
from slipway.datasets import Sample, dataset_digest
from slipway.evaluation.quality.model import REFERENCE, QualityPlan
from slipway.export.eval_inputs import Gguf, heldout_rows, known_gguf, spread
from slipway.export.measure import TextSpec
from slipway.export.parts import Parts
from slipway.export.server import served
from slipway.export.toolchain import Toolchain, require_toolchain

_MIN_CONTEXT = 64
_MIN_SCORED = 100  # tokens below which llama-perplexity reports no KLD


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything checked and at hand.

    Attributes:
        samples: rows that every level answers; none without held-out data.
        text, text_digest: what perplexity and KLD are measured on.
        vocabulary: tokens of the reference.
        dataset_digest: of the held-out data; empty without.
    """

    toolchain: Toolchain
    reference: Gguf
    levels: dict[str, Gguf]
    samples: list[Sample]
    text: TextSpec
    text_digest: str
    vocabulary: int
    dataset_digest: str

    def logits_bytes(self) -> int:
        """Size of the reference logits: 2 bytes for each scored token and word."""
        return self.text.chunks * self.text.context // 2 * (self.vocabulary + 8) * 2

    def settings(self, plan: QualityPlan) -> dict[str, Any]:
        """What was used, for the card."""
        return {
            "text_file": plan.text.name if plan.text else "",
            "text_digest": f"sha256:{self.text_digest}",
            "dataset": self.dataset_digest,
            "context": self.text.context,
            "chunks": self.text.chunks,
            "text_tokens": self.text.context * self.text.chunks,
            "scored_tokens": self.text.chunks * (self.text.context // 2 - 1),
            "answer_rows": len(self.samples),
            "max_new_tokens": plan.max_new_tokens,
            "prompts": list(plan.prompts),
            "depths": list(plan.depths),
            "seed": plan.seed,
        }


def gather(plan: QualityPlan, work: Path, parts: Parts) -> Inputs:
    """Check and read everything; errors as in `measure_quality`."""
    if plan.text is None and plan.heldout is None:
        raise UsageError(
            "quality.no_text",
            tr("quality is measured on a text or on rows, and neither is given"),
            tr("give held-out rows with `--data DATASET`, or a text with `--text FILE`"),
        )
    if REFERENCE in plan.models:
        raise UsageError(
            "quality.reserved_name", tr("no level can be named `{name}`", name=REFERENCE)
        )
    toolchain = require_toolchain(plan.home)
    samples = heldout_rows(plan.heldout) if plan.heldout else []
    reference = known_gguf(plan.reference)
    levels = {name: known_gguf(path) for name, path in plan.models.items()}
    text = _text(plan.text, samples)
    path = work / "text.txt"
    path.write_text(text, encoding="utf-8")
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    counted = parts.get(
        "text", [reference.digest, digest], lambda: _count(toolchain, reference.path, text)
    )
    return Inputs(
        toolchain=toolchain,
        reference=reference,
        levels=levels,
        samples=spread(samples, plan.rows) if samples else [],
        text=_cut(path, counted["tokens"], plan),
        text_digest=digest,
        vocabulary=counted["vocabulary"],
        dataset_digest=dataset_digest(plan.heldout) if plan.heldout else "",
    )


def _text(file: Path | None, samples: list[Sample]) -> str:
    pieces = []
    if file is not None:
        if not file.is_file():
            raise NotFoundError(
                "file.not_found",
                tr("{path} does not exist", path=str(file)),
                tr("name a plain text file with `--text`"),
            )
        pieces.append(file.read_text(encoding="utf-8").strip())
    for sample in samples:
        pieces.append("\n".join(m.content for m in sample.messages if m.role != "system"))
    return "\n\n".join(pieces)


def _count(toolchain: Toolchain, model: Path, text: str) -> dict[str, int]:
    """Tokens of the text and of the vocabulary, as the engine counts them."""
    with served(toolchain, model, ["-c", "256", "-np", "1", "--no-warmup"]) as server:
        ids = server.post("/tokenize", {"content": text, "add_special": True})["tokens"]
        meta = server.get("/v1/models")["data"][0].get("meta") or {}
    return {"tokens": len(ids), "vocabulary": int(meta.get("n_vocab") or max(ids, default=0) + 1)}


def _cut(path: Path, tokens: int, plan: QualityPlan) -> TextSpec:
    """The longest context up to the plan's of which the text has chunks enough."""
    context = plan.context
    while context > _MIN_CONTEXT and tokens // context < _fewest(context):
        context //= 2
    if tokens // context < _fewest(context):
        raise InputError(
            "eval.text_too_short",
            tr(
                "the text for perplexity has {tokens} tokens; {needed} are needed",
                tokens=tokens,
                needed=context * _fewest(context),
            ),
            tr("give a longer one with `--text FILE`"),
        )
    chunks = max(plan.chunks, _fewest(context))
    return TextSpec(path, context, min(chunks, tokens // context))


def _fewest(context: int) -> int:
    return max(2, math.ceil(_MIN_SCORED / (context // 2 - 1)))
