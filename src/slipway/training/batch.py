"""Packs of documents as tensors, and the loss of a pack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slipway.datasets import Encoded, Pack, pack
from slipway.training.attention import Layout, layout
from slipway.training.loss import IGNORE, head_losses


@dataclass(frozen=True, slots=True)
class Batch:
    """One pack, ready for the model.

    Attributes:
        input_ids, positions: [1, tokens].
        rows: [labels], the positions whose hidden state predicts a label.
        targets: [labels], the labels.
    """

    input_ids: Tensor
    positions: Tensor
    where: Layout
    rows: Tensor
    targets: Tensor

    @property
    def tokens(self) -> int:
        """Real tokens; there is no padding."""
        return int(self.input_ids.shape[1])


def to_batch(packed: Pack, device: torch.device) -> Batch:
    """Tensors of a pack. A label is predicted by the position before it."""
    labels = torch.tensor(packed.labels)
    at = (labels != IGNORE).nonzero()[:, 0]
    return Batch(
        input_ids=torch.tensor([packed.input_ids], device=device),
        positions=torch.tensor([packed.position_ids], device=device),
        where=layout(packed.doc_lengths, device),
        rows=(at - 1).to(device),
        targets=labels[at].to(device),
    )


def batches(
    rows: Sequence[Encoded], pack_tokens: int, device: torch.device
) -> list[tuple[Pack, Batch]]:
    """Rows packed into batches of at most `pack_tokens` tokens (or one longer row)."""
    capacity = max(pack_tokens, *(len(row.input_ids) for row in rows))
    return [(p, to_batch(p, device)) for p in pack(rows, capacity, seed=0)]


def losses(model: Any, batch: Batch, factor: float = 1.0) -> Tensor:
    """The loss of each label of a batch times `factor`: [labels], fp32."""
    hidden = model.get_decoder()(
        input_ids=batch.input_ids,
        position_ids=batch.positions,
        use_cache=False,
        slipway_layout=batch.where,
    ).last_hidden_state[0]
    head = model.get_output_embeddings()
    return head_losses(
        hidden.index_select(0, batch.rows), head.weight, head.bias, batch.targets, factor
    )
