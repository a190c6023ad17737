from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from slipway.core.errors import InputError, NotFoundError, ToolError, UsageError
from slipway.core.paths import Home
from slipway.evaluation import ChoicePlan, Plan, evaluate, find_model, served_model
from slipway.evaluation.choice_scores import Given, by_subject, choose_by_llama
from slipway.evaluation.choices import Choice, read_choices
from slipway.evaluation.endpoint import Endpoint
from slipway.evaluation.local import LocalModel
from slipway.testing.fake_upstream import FakeAnswer, FakeUpstream

HOME = Home(Path("nowhere"))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def mmlu(tmp_path: Path) -> Path:
    folder = tmp_path / "mmlu"
    write(folder / "dev/anatomy_dev.csv", '"One, two?",a,b,c,d,A\nThree?,e,f,g,h,D\n')
    write(folder / "dev/virology_dev.csv", "Four?,i,j,k,l,B\nFive?,m,n,o,p,C\n")
    write(folder / "test/anatomy_test.csv", "Q1?,1,2,3,4,B\nQ2?,5,6,7,8,C\nQ3?,9,10,11,12,D\n")
    write(folder / "test/virology_test.csv", "V1?,x,y,z,w,A\n")
    return folder


@pytest.fixture
def ceval(tmp_path: Path) -> Path:
    folder = tmp_path / "ceval"
    head = "id,question,A,B,C,D,answer"
    write(folder / "dev/law_dev.csv", f"{head},explanation\n0,例题,甲,乙,丙,丁,C,因为\n")
    write(folder / "val/law_val.csv", f"\ufeff{head}\n0,题一,甲,乙,丙,丁,A\n1,题二,甲,乙,丙,丁,B\n")
    write(folder / "test/law_test.csv", "id,question,A,B,C,D\n0,题一,甲,乙,丙,丁\n")
    return folder


def test_mmlu_is_asked_with_its_published_prompt(mmlu: Path) -> None:
    found = read_choices(mmlu, shots=1)
    assert (found.layout, found.part, len(found.choices)) == ("mmlu", "test", 4)
    first = found.choices[0]
    assert first.prompt == (
        "The following are multiple choice questions (with answers) about anatomy.\n\n"
        "One, two?\nA. a\nB. b\nC. c\nD. d\nAnswer: A\n\n"
        "Q1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    )
    assert (first.id, first.category, first.answer) == ("anatomy:1", "STEM", "B")
    assert first.options == (" A", " B", " C", " D")
    assert found.choices[-1].category == "Other"


def test_ceval_withholds_its_test_answers_so_val_is_taken(ceval: Path) -> None:
    found = read_choices(ceval, shots=1)
    assert (found.layout, found.part, [c.answer for c in found.choices]) == (
        "ceval",
        "val",
        ["A", "B"],
    )
    assert found.choices[0].category == "Humanities"
    assert found.choices[0].prompt.endswith("题一\nA. 甲\nB. 乙\nC. 丙\nD. 丁\n答案：")
    assert found.choices[0].options[0] == "A"
    with pytest.raises(InputError, match="law_test"):
        read_choices(ceval, part="test", shots=0)


def test_cmmlu_files_have_no_suffix_and_a_mapping_beside_them_counts(tmp_path: Path) -> None:
    head = ",Question,A,B,C,D,Answer\n"
    write(tmp_path / "dev/tea.csv", f"{head}0,例,甲,乙,丙,丁,D\n")
    write(tmp_path / "test/tea.csv", f"{head}0,题,甲,乙,丙,丁,D\n")
    found = read_choices(tmp_path, shots=0)
    assert found.layout == "cmmlu" and found.unsorted == ["tea"]
    assert found.choices[0].category == "Other"
    write(tmp_path / "mapping.json", '{"tea": {"name": "茶艺", "category": "Humanities"}}')
    named = read_choices(tmp_path, shots=0)
    assert named.choices[0].category == "Humanities" and "茶艺" in named.choices[0].prompt
    assert named.unsorted == []
    write(tmp_path / "mapping.json", '{"tea": "x"}')
    with pytest.raises(InputError, match="mapping"):
        read_choices(tmp_path, shots=0)


def test_wrong_use_is_named(mmlu: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="5 are asked for"):
        read_choices(mmlu)
    with pytest.raises(NotFoundError, match="law"):
        read_choices(mmlu, shots=0, subjects=["law"])
    with pytest.raises(NotFoundError):
        read_choices(tmp_path / "nothing")
    write(mmlu / "test/anatomy_test.csv", "Q1?,1,2,3,4,B\nQ2?,5,6,7,8,E\n")
    with pytest.raises(InputError, match=r"anatomy_test.csv:2"):
        read_choices(mmlu, part="test", shots=0)
    assert len(read_choices(mmlu, shots=0, subjects=["virology"], part="test").choices) == 1


def test_packed_options_are_the_models_own_next_tokens(models: Path, mmlu: Path) -> None:
    from transformers import AutoModelForCausalLM

    choices = read_choices(mmlu, shots=2).choices
    local = LocalModel(find_model(str(models / "one"), HOME), dtype="fp32")
    found = list(local.option_scores([c.prompt for c in choices], [c.options for c in choices]))
    plain = AutoModelForCausalLM.from_pretrained(models / "one").eval()
    for choice, scores in zip(choices, found, strict=True):
        ids = local.tokenizer(choice.prompt + " A", add_special_tokens=False)["input_ids"]
        wanted = [
            local.tokenizer(choice.prompt + option, add_special_tokens=False)["input_ids"][-1]
            for option in choice.options
        ]
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([ids[:-1]])).logits[0, -1]
        own = torch.log_softmax(logits[wanted], -1)
        assert torch.allclose(torch.tensor(scores), own, atol=1e-4)


