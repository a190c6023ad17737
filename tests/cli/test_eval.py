"""`slipway eval MODEL...` and `slipway eval compare` as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.evaluation.conftest import ROWS, write_rows

from slipway.cli.main import main
from slipway.core.manifest import read_manifest
from slipway.core.paths import Home
from slipway.testing.fake_upstream import FakeAnswer, FakeUpstream
from slipway.testing.tiny import tiny_model


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl")


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    answers = dict(ROWS)

    def respond(body: dict[str, object]) -> FakeAnswer:
        messages = body["messages"]
        assert isinstance(messages, list)
        asked = messages[-1]["content"]
        if "<answer_1>" in asked:
            right = asked.split("</answer_1>")[0]
            first = any(f"<answer_1>\n{text}\n" in right for text in answers.values())
            return FakeAnswer((json.dumps({"winner": "1" if first else "2"}),), usage=(10, 2))
        return FakeAnswer((answers[asked] if body["model"] == "good" else "who knows",))

    with FakeUpstream(["good", "bad", "judge"]) as server:
        server.respond = respond
        yield server


def served(upstream: FakeUpstream, rows: Path, *more: str) -> list[str]:
    line = ["eval", "--endpoint", upstream.url, "--data", str(rows), "--resamples", "200"]
    return [*line, *more]


def test_two_served_models_are_compared_and_judged(
    upstream: FakeUpstream, rows: Path, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    line = served(upstream, rows, "--model", "bad", "--model", "good", "--judge", "judge")
    assert main([*line, "--judge-price", "1,2"]) == 0
    shown = capsys.readouterr().out
    assert "exact_match: good is really better than bad" in shown
    assert "won 10, lost 0" in shown and "cost 0.000280" in shown
    assert "10 better, 0 worse" in shown
    asked = len(upstream.seen)
    assert main([*line, "--json"]) == 0  # the same command goes on where it was: all is there
    found = json.loads(capsys.readouterr().out)
    assert len(upstream.seen) == asked
    assert found["models"]["good"]["metrics"]["chrf"]["value"] == 100
    assert found["judge"]["good"]["wins"] == 10
    assert Path(found["folder"]).parent == home.artefacts
    assert main([*served(upstream, rows, "--model", "bad"), "--max-new-tokens", "9"]) == 0
    assert len(upstream.seen) == asked + 10  # other settings have a folder of their own


def test_gates_fail_the_command_after_the_result_is_written(
    upstream: FakeUpstream, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = served(upstream, rows, "--model", "good", "--model", "bad")
    out = ["-o", str(tmp_path / "out"), "--json"]
    assert main([*line, *out, "--min", "rouge_l=1", "--max-drop", "exact_match=5"]) == 1
    shown = capsys.readouterr()
    error = json.loads(shown.err.splitlines()[-1])["error"]
    assert error["code"] == "eval.gate" and error["message"].count("\n") == 2
    assert json.loads(shown.out)["baseline"] == "good"
    assert main([*line, *out, "--max-drop", "exact_match=100"]) == 0
    assert main([*line, *out, "--min", "rouge=1"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_results_are_compared_by_folder_and_label(
    upstream: FakeUpstream, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("good", "bad"):
        out = str(tmp_path / f"out-{name}")
        assert main([*served(upstream, rows, "--model", name), "-o", out]) == 0
    capsys.readouterr()
    folders = [str(tmp_path / "out-good"), str(tmp_path / "out-bad")]
    assert main(["eval", "compare", *folders]) == 0
    assert "bad is really worse than good" in capsys.readouterr().out
    assert main(["eval", "compare", *folders, "--max-drop", "rouge_l=3", "--json"]) == 1
    capsys.readouterr()
    assert main(["eval", "compare", f"{folders[0]}:none", folders[1]]) == 5
    assert "known models: good" in capsys.readouterr().err
    assert main(["eval", "compare", folders[0]]) == 2


def test_answers_of_other_settings_in_the_same_folder_need_fresh(
    upstream: FakeUpstream, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*served(upstream, rows, "--model", "good"), "-o", str(tmp_path / "out")]
    assert main(line) == 0
    assert main([*line, "--temperature", "0.5"]) == 1
    assert "--fresh" in capsys.readouterr().err
    assert main([*line, "--temperature", "0.5", "--fresh"]) == 0


def test_a_killed_evaluation_asks_only_for_what_is_missing(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with FakeUpstream(["good"], FakeAnswer(("yes",), delay_s=0.2)) as server:
        line = [*served(server, rows, "--model", "good"), "--at-once", "1", "-o", str(out)]
        child = subprocess.Popen([sys.executable, "-m", "slipway.cli", *line])
        path = out / "predictions" / "good.jsonl"
        while not path.is_file() or path.read_text().count("\n") < 3:
            assert child.poll() is None
            time.sleep(0.01)
        child.kill()
        child.wait()
        kept = path.read_text().count("\n")
        asked = len(server.seen)
        server.default = FakeAnswer(("yes",))
        assert 3 <= kept < 10 and not (out / "manifest.json").exists()
        assert main(line) == 0
        assert len(server.seen) - asked == 10 - kept
    assert path.read_text().count("\n") == 10


def test_the_key_of_the_models_is_not_sent_to_the_judge(
    upstream: FakeUpstream, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_KEY", "secret-key")
    with FakeUpstream(["judge"]) as elsewhere:
        elsewhere.respond = upstream.respond
        line = served(upstream, rows, "--model", "bad", "--model", "good", "--rows", "2")
        judge = ["--judge", "judge", "--judge-endpoint", elsewhere.url]
        assert main([*line, "--key-env", "MODEL_KEY", *judge]) == 0
        assert elsewhere.seen and all("authorization" not in r.headers for r in elsewhere.seen)
    assert upstream.seen[0].headers["authorization"] == "Bearer secret-key"


@pytest.mark.slow
def test_a_run_is_really_better_than_its_base(
    tmp_path: Path, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    for name in ("train", "heldout"):  # the same rows: it shall learn them by heart
        write_rows(data / f"{name}.jsonl")
    model = tiny_model(tmp_path / "tiny")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {model}\ndata: {data}\nmax_steps: 40\nlearning_rate: 0.02\nbatch_tokens: 512\n"
        "lora: {rank: 8}\n"
    )
    assert main(["train", str(recipe), "--run-dir", str(home.runs / "mine")]) == 0
    capsys.readouterr()
    assert main(["eval", "mine", "--max-new-tokens", "24", "--json", "--resamples", "200"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["models"]) == ["base", "mine"]
    loss = found["differences"]["mine"]["loss"]
    assert loss["real"] and loss["better"] and loss["high"] < 0
    trained = read_manifest(home.runs / "mine")
    for name, key in (("base", "base_eval_loss"), ("mine", "eval_loss")):
        ours = found["models"][name]["metrics"]["loss"]["value"]
        assert ours == pytest.approx(trained.metrics[key], rel=1e-3)
    manifest = read_manifest(Path(found["folder"]), kind="evaluation")
    assert manifest.parents["mine:run"] == trained.digest
    assert manifest.parents["mine:base"] == manifest.parents["base"] == trained.parents["base"]


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (["eval"], 2, "slipway eval RUN"),
        (["eval", "x", "--tuned", "y"], 2, "models"),
        (["eval", "--tuned", "y", "--judge", "z"], 2, "judge"),
        (["eval", "no-such-model", "--data", "d"], 5, "no-such-model"),
        (["eval", "--model", "m", "--data", "d"], 2, "--endpoint"),
        (["eval", "--endpoint", "http://x", "--data", "d"], 2, "--model"),
        (
            ["eval", "--endpoint", "http://x", "--model", "m", "--key-env", "NO_KEY_HERE"],
            2,
            "NO_KEY_HERE",
        ),
    ],
)
def test_wrong_use_is_told_with_a_way_on(
    line: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line) == code
    assert said in capsys.readouterr().err


def test_help_names_both_uses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--max-drop" in shown and "--quant" in shown and "compare A B" in shown
    assert main(["eval", "compare", "--help"]) == 0
    assert "FOLDER:LABEL" in capsys.readouterr().out
