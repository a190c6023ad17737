from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slipway.training.frozen import can_reorder
from slipway.training.model import load_base

# products of many lengths, as packs bring them; prints how many MB they left behind
_MANY_SHAPES = """
import ctypes, sys, psutil, torch
from slipway.training.frozen import product_of
from slipway.training.memory import bound_kernel_caches
if sys.argv[1] == "bound":
    bound_kernel_caches()
product = product_of(torch.nn.Linear(512, 512, bias=False).bfloat16())
rows = torch.zeros(600, 512, dtype=torch.bfloat16)
product.forward(rows, None)
before = psutil.Process().memory_info().rss
for length in range(100, 600):
    product.forward(rows[:length], None)
ctypes.CDLL(None).malloc_trim(0)
print((psutil.Process().memory_info().rss - before) >> 20)
"""


def test_loading_a_model_bounds_the_kernel_caches_and_respects_the_user(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "1")  # so that it is put back
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    load_base(base, torch.float32, torch.device("cpu"))
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"
    assert int(os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]) < 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads resident memory after malloc_trim")
@pytest.mark.skipif(
    not can_reorder(torch.zeros(32, 32, dtype=torch.bfloat16)), reason="needs bf16 in oneDNN"
)
def test_products_of_ever_new_lengths_do_not_pile_up_kernels() -> None:
    bounds = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    clean = {name: value for name, value in os.environ.items() if name not in bounds}
    left = {}
    for mode in ("free", "bound"):
        command = [sys.executable, "-c", _MANY_SHAPES, mode]
        done = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
        left[mode] = int(done.stdout)
    assert left["bound"] < 0.6 * left["free"], left


def test_memory_of_a_finished_job_goes_back_to_the_system() -> None:
    from slipway.training.memory import give_back, memory

    device = torch.device("cpu")
    give_back()
    before = memory(device)
    tensors = [torch.ones(1 << 14) for _ in range(800)]  # 64 KB each: pieces of the heap
    kept = tensors[-1]
    tensors.clear()
    give_back()
    assert kept[0] == 1
    assert memory(device) < before + (20 << 20)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory map")
def test_pages_of_a_weight_in_a_file_are_let_go_and_read_again(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from slipway.training.memory import forget_file_pages

    made = torch.randn(512, 1024)
    save_file({"w": made}, tmp_path / "weights.safetensors")
    weight = load_file(tmp_path / "weights.safetensors")["w"]
    assert torch.equal(weight, made)
    assert forget_file_pages(weight) > 0.9 * made.nbytes
    assert torch.equal(weight, made)
    assert forget_file_pages(made) == 0  # not a file's: untouched
    assert torch.equal(weight, made)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_is_not_that_of_the_program_that_started_this_one() -> None:
    tell = "import torch; from slipway.training.memory import peak_memory as p; "
    tell += "print(p(torch.device('cpu')))"
    large = torch.ones(1 << 30, dtype=torch.uint8)  # touched, so that it is resident
    answer = subprocess.run(
        [sys.executable, "-c", tell], capture_output=True, text=True, check=True
    )
    assert int(answer.stdout) < large.nbytes