def test_a_tokenizer_that_splits_an_option_is_refused(models: Path) -> None:
    local = LocalModel(find_model(str(models / "one"), HOME))
    with pytest.raises(InputError, match="one token"):
        list(local.option_scores(["x"], [[" ab", " abab"]]))


def test_a_set_is_measured_resumed_and_averaged(
    models: Path, mmlu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tuple(find_model(str(models / name), HOME) for name in ("one", "two"))
    plan = Plan(found, tmp_path / "out", choices=ChoicePlan(mmlu, shots=2), resamples=200)
    results = evaluate(plan)
    choices = results["models"]["two"]["choices"]
    lines = [
        json.loads(line) for line in (tmp_path / "out/choices/two.jsonl").read_text().splitlines()
    ]
    right = [line["given"] == line["answer"] for line in lines]
    assert results["models"]["two"]["metrics"]["accuracy"]["value"] == 25 * sum(right)
    assert choices["subjects"]["virology"] == {"accuracy": 100.0 * right[3], "questions": 1}
    assert choices["categories"]["STEM"]["questions"] == 3 and choices["how"] == ["logits"]
    assert results["differences"]["two"]["accuracy"]["rows"] == 4
    monkeypatch.setattr(LocalModel, "__init__", lambda *_: pytest.fail("loaded again"))
    assert evaluate(plan)["models"]["two"]["choices"] == choices


def test_a_server_without_log_probabilities_is_read(
    upstream: FakeUpstream, mmlu: Path, tmp_path: Path
) -> None:
    says = {"Q1?": "B", "Q2?": "The answer is (C).", "Q3?": "ABBA", "V1?": "B. y"}

    def respond(body: dict[str, Any]) -> FakeAnswer:
        asked = body["messages"][0]["content"].rsplit("\n\n", 1)[-1].split("\n")[0]
        return FakeAnswer((says[asked],))

    upstream.respond = respond
    plan = Plan(
        (served_model(upstream.url, "tiny"),),
        tmp_path / "out",
        choices=ChoicePlan(mmlu, shots=1),
        resamples=200,
    )
    found = evaluate(plan)["models"]["tiny"]
    assert found["metrics"]["accuracy"]["value"] == 50
    assert found["choices"]["no_answer"] == ["anatomy:3"] and found["choices"]["how"] == ["text"]


@pytest.fixture
def llama() -> Iterator[dict[str, Any]]:
    """A server that answers every POST with `body` and keeps what it was asked in `seen`."""
    state: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            state["seen"] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            data = json.dumps(state["body"]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        state["url"] = f"http://127.0.0.1:{server.server_port}"
        yield state
        server.shutdown()
        thread.join()


def test_llama_servers_list_of_tokens_decides(llama: dict[str, Any]) -> None:
    choice = Choice("x:1", "x", "Other", "Q\nAnswer:", (" A", " B", " C", " D"), "B")
    top = [(" The", -0.1), (" B", -2.0), ("B", -3.0), (" A", -4.0)]
    llama["body"] = {
        "completion_probabilities": [
            {"top_logprobs": [{"token": token, "logprob": score} for token, score in top]}
        ]
    }
    given: list[Given] = []
    with Endpoint(llama["url"]) as server:
        choose_by_llama(server, [choice], given.append, at_once=1)
    assert given[0].given == "B" and given[0].scores[:2] == (-4.0, -2.0)
    assert llama["seen"]["n_predict"] == 1 and llama["seen"]["prompt"] == choice.prompt
    assert json.loads(given[0].line())["scores"][2] is None
    llama["body"] = {"content": "B"}
    with Endpoint(llama["url"]) as server, pytest.raises(ToolError, match="log-probabilities"):
        choose_by_llama(server, [choice], given.append, at_once=1)


def test_no_letter_counts_as_wrong_and_is_named() -> None:
    choices = [Choice(f"s:{n}", "s", "STEM", "", (), "A") for n in (1, 2)]
    given = [
        {"id": "s:1", "given": "A", "how": "text"},
        {"id": "s:2", "given": "", "how": "text"},
    ]
    found = by_subject(choices, given)
    assert found["subject_mean"] == 50 and found["no_answer"] == ["s:2"]
    assert found["taken"] == {"-": 1, "A": 1}
