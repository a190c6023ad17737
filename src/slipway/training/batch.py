"""Packs of documents as tensors, and the loss of a pack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slipway.datasets import Encoded, Pack, pack, pack_groups
from slipway.training import attention
from slipway.training.attention import layout
from slipway.training.layout import Family, Layout, lay_out
from slipway.training.loss import IGNORE, head_losses
from slipway.training.sharing import arrange


@dataclass(frozen=True, slots=True)
class Batch:
    """One pack, ready for the model.

    Attributes:
        input_ids, positions: [1, tokens].
        rows: [labels], the positions whose hidden state predicts a label.
        targets: [labels], the labels.
        documents: [labels], which document of the pack each belongs to.
        ends: [documents], the position of each document's last token (in a lean batch: the last one
            that is computed).
        tokens: real tokens of the documents, computed or shared; there is no padding.
    """

    input_ids: Tensor
    positions: Tensor
    where: Layout
    rows: Tensor
    targets: Tensor
    documents: Tensor
    ends: Tensor
    tokens: int


def to_batch(packed: Pack, device: torch.device, *, lean: bool = False) -> Batch:
    """Tensors of a pack. A label is predicted by the position before it.

    Args:
        lean: compute a common beginning of documents once, and nothing after the last label
            (`sharing`): the same losses and gradients, for those who want nothing else.
    """
    if lean:
        return _lean_batch(packed, device)
    labels = torch.tensor(packed.labels)
    at = (labels != IGNORE).nonzero()[:, 0]
    lengths = torch.tensor(packed.doc_lengths)
    document = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    return Batch(
        input_ids=torch.tensor([packed.input_ids], device=device),
        positions=torch.tensor([packed.position_ids], device=device),
        where=layout(packed.doc_lengths, device),
        rows=(at - 1).to(device),
        targets=labels[at].to(device),
        documents=document[at].to(device),
        ends=(lengths.cumsum(0) - 1).to(device),
        tokens=len(packed.input_ids),
    )


def _lean_batch(packed: Pack, device: torch.device) -> Batch:
    documents, labels, start = [], [], 0
    for length in packed.doc_lengths:
        documents.append(packed.input_ids[start : start + length])
        labels.append(packed.labels[start : start + length])
        start += length
    # on CUDA one kernel takes all documents, and knows nothing of shared rows
    limit = attention.DENSE_LIMIT if device.type == "cpu" else 0
    found = arrange(documents, labels, limit, IGNORE)
    families = [Family(shared, own) for shared, own in found.families]

    def integers(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return Batch(
        input_ids=integers(found.input_ids)[None],
        positions=integers(found.positions)[None],
        where=lay_out(families, device, attention.DENSE_LIMIT),
        rows=integers(found.rows),
        targets=integers(found.targets),
        documents=integers(found.documents),
        ends=integers(found.ends),
        tokens=len(packed.input_ids),
    )


def batches(
    rows: Sequence[Encoded], pack_tokens: int, device: torch.device, *, lean: bool = False
) -> list[tuple[Pack, Batch]]:
    """Rows packed into batches of at most `pack_tokens` tokens (or one longer row)."""
    capacity = max(pack_tokens, *(len(row.input_ids) for row in rows))
    return [(p, to_batch(p, device, lean=lean)) for p in pack(rows, capacity, seed=0)]


def group_batches(
    groups: Sequence[Sequence[Encoded]],
    pack_tokens: int,
    device: torch.device,
    *,
    lean: bool = False,
) -> list[tuple[list[int], Batch]]:
    """As `batches`, with the documents of a group together: (groups of the batch, batch)."""
    return [
        (members, to_batch(packed, device, lean=lean))
        for members, packed in pack_groups(groups, pack_tokens, seed=0)
    ]


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """What the output head gets at each position: [tokens, width]."""
    states = model.get_decoder()(
        input_ids=batch.input_ids,
        position_ids=batch.positions,
        use_cache=False,
        slipway_layout=batch.where,
    ).last_hidden_state[0]
    assert isinstance(states, Tensor)
    return states


def losses(
    model: Any, batch: Batch, factor: float = 1.0, *, even: bool = True, sharpness: float = 1.0
) -> Tensor:
    """The loss of each label of a batch times `factor`: [labels], fp32.

    Args:
        even: see `head_losses`.
        sharpness: logits are multiplied by it: 1 / the temperature.
    """
    rows = hidden_states(model, batch).index_select(0, batch.rows)
    head = model.get_output_embeddings()
    bias = head.bias
    if sharpness != 1.0:
        rows, bias = rows * sharpness, None if bias is None else bias * sharpness
    return head_losses(rows, head.weight, bias, batch.targets, factor, even=even)


def answer_logps(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Of each document: the sum of the log-probabilities of its labels, and their number.

    Returns:
        [documents] fp32 with gradient, [documents] int64.
    """
    each = losses(model, batch, -1.0, even=False)
    documents = len(batch.ends)
    sums = each.new_zeros(documents).index_add(0, batch.documents, each)
    return sums, torch.bincount(batch.documents, minlength=documents)
