"""`slipway convert --proof logits`: llama.cpp's numbers, not only its tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.export.model_zoo import causal_model
from tests.shared_home import shared_home

from slipway.cli.main import main
from slipway.core.errors import ProofError, UsageError
from slipway.core.paths import Home
from slipway.export import convert_to_gguf
from slipway.export.convert.logits_proof import prove_model_logits
from slipway.export.toolchain import Toolchain
from slipway.store.pull import STARTER_EMBED, pull_base
from slipway.testing.tiny import tiny_model

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning:transformers")]


@pytest.mark.slow
@pytest.mark.parametrize("outtype", ["f32", "bf16", "f16", "q8_0"])
def test_a_sound_conversion_passes_and_says_how_near_it_is(
    home: Home,
    tmp_path: Path,
    tools: Toolchain,
    capsys: pytest.CaptureFixture[str],
    outtype: str,
) -> None:
    model = tiny_model(tmp_path / "tiny")
    options = ["--outtype", outtype, "--proof", "logits", "-o", str(tmp_path / "out")]
    assert main(["convert", str(model), *options]) == 0
    assert "mean KL" in capsys.readouterr().err
    notes = json.loads((tmp_path / "out" / "manifest.json").read_text())["notes"]
    assert notes["logits"]["positions"] > 20
    assert notes["logits"]["kl_mean"] < (1e-5 if outtype == "f32" else 5e-3)


@pytest.mark.slow
def test_weights_of_another_model_are_refused_though_its_tokens_are_equal(
    home: Home, tmp_path: Path, tools: Toolchain
) -> None:
    convert_to_gguf(tiny_model(tmp_path / "other", seed=1), tmp_path / "gguf", home=home)
    model = tiny_model(tmp_path / "tiny")
    with pytest.raises(ProofError, match="another model") as caught:
        prove_model_logits(tmp_path / "gguf" / "model.gguf", model, outtype="bf16", toolchain=tools)
    assert caught.value.code == "convert.logits_differ"


@pytest.mark.slow
def test_routing_that_llama_cpp_computes_otherwise_does_not_pass(
    tmp_path: Path, tools: Toolchain
) -> None:
    folder = causal_model("qwen3-moe", tmp_path / "moe", norm_topk_prob=False)
    gguf = tmp_path / "direct.gguf"
    command = [sys.executable, str(tools.converter), str(folder), "--outtype", "f32"]
    subprocess.run([*command, "--outfile", str(gguf)], check=True, capture_output=True)
    with pytest.raises(ProofError) as caught:
        prove_model_logits(gguf, folder, outtype="f32", toolchain=tools)
    assert caught.value.code == "convert.logits_differ"


@pytest.mark.slow
def test_a_sentence_model_has_no_logits_to_compare(
    home: Home, tmp_path: Path, tools: Toolchain
) -> None:
    folder = pull_base(STARTER_EMBED, home=shared_home())
    with pytest.raises(UsageError) as caught:
        convert_to_gguf(folder, tmp_path / "out", proof="logits", home=home)
    assert caught.value.code == "convert.no_text_model" and not (tmp_path / "out").exists()


def test_an_unknown_proof_is_refused(home: Home, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="weights"):
        convert_to_gguf(tmp_path, tmp_path / "out", proof="weights", home=home)
