from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from slipway.core.errors import InputError, ProofError
from slipway.datasets import encode_all, load_dataset, load_tokenizer
from slipway.training import evaluate_loss
from slipway.training.evaluate import rows_loss
from slipway.training.model import load_base, prove_loss

CPU = torch.device("cpu")


def test_packed_equals_unpacked_equals_the_models_own_loss(base: Path, data: Path) -> None:
    rows = encode_all(load_dataset(data), load_tokenizer(base), 512).rows
    model = load_base(base, torch.float32, CPU)
    packed = rows_loss(model, rows)
    alone = rows_loss(model, rows, pack_tokens=1)
    assert packed.label_tokens == sum(row.learned for row in rows)
    assert packed.loss == pytest.approx(alone.loss, abs=1e-5)
    model.set_attn_implementation("eager")
    total = 0.0
    with torch.inference_mode():
        for (row_id, row_sum, count), row in zip(packed.per_row, rows, strict=True):
            labels = torch.tensor([row.labels])
            out = model(input_ids=torch.tensor([row.input_ids]), labels=labels, use_cache=False)
            assert row_id == row.id
            assert count == row.learned
            assert row_sum == pytest.approx(float(out.loss) * count, rel=1e-4)
            total += float(out.loss) * count
    assert packed.loss == pytest.approx(total / packed.label_tokens, abs=1e-5)


def test_evaluate_loss_reads_a_folder_and_reports_perplexity(base: Path, data: Path) -> None:
    result = evaluate_loss(base, load_dataset(data, "heldout"))
    assert result.rows == 6
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert sum(total for _, total, _ in result.per_row) == pytest.approx(
        result.loss * result.label_tokens
    )


def test_rows_without_a_label_before_the_cutoff_are_an_error(base: Path, data: Path) -> None:
    with pytest.raises(InputError, match="4 tokens"):
        evaluate_loss(base, load_dataset(data), cutoff_len=4)


def test_the_loss_proof_passes_for_the_model_and_fails_for_a_head_that_does_more(
    base: Path, data: Path
) -> None:
    rows = encode_all(load_dataset(data), load_tokenizer(base), 512).rows
    model = load_base(base, torch.float32, CPU)
    assert prove_loss(model, rows, CPU) < 1e-4
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * 0.25)
    with pytest.raises(ProofError, match="packed documents"):
        prove_loss(model, rows, CPU)
