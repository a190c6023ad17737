from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipway.core.errors import ResourceError, ToolError, UsageError
from slipway.core.paths import Home
from slipway.evaluation import Plan, evaluate, find_model, served_model
from slipway.evaluation.harness import command, read_results

HOME = Home(Path("nowhere"))
# a program that takes lm-eval's flags and writes its result file where lm-eval does
PROGRAM = """
import json, pathlib, sys
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if "broken" in flags["--tasks"]:
    sys.exit("no such task")
out = pathlib.Path(flags["--output_path"]).with_name("results_2026.json")
out.parent.mkdir(parents=True, exist_ok=True)
row = {"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": "sums"}
out.write_text(json.dumps({"results": {flags["--tasks"]: row}, "seen": flags}))
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "lm_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))


@pytest.mark.usefixtures("installed")
def test_tasks_run_as_a_program_once_and_are_recorded(models: Path, tmp_path: Path) -> None:
    model = find_model(str(models / "one"), HOME)
    plan = Plan((model,), tmp_path / "out", lm_eval=("sums",), rows=3, lm_eval_tasks=tmp_path)
    results = evaluate(plan)
    assert results["lm_eval"] == {"one": {"sums": {"acc": 0.5, "acc_stderr": 0.1}}}
    seen = json.loads((tmp_path / "out/lm_eval/results_2026.json").read_text())["seen"]
    assert seen["--limit"] == "3" and seen["--include_path"] == str(tmp_path)
    assert f"pretrained={model.path}" in seen["--model_args"]
    (tmp_path / "out/lm_eval/results_2026.json").unlink()
    assert evaluate(plan)["lm_eval"] == results["lm_eval"]  # kept, not run again
    assert "| `one` | sums | acc | 0.5 |" in (tmp_path / "out/report.md").read_text()


@pytest.mark.usefixtures("installed")
def test_its_failure_is_quoted(models: Path, tmp_path: Path) -> None:
    model = find_model(str(models / "one"), HOME)
    with pytest.raises(ToolError, match="no such task"):
        evaluate(Plan((model,), tmp_path / "out", lm_eval=("broken",)))


@pytest.mark.usefixtures("installed")
def test_a_server_cannot_be_given_to_it(tmp_path: Path) -> None:
    model = served_model("http://127.0.0.1:9", "tiny")
    with pytest.raises(UsageError, match="tiny"):
        evaluate(Plan((model,), tmp_path / "out", lm_eval=("sums",)))


def test_without_it_the_extra_is_named(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipway.evaluation.harness.find_spec", lambda name: None)
    model = find_model(str(models / "one"), HOME)
    with pytest.raises(ResourceError) as error:
        evaluate(Plan((model,), tmp_path / "out", lm_eval=("sums",)))
    assert "slipway[lm-eval]" in error.value.hint_en


def test_an_adapter_is_passed_on_and_stderr_is_a_metric(models: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    model = replace(
        find_model(str(models / "one"), HOME), kind="adapter", adapter=tmp_path / "adapter"
    )
    line = command(Plan((model,), tmp_path, lm_eval=("a", "b")), model, tmp_path / "x.json")
    assert f"peft={tmp_path / 'adapter'}" in line[line.index("--model_args") + 1]
    assert line[line.index("--tasks") + 1] == "a,b"
    assert read_results({"results": {"t": {"acc,none": 1, "alias": "t", "ok": True}}}) == {
        "t": {"acc": 1.0}
    }
