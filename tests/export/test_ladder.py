"""Types on a real model: fewer bits lose more, and a matrix from the data wins some back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.shared_home import link_shared_folders

from slipway.cli.main import main
from slipway.core.paths import Home
from slipway.datasets import load_dataset
from slipway.export import convert_to_gguf, quantize
from slipway.export.imatrix import CalibrationPlan, measure_imatrix
from slipway.export.measure import TextSpec, divergence, perplexity
from slipway.export.toolchain import require_toolchain

pytestmark = pytest.mark.slow
DATA = Path(__file__).parents[2] / "examples" / "support-en"
LADDER = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"]
NOISE = 0.05  # of each matrix's deviation: the starter's weights lie on a 4-bit grid (ADR 0005)


def off_the_grid(base: Path, out: Path) -> Path:
    """The model with noise in its linear layers, so that no type meets its weights exactly."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, out)
    (out / "manifest.json").unlink()
    torch.manual_seed(0)
    for file in out.glob("*.safetensors"):
        weights = load_file(file)
        for name, weight in weights.items():
            if weight.dim() == 2 and "embed" not in name:
                noise = torch.randn(weight.shape) * weight.float().std() * NOISE
                weights[name] = (weight.float() + noise).to(weight.dtype)
        save_file(weights, file, metadata={"format": "pt"})
    return out


def test_fewer_bits_lose_more_and_a_matrix_from_the_data_wins_some_back(
    home: Home, tmp_path: Path
) -> None:
    link_shared_folders(home)
    assert main(["pull", "starter"]) == 0
    model = off_the_grid(home.bases / "starter", tmp_path / "model")
    gguf = tmp_path / "gguf"
    convert_to_gguf(model, gguf, home=home)
    quantize(gguf, LADDER, tmp_path / "plain", home=home)
    plan = CalibrationPlan(datasets=(DATA,), chunks=24)
    measure_imatrix(gguf, tmp_path / "matrix", plan, home=home)
    quantize(gguf, ["Q4_K_M"], tmp_path / "matrixed", home=home, imatrix=tmp_path / "matrix")
    rows = load_dataset(DATA, "heldout")[:40]
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(m.content for row in rows for m in row.messages), encoding="utf-8")
    tools, text = require_toolchain(home), TextSpec(path, 256, 8)
    perplexity(tools, gguf / "model.gguf", text, logits=tmp_path / "logits")

    def kld(folder: Path) -> float:
        return divergence(tools, folder / "model.gguf", text, tmp_path / "logits")["kld_mean"]

    found = [kld(tmp_path / "plain" / name) for name in LADDER]
    assert found == sorted(found) and len(set(found)) == len(found), found
    assert kld(tmp_path / "matrixed" / "Q4_K_M") < 0.9 * found[LADDER.index("Q4_K_M")]
