"""The real starter model: a short training, measured against its base; and its GGUF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.contract.test_daemon_clients import starter_gguf
from tests.shared_home import link_shared_folders

from slipway.cli.main import main
from slipway.core.manifest import read_manifest
from slipway.core.paths import Home
from slipway.evaluation.predictions import read_lines

pytestmark = pytest.mark.slow
DATA = Path(__file__).parents[2] / "examples" / "support-en"


def run(capsys: pytest.CaptureFixture[str], *line: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*line, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def starter(home: Home) -> Path:
    link_shared_folders(home)
    assert main(["pull", "starter"]) == 0
    return home.bases / "starter"


def test_a_short_training_is_really_better_than_its_base(
    starter: Path, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name, count in (("train", 40), ("heldout", 10)):
        lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (data / f"{name}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {starter}\ndata: {data}\nmax_steps: 8\nlearning_rate: 0.002\n"
        "batch_tokens: 256\nlora: {rank: 8}\n"
    )
    assert main(["train", str(recipe), "--run-dir", str(home.runs / "short")]) == 0
    found = run(capsys, "eval", "short", "--max-new-tokens", "16")
    assert list(found["models"]) == ["base", "short"]
    trained = read_manifest(home.runs / "short")
    ours = [found["models"][name]["metrics"]["loss"]["value"] for name in ("base", "short")]
    theirs = [trained.metrics[name] for name in ("base_eval_loss", "eval_loss")]
    assert ours == pytest.approx(theirs, rel=0.01)  # the same rows, the same loss
    loss = found["differences"]["short"]["loss"]
    assert loss["real"] and loss["better"] and loss["high"] < 0
    assert read_manifest(Path(found["folder"])).parents["short"] == trained.digest


def test_the_gguf_takes_the_letters_of_the_folder(
    starter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    for part, count in (("dev", 3), ("test", 16)):
        (folder / part).mkdir(parents=True)
        rows = [f"What is {n} + {n}?,{n},{2 * n},{3 * n},{n + 1},B" for n in range(2, count + 2)]
        (folder / part / f"sums_{part}.csv").write_text("\n".join(rows) + "\n")
    found = run(
        capsys,
        *("eval", f"folder={starter}", f"gguf={starter_gguf(tmp_path)}", "--data", str(DATA)),
        *("--rows", "4", "--max-new-tokens", "16", "--choices", str(folder), "--shots", "3"),
    )
    lines = [
        list(read_lines(Path(found["folder"]) / f"choices/{m}.jsonl")) for m in ("folder", "gguf")
    ]
    same = sum(a["given"] == b["given"] for a, b in zip(*lines, strict=True))
    assert same >= 14 and lines[1][0]["how"] == "logprobs"
    for a, b in zip(*lines, strict=True):  # Q4_1 against the same weights in memory
        best = "ABCD".index(a["given"])
        assert abs(a["scores"][best] - b["scores"][best]) < 1.0
    assert found["models"]["gguf"]["answered"] == 4
