from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from slipway.core.errors import ConflictError, NotFoundError, ProofError, UsageError
from slipway.core.manifest import read_manifest
from slipway.core.paths import Home
from slipway.datasets import encode_all, load_dataset, load_tokenizer
from slipway.evaluation import Gates, Generation, Plan, evaluate, find_model, gates, served_model
from slipway.evaluation.compare import choose, compare_folders
from slipway.evaluation.gates import parse_bounds
from slipway.evaluation.local import LocalModel
from slipway.evaluation.predictions import Lines, Prediction, read_lines
from slipway.evaluation.questions import read_questions
from slipway.testing.fake_upstream import FakeAnswer, FakeUpstream

HOME = Home(Path("nowhere"))
SHORT = Generation(max_new_tokens=6)


def plan_for(models: Path, rows: Path, out: Path, *names: str, **more: Any) -> Plan:
    found = tuple(find_model(str(models / name), HOME) for name in names)
    more.setdefault("dtype", "fp32")  # compared with fp32 models, whatever the processor is fast at
    return Plan(found, out, rows, generation=SHORT, resamples=200, **more)


@pytest.fixture(scope="module")
def finished(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation of both models, done once."""
    from tests.evaluation.conftest import write_rows

    folder = tmp_path_factory.mktemp("finished")
    rows = write_rows(folder / "rows.jsonl")
    evaluate(plan_for(models, rows, folder / "out", "one", "two"))
    return folder / "out"


def results_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_two_models_are_measured_compared_and_recorded(finished: Path, models: Path) -> None:
    results = results_of(finished)
    assert results["baseline"] == "one" and list(results["models"]) == ["one", "two"]
    two = results["models"]["two"]["metrics"]
    assert {"loss", "perplexity", "rouge_l", "bleu_4", "chrf", "exact_match"} <= set(two)
    assert two["perplexity"]["value"] == pytest.approx(math.exp(two["loss"]["value"]), rel=1e-4)
    difference = results["differences"]["two"]["loss"]
    one = results["models"]["one"]["metrics"]["loss"]["value"]
    assert difference["value"] == pytest.approx(two["loss"]["value"] - one, abs=1e-4)
    assert difference["low"] <= difference["value"] <= difference["high"]
    manifest = read_manifest(finished, kind="evaluation")
    assert manifest.parents["one"] == find_model(str(models / "one"), HOME).digest
    assert "| `loss` |" in (finished / "report.md").read_text()
    changed = results["changed"]["two"]
    assert changed["better"] + changed["worse"] + changed["same"] == 10
    rows = [json.loads(x) for x in (finished / "rows" / "two.jsonl").read_text().splitlines()]
    assert [r["change"] for r in rows] == sorted(r["change"] for r in rows) and len(rows) == 10


def test_predictions_have_llama_factorys_fields_in_the_order_of_the_rows(finished: Path) -> None:
    lines = list(read_lines(finished / "predictions" / "one.jsonl"))
    assert [line["id"] for line in lines] == [f"r{n}" for n in range(10)]
    assert lines[0]["label"] == "it will come soon"
    assert lines[0]["prompt"] == "user: where is my order"
    assert {"predict", "prompt", "label", "tokens", "seconds", "finish"} <= set(lines[0])


def test_the_loss_is_the_models_own(models: Path, finished: Path, rows: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(models / "one").eval()
    total, tokens = 0.0, 0
    for row in encode_all(load_dataset(rows), load_tokenizer(models / "one"), 1024).rows:
        ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
        with torch.no_grad():
            mean = float(model(input_ids=ids, labels=labels).loss)
        total, tokens = total + mean * row.learned, tokens + row.learned
    found = results_of(finished)["models"]["one"]["metrics"]["loss"]["value"]
    assert found == pytest.approx(total / tokens, rel=1e-4)


def test_answers_are_what_the_model_says_alone_without_padding(
    models: Path, finished: Path, rows: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(models / "one").eval()
    tokenizer = load_tokenizer(models / "one")
    lines = list(read_lines(finished / "predictions" / "one.jsonl"))
    for question, line in zip(read_questions(rows).questions[:3], lines[:3], strict=True):
        text = tokenizer.apply_chat_template(
            list(question.messages), tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        for _ in range(6):
            with torch.no_grad():
                best = model(input_ids=ids).logits[0, -1].argmax()
            if int(best) == tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, best[None, None]], 1)
        given = tokenizer.decode(ids[0, line["prompt_tokens"] :], skip_special_tokens=True)
        assert line["predict"] == given.strip()


def test_an_interrupted_evaluation_makes_no_answer_twice(
    models: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_for(models, rows, tmp_path / "out", "one", losses=False, batch=2, seed=1)
    plan = replace(plan, generation=Generation(6, temperature=1.0, seed=5))
    whole = replace(plan, out_dir=tmp_path / "whole")
    evaluate(whole)
    asked: list[str] = []
    original = LocalModel.answer

    def dies(self: LocalModel, batch: Any, *rest: Any) -> None:
        if len(asked) >= 4:
            raise KeyboardInterrupt
        asked.extend(q.id for q in batch)
        original(self, batch, *rest)

    monkeypatch.setattr(LocalModel, "answer", dies)
    with pytest.raises(KeyboardInterrupt):
        evaluate(plan)
    path = plan.out_dir / "predictions" / "one.jsonl"
    assert {line["id"] for line in read_lines(path)} == set(asked)
    with path.open("a") as file:
        file.write('{"id": "r9", "predict": "to')  # a line cut by a kill
    again: list[str] = []

    def counts(self: LocalModel, batch: Any, *rest: Any) -> None:
        again.extend(q.id for q in batch)
        original(self, batch, *rest)

    monkeypatch.setattr(LocalModel, "answer", counts)
    evaluate(plan)
    assert set(again).isdisjoint(asked) and len(again) + len(asked) == 10

    def answers(folder: Path) -> list[tuple[str, str]]:
        lines = read_lines(folder / "predictions" / "one.jsonl")
        return [(line["id"], line["predict"]) for line in lines]

    assert answers(plan.out_dir) == answers(whole.out_dir)


def test_a_finished_evaluation_loads_no_model(
    models: Path, rows: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(LocalModel, "__init__", never)
    before = results_of(finished)
    after = evaluate(plan_for(models, rows, finished, "one", "two"))
    assert after["models"]["two"]["metrics"] == before["models"]["two"]["metrics"]


def test_answers_of_other_settings_are_not_mixed(models: Path, rows: Path, finished: Path) -> None:
    plan = plan_for(models, rows, finished, "one", "two")
    with pytest.raises(ConflictError, match="max_new_tokens"):
        evaluate(replace(plan, generation=Generation(7)))


def test_an_endpoint_is_asked_and_its_refusals_are_named(
    upstream: FakeUpstream, rows: Path, tmp_path: Path
) -> None:
    def respond(body: dict[str, Any]) -> FakeAnswer:
        if "price" in body["messages"][-1]["content"]:
            return FakeAnswer(status=400, body=b'{"error": {"message": "filtered"}}')
        return FakeAnswer(("it will come soon",), usage=(7, 4))

    upstream.respond = respond
    upstream.api_key = "secret-key"
    model = served_model(upstream.url, "tiny", "secret-key")
    generation = Generation(9, 0.7, 0.9, seed=3, stop=("END",))
    plan = Plan((model,), tmp_path / "out", rows, generation=generation, resamples=200)
    results = evaluate(replace(plan, system="be brief"))
    body = upstream.seen[0].body
    assert body["messages"][0] == {"role": "system", "content": "be brief"}
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (9, 0.7, 0.9)
    assert (body["seed"], body["stop"]) == (3, ["END"])
    found = results["models"]["tiny"]
    assert [f["id"] for f in found["failed"]] == ["r8"] and "filtered" in found["failed"][0][
        "error"
    ]
    assert found["metrics"]["exact_match"]["value"] == 10 and "loss" not in found["metrics"]
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert "secret-key" not in path.read_text()


def test_two_evaluations_are_compared_on_their_common_rows(
    models: Path, rows: Path, finished: Path, tmp_path: Path
) -> None:
    evaluate(replace(plan_for(models, rows, tmp_path / "few", "two"), rows=9))
    found = compare_folders(choose(finished, "one"), choose(tmp_path / "few", None), resamples=200)
    assert found["rows"] == 9 and found["settings"] == {
        "rows": [None, 9],
        "data": found["settings"]["data"],
    }
    assert len(found["sentences"]) == len(found["differences"])
    same = compare_folders(choose(finished, "two"), choose(tmp_path / "few", None), resamples=200)
    # a loss is summed over other packs there, so that its last bits may differ
    assert all(abs(d["value"]) < 1e-4 for d in same["differences"].values())
    summed = ("loss", "perplexity")
    assert not any(d["real"] for n, d in same["differences"].items() if n not in summed)
    with pytest.raises(NotFoundError):
        choose(finished, "three")


def test_gates_name_what_is_not_met(finished: Path) -> None:
    results = results_of(finished)
    gates.require(results, Gates(least={"rouge_l": 0}, drop={"rouge_l": 100}))
    with pytest.raises(ProofError) as error:
        gates.require(results, Gates({"rouge_l": 99}, {"loss": 0.1}, {"accuracy": 1}))
    assert error.value.message_en.count("\n") == 3
    lower = {**results, "differences": {"two": {"loss": {"value": 0.5}}}}
    assert gates.check(lower, Gates(drop={"loss": 0.4})) and not gates.check(
        lower, Gates(drop={"loss": 0.6})
    )
    with pytest.raises(UsageError, match="rouge-l"):
        parse_bounds(["rouge-l=3"], "--min")
    with pytest.raises(UsageError, match="METRIC=NUMBER"):
        parse_bounds(["rouge_l=nan"], "--min")


def test_nothing_to_do_is_an_error(models: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing"):
        Plan((find_model(str(models / "one"), HOME),), tmp_path)
    with pytest.raises(UsageError, match="no_model_named"):
        Plan((), tmp_path, tmp_path)


def test_a_set_asks_preferences_texts_and_tools_too(tmp_path: Path) -> None:
    from slipway.datasets import Message, Sample
    from slipway.datasets.model import ToolCall
    from slipway.evaluation.questions import make_questions

    user = Message("user", "hi")
    call = Message("assistant", "", (ToolCall("find", {"b": 1, "a": "x"}),))
    samples = [
        Sample("p", (user,), tmp_path, 1, chosen=Message("assistant", "yes"),
               rejected=Message("assistant", "no")),
        Sample("k", (user, Message("assistant", "bad")), tmp_path, 2, desirable=False),
        Sample("t", (), tmp_path, 3, text="plain words"),
        Sample("t", (user, call, Message("tool", "r"), call), tmp_path, 4),
    ]  # fmt: skip
    found = make_questions(samples, tmp_path)
    assert [q.id for q in found.questions] == ["p", "t#2"] and found.left_out == ["k"]
    assert found.questions[0].reference == "yes"
    assert found.questions[1].reference == '{"arguments": {"a": "x", "b": 1}, "name": "find"}'
    asked = found.questions[1].messages[1]["tool_calls"][0]["function"]
    assert asked == {"name": "find", "arguments": '{"b": 1, "a": "x"}'}
    assert [s.id for s in found.samples] == ["p", "t", "t#2"]


def test_the_loss_of_plain_text_counts_every_token_but_the_first(
    models: Path, tmp_path: Path
) -> None:
    from slipway.datasets import Sample

    local = LocalModel(find_model(str(models / "one"), HOME), dtype="fp32")
    sample = Sample("t", (), tmp_path, 1, text="we ship it today")
    ((key, loss, tokens),) = local.losses([sample], 1024, lambda: None).rows
    ids = local.tokenizer(sample.text + "<|im_end|>", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        local.model.set_attn_implementation("sdpa")
        logits = local.model(input_ids=torch.tensor([ids])).logits[0, :-1]
        wanted = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum")
    assert (key, tokens) == ("t", len(ids) - 1) and loss == pytest.approx(float(wanted), rel=1e-4)


def test_a_text_longer_than_the_cutoff_is_one_row_in_pieces_and_a_cut_chat_is_named(
    models: Path, rows: Path, tmp_path: Path
) -> None:
    from slipway.datasets import Sample

    local = LocalModel(find_model(str(models / "one"), HOME))
    sample = Sample("t", (), tmp_path, 1, text="we ship it today " * 20)
    found = local.losses([sample], 32, lambda: None)
    assert [key for key, _, _ in found.rows] == ["t"] and found.rows[0][2] > 32
    chats = read_questions(rows).samples
    found = local.losses(chats, 36, lambda: None)
    assert found.cut and set(found.cut) | set(found.dropped) <= {s.id for s in chats}
    assert len(found.rows) + len(found.dropped) == len(chats)


def test_lines_are_kept_one_by_one_and_the_newest_counts(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    with Lines(path, {"a": 1}) as lines:
        lines.add("x", Prediction("x", "q", "", "l", error="busy").line())
        lines.add("y", Prediction("y", "q", "two", "l").line())
        lines.add("x", Prediction("x", "q", "one", "l").line())
        assert len(path.read_text().splitlines()) == 3
        lines.finish(["x", "y"])
    assert [line["predict"] for line in read_lines(path)] == ["one", "two"]
    with pytest.raises(ConflictError, match="another b"):
        Lines(path, {"a": 1, "b": 2})
