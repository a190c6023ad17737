"""Stages rloo and grpo: the papers' formulas, gradients, drawing, resume, and runs that learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from slipway.core.errors import InputError, UsageError
from slipway.datasets import load_tokenizer
from slipway.training import load_recipe, train
from slipway.training.model import load_base
from slipway.training.objectives.reinforce import (
    Reinforce,
    leave_one_out,
    prompt_of,
    standardised,
)
from slipway.training.samples import answers, end_tokens, generating
from slipway.training.sampling import draw

from .conftest import make_spec, write
from .tools import CPU, evals, gradient, moved, objective_of, quiet, stop_after, told

REWARDS = """
def vowels(prompts, answers):
    return [sum(c in "aeiou" for c in a) / max(1, len(a)) for a in answers]

def like(prompts, answers, references):
    return [float(a[:1] == r[:1]) for a, r in zip(answers, references)]

def broken(prompts, answers):
    return [1.0]
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "asked"
    rows = [{"prompt": f"say {i}", "completion": f"yes {i}"} for i in range(12)]
    write(folder, "train", rows)
    write(folder, "heldout", rows[:3])
    (folder / "rewards.py").write_text(REWARDS, encoding="utf-8")
    return folder


def spec_of(base: Path, asked: Path, stage: str = "rloo", **values: Any) -> Any:
    rl = {
        "reward_function": f"{asked / 'rewards.py'}:vowels",
        "num_generations": 3,
        "max_new_tokens": 6,
        "beta": 0.1,
        **values.pop("rl", {}),
    }
    return make_spec(base, asked, **{"stage": stage, "rl": rl, "batch_rows": 3, **values})


def test_advantages_are_the_papers() -> None:
    worth = torch.tensor([[1.0, 2.0, 6.0]])
    # each above the mean of the other two
    assert leave_one_out(worth).tolist() == [[1 - 4.0, 2 - 3.5, 6 - 1.5]]
    deviation = float(worth.std())
    assert standardised(worth)[0].tolist() == pytest.approx(
        [(x - 3) / (deviation + 1e-4) for x in (1, 2, 6)]
    )
    assert standardised(torch.ones(1, 4)).tolist() == [[0.0] * 4]


