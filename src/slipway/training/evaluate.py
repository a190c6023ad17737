"""Loss on held-out conversations: forward only, packed, token-weighted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from slipway.core.errors import InputError
from slipway.core.i18n import tr
from slipway.datasets import Encoded, Sample, encode_all, load_tokenizer
from slipway.training import lora
from slipway.training.batch import batches, losses
from slipway.training.model import load_base, pick_device, pick_dtype, set_threads

EVAL_PACK_TOKENS = 2048
"""Tokens of one forward pass of an eval."""


@dataclass(frozen=True, slots=True)
class LossResult:
    """Loss over labels (assistant tokens).

    Attributes:
        loss: mean over all label tokens, in nats.
        perplexity: exp(loss).
        per_row: (row id, sum of its losses, its label tokens), in the order of the samples.
    """

    loss: float
    perplexity: float
    label_tokens: int
    rows: int
    per_row: list[tuple[str, float, int]]


def rows_loss(
    model: Any,
    rows: Sequence[Encoded],
    *,
    pack_tokens: int = EVAL_PACK_TOKENS,
    on_pack: Callable[[], None] | None = None,
) -> LossResult:
    """The loss of encoded rows under a loaded model.

    Args:
        on_pack: called before each pack; may raise to stop.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    sums: dict[str, tuple[float, int]] = {}
    try:
        with torch.no_grad():  # inference tensors could not be gathered into, on a split model
            for packed, batch in batches(rows, pack_tokens, device, lean=True):
                if on_pack:
                    on_pack()
                each = losses(model, batch).double().cpu()
                document = batch.documents.cpu()
                totals = torch.zeros(len(packed.doc_lengths), dtype=torch.float64)
                totals.index_add_(0, document, each)
                counts = torch.bincount(document, minlength=len(packed.doc_lengths))
                for at, row_id in enumerate(packed.doc_ids):
                    sums[row_id] = (float(totals[at]), int(counts[at]))
    finally:
        model.train(training)
    per_row = [(row.id, *sums[row.id]) for row in rows]
    tokens = sum(count for _, _, count in per_row)
    loss = sum(total for _, total, _ in per_row) / max(1, tokens)
    return LossResult(loss, math.exp(min(loss, 700.0)), tokens, len(per_row), per_row)


def evaluate_loss(
    model_dir: Path,
    samples: Sequence[Sample],
    *,
    adapter: Path | None = None,
    cutoff_len: int = 1024,
    threads: int | None = None,
    dtype: str = "auto",
) -> LossResult:
    """The loss of a model folder, or of a base with a PEFT adapter folder, on conversations.

    Args:
        cutoff_len: tokens kept of each conversation.
        threads: CPU threads; default all cores.
        dtype: `auto`, `bf16` or `fp32`.

    Raises:
        InputError: no conversation has a label before the cut-off, or the adapter does not fit.
    """
    set_threads(threads)
    device = pick_device()
    encoded = encode_all(samples, load_tokenizer(model_dir), cutoff_len)
    if not encoded.rows:
        raise InputError(
            "eval.no_label",
            tr("no conversation has an assistant token within {cutoff} tokens", cutoff=cutoff_len),
        )
    model = load_base(model_dir, pick_dtype(dtype, device), device)
    if adapter is not None:
        lora.load_adapter(model, adapter)
        model.eval()
    return rows_loss(model, encoded.rows)
