from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from slipway.training.fused import fuse

CUDA = torch.device("cuda")


def test_a_cpu_model_is_left_alone() -> None:
    assert not fuse(object(), torch.device("cpu"))


def test_without_the_package_a_model_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    assert not fuse(object(), CUDA)


def test_its_kernels_are_put_on_the_model_without_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module stands in for the package, whose kernels need a GPU."""
    asked: dict[str, Any] = {}
    package, inner = ModuleType("liger_kernel"), ModuleType("liger_kernel.transformers")
    inner._apply_liger_kernel_to_instance = asked.update  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", inner)
    model = object()
    assert fuse(model, CUDA)
    assert asked == {
        "model": model,
        "cross_entropy": False,
        "fused_linear_cross_entropy": False,
    }


@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("liger_kernel") is None,
    reason="needs a CUDA GPU and the package liger-kernel",
)
def test_fused_kernels_leave_the_logits_as_they_were(base: Path) -> None:
    from slipway.training.model import load_base

    plain = load_base(base, torch.float32, torch.device("cpu"))
    fused = load_base(base, torch.bfloat16, CUDA)
    for model in (plain, fused):
        model.set_attn_implementation("eager")
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        theirs = plain(input_ids=ids).logits
        ours = fused(input_ids=ids.to(CUDA)).logits.float().cpu()
    torch.testing.assert_close(ours, theirs, atol=0.1, rtol=0.1)