def test_the_likeliest_answer_is_that_of_the_samples(base: Path) -> None:
    model, tokenizer = load_base(base, torch.float32, CPU), load_tokenizer(base)
    (plain,) = answers(model, tokenizer, ["say 5"], max_new_tokens=8)
    turns = [{"role": "user", "content": "say 5"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ends = end_tokens(model, tokenizer)
    with generating(model):
        drawn = draw(model, ids, 3, ends=ends, limit=8, temperature=0.0, stop=lambda: None)
    for one in drawn:
        kept = one.tokens[:-1] if one.ended else one.tokens
        assert tokenizer.decode(kept, skip_special_tokens=True).strip() == plain.text


def test_answers_are_drawn_by_the_models_chances(base: Path) -> None:
    """The first token of many answers against softmax(logits / temperature)."""
    model = load_base(base, torch.float32, CPU)
    prompt = [5, 9, 44, 7]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
    chances = torch.softmax(logits / 0.7, -1)
    torch.manual_seed(3)
    with generating(model):
        drawn = draw(
            model, prompt, 4000, ends=frozenset(), limit=1, temperature=0.7, stop=lambda: None
        )
    counts = torch.bincount(torch.tensor([d.tokens[0] for d in drawn]), minlength=len(chances))
    best = chances.topk(5).indices
    assert torch.allclose(counts[best] / 4000, chances[best], atol=0.03)
    assert all(len(d.tokens) == 1 and not d.ended for d in drawn)


@pytest.mark.parametrize("stage", ["rloo", "grpo"])
def test_the_gradient_is_autograds_over_unpacked_answers(
    stage: str, base: Path, asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(base, asked, stage)
    objective, tuned, rows = objective_of(spec)
    assert isinstance(objective, Reinforce)
    moved(tuned)
    seen: list[Any] = []
    original = objective._draw

    def noted(*given: Any) -> Any:
        found = original(*given)
        found[0][1] = found[0][0]  # two answers may be the same
        seen.extend(found)
        return found

    monkeypatch.setattr(objective, "_draw", noted)
    torch.manual_seed(4)
    sums = objective.gradients([2, 7], lambda: None)
    ours = gradient(tuned)

    first, model, tokenizer = load_base(base, torch.float32, CPU), tuned.model, load_tokenizer(base)
    for one in (first, model):
        one.set_attn_implementation("eager")

    def logps(some: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
        logits = some(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0]
        logs = torch.log_softmax(logits[len(prompt) - 1 : -1] / spec.rl.temperature, -1)
        return logs.gather(1, torch.tensor(answer)[:, None])[:, 0]

    loss = torch.zeros(())
    for number, drawn in zip([2, 7], seen, strict=True):
        prompt = prompt_of(rows[number]).ids
        mine = [logps(model, prompt, d.tokens) for d in drawn]
        with torch.no_grad():
            held = [logps(first, prompt, d.tokens) for d in drawn]
        texts = [tokenizer.decode(d.tokens, skip_special_tokens=True).strip() for d in drawn]
        reward = [sum(c in "aeiou" for c in t) / max(1, len(t)) for t in texts]
        if stage == "rloo":
            worth = [
                r - 0.1 * float((m.detach() - h).sum())
                for r, m, h in zip(reward, mine, held, strict=True)
            ]
            for i, m in enumerate(mine):
                others = [w for j, w in enumerate(worth) if j != i]
                loss = loss - (worth[i] - sum(others) / 2) * m.sum() / 6
        else:
            values = torch.tensor(reward)
            good = (values - values.mean()) / (values.std() + 1e-4)
            for a, m, h in zip(good, mine, held, strict=True):
                kl = torch.exp(h - m) - (h - m) - 1
                loss = loss + (-a * m + 0.1 * kl).mean() / 6
    loss.backward()
    theirs = gradient(tuned)
    assert sums.loss == pytest.approx(float(loss.detach()), abs=1e-4)
    assert torch.allclose(ours, theirs, atol=5e-5 * float(theirs.abs().max()) + 1e-7, rtol=2e-3)


@pytest.mark.parametrize("stage", ["rloo", "grpo"])
def test_a_run_raises_the_reward_and_resumes_exactly(
    stage: str, base: Path, asked: Path, tmp_path: Path
) -> None:
    rl = {"num_generations": 16, "max_new_tokens": 4, "beta": 0.02}
    spec = spec_of(base, asked, stage, learning_rate=0.02, schedule="constant", max_steps=16, rl=rl)
    train(spec, run_dir=tmp_path / "whole", events=quiet())
    rewards = [reward for _, reward in told(tmp_path / "whole", "reward").values()]
    assert sum(rewards[-4:]) / 4 > 1.3 * sum(rewards[:4]) / 4
    last = evals(tmp_path / "whole")[-1]
    assert last["loss"] == -last["reward"] and last["rows"] == 3
    with pytest.raises(KeyboardInterrupt):
        train(spec, run_dir=tmp_path / "cut", events=quiet(stop_after(9)))
    train(spec, run_dir=tmp_path / "cut", events=quiet())
    names = ("reward", "kl")
    assert told(tmp_path / "cut", *names) == told(tmp_path / "whole", *names)


def test_a_reward_model_rewards(base: Path, pairs: Path, asked: Path, tmp_path: Path) -> None:
    train(make_spec(base, pairs, stage="rm"), run_dir=tmp_path / "rm", events=quiet())
    spec = spec_of(
        base, asked, max_steps=2, rl={"reward_function": None, "reward_model": str(tmp_path / "rm")}
    )
    train(spec, run_dir=tmp_path / "run", events=quiet())
    rewards = [reward for _, reward in told(tmp_path / "run", "reward").values()]
    assert len(rewards) == 2 and all(reward != 0 for reward in rewards)


def test_a_whole_model_needs_beta_zero(base: Path, asked: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        objective_of(spec_of(base, asked, method="full"))
    assert caught.value.code == "train.rl_reference"
    spec = spec_of(base, asked, method="full", max_steps=2, rl={"beta": 0}, learning_rate=0.001)
    train(spec, run_dir=tmp_path / "run", events=quiet())


@pytest.mark.parametrize(
    ("function", "code"),
    [
        (None, "train.no_reward"),
        ("nothing", "train.no_reward"),
        ("{file}:missing", "train.bad_reward"),
        ("{file}:broken", "train.bad_reward"),
    ],
)
def test_a_reward_that_cannot_be_used_is_an_error(
    function: str | None, code: str, base: Path, asked: Path
) -> None:
    place = function and function.format(file=asked / "rewards.py")
    with pytest.raises((UsageError, InputError)) as caught:
        objective, _, _ = objective_of(spec_of(base, asked, rl={"reward_function": place}))
        objective.gradients([0], lambda: None)
    assert caught.value.code == code


def test_a_function_may_see_the_rows_answers_and_is_found_beside_the_recipe(
    base: Path, asked: Path
) -> None:
    recipe = asked / "rl.yaml"
    recipe.write_text(
        f"model: {base}\ndata: .\nstage: grpo\nthreads: 1\ndtype: fp32\n"
        "rl: {reward_function: 'rewards.py:like', num_generations: 2, max_new_tokens: 4}\n"
    )
    spec = load_recipe(recipe).spec
    assert spec.rl.reward_function == f"{(asked / 'rewards.py').resolve()}:like"
    objective, _, _ = objective_of(spec)
    sums = objective.gradients([0, 1], lambda: None)
    assert 0.0 <= sums.extra["reward"] <= 1.0
