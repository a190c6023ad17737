"""Stage rm: the loss, its gradient, what is kept, resume, and whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from slipway.core.errors import UsageError
from slipway.core.manifest import read_manifest
from slipway.training import load_recipe, train
from slipway.training.methods import ScoredTuned

from .conftest import make_spec
from .tools import evals, gradient, moved, objective_of, quiet, stop_after, told


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_gradient_is_autograds_over_unpacked_rows(method: str, base: Path, pairs: Path) -> None:
    objective, tuned, rows = objective_of(make_spec(base, pairs, stage="rm", method=method))
    assert isinstance(tuned, ScoredTuned)
    moved(tuned)
    numbers = [3, 0, 7, 11]
    sums = objective.gradients(numbers, lambda: None)
    ours = gradient(tuned)

    tuned.model.set_attn_implementation("eager")
    loss = torch.zeros(())
    for i in numbers:
        both = []
        for row in rows[2 * i : 2 * i + 2]:
            found = tuned.model.model(input_ids=torch.tensor([row.input_ids]), use_cache=False)
            both.append(found.last_hidden_state[0, -1] @ tuned.weight[0])
        loss = loss - torch.nn.functional.logsigmoid(both[0] - both[1]) / len(numbers)
    loss.backward()
    theirs = gradient(tuned)
    assert sums.loss == pytest.approx(float(loss.detach()), abs=2e-5)
    assert torch.allclose(ours, theirs, atol=2e-5 * float(theirs.abs().max()) + 1e-7, rtol=1e-3)


def test_loss_and_gradient_do_not_depend_on_packs(base: Path, pairs: Path) -> None:
    found = []
    for pack_tokens in (1, 4096):
        objective, tuned, _ = objective_of(
            make_spec(base, pairs, stage="rm", pack_tokens=pack_tokens)
        )
        moved(tuned)
        found.append((objective.gradients([1, 4, 9, 2], lambda: None), gradient(tuned)))
    assert found[0][0].loss == pytest.approx(found[1][0].loss, abs=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_learns_keeps_its_head_and_resumes_exactly(
    method: str, base: Path, pairs: Path, tmp_path: Path
) -> None:
    rate = 0.01 if method == "lora" else 0.001
    spec = make_spec(base, pairs, stage="rm", method=method, learning_rate=rate)
    train(spec, run_dir=tmp_path / "whole", events=quiet())
    first, *_, last = evals(tmp_path / "whole")
    assert last["loss"] < 0.5 * first["loss"]
    assert last["accuracy"] == 1.0 and last["pairs"] == 6
    made = read_manifest(tmp_path / "whole").notes["artefact"]
    head = load_file(tmp_path / "whole" / made / "value_head.safetensors")
    # the names and shapes that TRL and LLaMA Factory read
    assert {name: tuple(t.shape) for name, t in head.items()} == {
        "v_head.summary.weight": (1, 64),
        "v_head.summary.bias": (1,),
    }
    with pytest.raises(KeyboardInterrupt):
        train(spec, run_dir=tmp_path / "cut", events=quiet(stop_after(4)))
    train(spec, run_dir=tmp_path / "cut", events=quiet())
    names = ("accuracy", "margin")
    assert told(tmp_path / "cut", *names) == told(tmp_path / "whole", *names)
    again = load_file(tmp_path / "cut" / made / "value_head.safetensors")
    assert all(head[name].equal(again[name]) for name in head)


def test_a_reward_model_is_not_asked_for_answers(base: Path, pairs: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "rm.yaml"
    recipe.write_text(f"model: {base}\ndata: {pairs}\nstage: rm\nsample_prompts: [hello]\n")
    with pytest.raises(UsageError):
        load_recipe(recipe)
