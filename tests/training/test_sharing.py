from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.datasets import Encoded
from slipway.training import attention, lora, sharing
from slipway.training.batch import batches, losses
from slipway.training.evaluate import rows_loss
from slipway.training.loss import IGNORE
from slipway.training.sharing import arrange, plan_groups

CPU = torch.device("cpu")
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=30)


def rows_with_prompt(shared: int, others: int = 0) -> list[Encoded]:
    """Documents of which most begin with the same `shared` tokens; `others` stand apart."""
    draw = torch.Generator().manual_seed(3)
    prompt = torch.randint(0, 300, (shared,), generator=draw).tolist()
    rows = []
    for number in range(5 + others):
        own = torch.randint(0, 300, (4 + 3 * number,), generator=draw).tolist()
        ids = [*prompt, *own] if number < 5 else own
        labels = [IGNORE] * (len(ids) - 3) + [*ids[-3:-1], IGNORE]
        rows.append(Encoded(str(number), ids, labels))
    return rows


def test_documents_with_the_same_beginning_are_grouped_for_the_least_work() -> None:
    one, two = list(range(20)), list(range(12))
    documents = [[*one, 40, 41], [*two, 50], [7, 8], [*one, 60], [*two, 70, 71]]
    groups = plan_groups(documents, 100)
    # 3 * 12 are saved by one group of four, 20 + 12 by two groups
    assert [(group.shared, group.members) for group in groups] == [(12, (0, 1, 3, 4)), (0, (2,))]
    longer = [[*range(40), *d] for d in documents]
    shared = {(group.shared, group.members) for group in plan_groups(longer, 100)}
    assert shared == {(40, (0, 1, 2, 3, 4))}
    assert plan_groups(longer, 30) == [sharing.Group(0, (number,)) for number in range(5)]


@settings(max_examples=60, deadline=None)
@given(st.lists(TOKENS, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_what_is_arranged_is_each_documents_own_tokens_in_order(
    documents: list[list[int]], draw: object
) -> None:
    labels = [
        [IGNORE, *(i if (i + n) % 3 else IGNORE for i in ids[1:])]
        for n, ids in enumerate(documents)
    ]
    found = arrange(documents, labels, 25, IGNORE)
    assert len(found.input_ids) == sum(shared + sum(own) for shared, own in found.families)
    expected = [
        (number, at - 1, documents[number][at - 1], row[at])
        for number, row in enumerate(labels)
        for at in range(1, len(row))
        if row[at] != IGNORE
    ]
    got = [
        (number, found.positions[row], found.input_ids[row], target)
        for row, target, number in zip(found.rows, found.targets, found.documents, strict=True)
    ]
    assert sorted(got) == sorted(expected)


@pytest.mark.parametrize(("shared", "others"), [(30, 0), (9, 3), (0, 2)])
@pytest.mark.parametrize("dense_limit", [768, 45])
def test_a_shared_beginning_gives_the_losses_and_gradients_of_each_document_by_itself(
    base: Path, shared: int, others: int, dense_limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway.training.model import load_base

    monkeypatch.setattr(attention, "DENSE_LIMIT", dense_limit)
    rows = rows_with_prompt(shared, others)
    found = []
    for lean in (False, True):
        torch.manual_seed(0)
        model = load_base(base, torch.float32, CPU)
        lora.attach(model, rank=4, alpha=8.0, dropout=0.0, target="all")
        for _, layer in lora.adapters(model):
            torch.nn.init.normal_(layer.lora_b, std=0.02)
        ((_, batch),) = batches(rows, 1 << 20, CPU, lean=lean)
        each = losses(model, batch)
        each.sum().backward()
        order = sorted(
            range(len(each)),
            key=lambda i: (int(batch.documents[i]), int(batch.positions[0, batch.rows[i]])),
        )
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        found.append((each.detach()[order], gradients, batch))
    plain, lean_one = found
    assert lean_one[2].tokens == plain[2].tokens == plain[2].input_ids.shape[1]
    saved = plain[2].input_ids.shape[1] - lean_one[2].input_ids.shape[1]
    if dense_limit > 45:
        assert saved == 4 * shared + 2 * len(rows)
    torch.testing.assert_close(lean_one[0], plain[0], rtol=1e-5, atol=1e-5)
    for x, y in zip(lean_one[1], plain[1], strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)


def test_documents_without_a_label_cost_one_token_and_add_no_loss(base: Path) -> None:
    from slipway.training.model import load_base

    model = load_base(base, torch.float32, CPU)
    rows = rows_with_prompt(12)
    alone = rows_loss(model, rows)
    mute = Encoded("mute", list(range(40)), [IGNORE] * 40)
    ((_, batch),) = batches([*rows, mute], 1 << 20, CPU, lean=True)
    ((_, without),) = batches(rows, 1 << 20, CPU, lean=True)
    assert batch.input_ids.shape[1] == without.input_ids.shape[1] + 1
    together = rows_loss(model, [*rows, mute])
    assert together.per_row[-1] == ("mute", 0.0, 0)
    assert together.loss == pytest.approx(alone.loss, rel=1e-5)
