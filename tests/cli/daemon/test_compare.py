from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import RunningDaemon
from tests.cli.daemon.conftest import RealDaemon
from tests.pseudo_terminal import Terminal

from slipway.cli.compare.plan import read_prompts, read_sweeps, variants
from slipway.cli.main import main
from slipway.core.errors import (
    EXIT_FAILED,
    EXIT_NOT_FOUND,
    EXIT_USAGE,
    InputError,
    SlipwayError,
    UsageError,
)
from slipway.core.paths import Home
from slipway.store import create_model

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def kefu(shop: str, home: Home) -> str:
    return create_model("kefu", f"FROM {shop}\nSYSTEM Speak Chinese.", home=home).name.display


def compared(capsys: Capture, *arguments: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["compare", *arguments, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_every_combination_answers_every_prompt_with_the_same_seed(
    here: RunningDaemon, shop: str, kefu: str, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "kind.txt").write_text("Be kind.\n")
    found = compared(
        capsys,
        *(shop, kefu, "-p", "/dump", "-p", "hello", "--temperature", "0,0.7"),
        *("--system", str(tmp_path / "kind.txt"), "--system", ""),
    )
    labels = [v["label"] for v in found["variants"]]
    assert len(labels) == len(set(labels)) == 8 and found["complete"]
    assert "shop:q4, system=kind.txt, temperature=0" in labels
    assert len(found["answers"]) == 16
    for answer in found["answers"][:8]:
        request, variant = json.loads(answer["text"]), found["variants"][answer["variant"]]
        assert request["seed"] == 42 and request["n_predict"] == 256
        assert request["temperature"] == variant["options"]["temperature"]
        own = "Be short." if variant["model"] == shop else "Speak Chinese."
        assert request["messages"][0]["content"] == (variant["system"] or own)


def test_equal_answers_are_told_and_counted(
    here: RunningDaemon, shop: str, kefu: str, capsys: Capture
) -> None:
    found = compared(capsys, shop, kefu, "-p", "one two")
    assert [a["same_as"] for a in found["answers"]] == [None, 1]
    assert found["answers"][0]["completion_tokens"] == 3
    assert found["answers"][0]["completion_tokens_per_s"] == 1000


def test_one_that_cannot_answer_does_not_end_the_others(
    here: RunningDaemon, shop: str, capsys: Capture
) -> None:
    prompt = "word " * 40
    found = compared(capsys, shop, "-p", prompt, "--sweep", "num_ctx=16,512", code=EXIT_FAILED)
    bad, good = found["answers"]
    assert bad["error"]["code"] == "engine.context_overflow" and good["error"] is None
    assert good["text"].startswith("echo: word")


def test_markdown_is_written_when_piped_and_to_a_file(
    here: RunningDaemon, shop: str, tmp_path: Path, capsys: Capture
) -> None:
    report, data = tmp_path / "r.md", tmp_path / "r.json"
    arguments = ["compare", shop, "-p", "a | ```b```", "--temperature", "0,1", "--max-tokens", "2"]
    assert main([*arguments, "--output", str(report)]) == 0
    page = capsys.readouterr().out
    assert page == report.read_text() and page.startswith("# Comparison")
    assert "| [2] temperature=1 | 1/1 | 2 | 1000.0 |" in page and ", cut*" in page
    assert main([*arguments, "--output", str(data)]) == 0
    assert json.loads(data.read_text())["complete"] is True


def test_wrong_use_is_told_before_anything_is_asked(
    here: RunningDaemon, shop: str, embedder: str, tmp_path: Path, capsys: Capture
) -> None:
    ask = ["-p", "x"]
    assert main(["compare", shop]) == EXIT_USAGE
    assert main(["compare", *ask]) == EXIT_USAGE
    assert main(["compare", shop, "nothing", *ask]) == EXIT_NOT_FOUND
    assert main(["compare", shop, embedder, *ask]) == EXIT_USAGE
    assert main(["compare", shop, *ask, "--temperature", "hot"]) == EXIT_USAGE
    assert main(["compare", shop, *ask, "--sweep", "seed=1"]) == EXIT_USAGE
    assert main(["compare", shop, *ask, "--sweep", "temprature=1"]) == EXIT_USAGE
    many = ",".join(str(n) for n in range(65))
    assert main(["compare", shop, *ask, "--seed", many]) == EXIT_USAGE
    assert main(["compare", shop, "--prompts", str(tmp_path / "no")]) == EXIT_NOT_FOUND
    assert not here.residents()
    assert "Traceback" not in capsys.readouterr().err


def test_side_by_side_on_a_wide_terminal_and_below_each_other_on_a_narrow_one(
    here: RunningDaemon, shop: str
) -> None:
    arguments = ["compare", shop, "-p", "hi there", "--temperature", "0,1"]
    for columns, beside in ((100, True), (40, False)):
        with Terminal(arguments, env={"NO_COLOR": "1"}, columns=columns) as terminal:
            assert terminal.end() == 0
        lines = terminal.output.splitlines()
        first = next(n for n, line in enumerate(lines) if "[1] temperature=0" in line)
        assert ("[2] temperature=1" in lines[first]) is beside, terminal.output
        assert "(the same as [1])" in terminal.output and "tokens/s" in terminal.output


def test_ctrl_c_shows_what_there_is(start_daemon: Any, shop: str) -> None:
    daemon = start_daemon("--tokens-per-second", "20")
    arguments = ["compare", shop, "-p", "hi there", "-p", "/count 2000", "--max-tokens", "2000"]
    with Terminal(arguments, env={"OLLAMA_HOST": daemon.url}) as terminal:
        terminal.wait_for("1 of 2 answers")
        terminal.type("\x03")
        assert terminal.end() == 130
    assert "echo: hi there" in terminal.output and "Traceback" not in terminal.output


def test_prompts_of_a_file(tmp_path: Path) -> None:
    text = tmp_path / "p.txt"
    text.write_text("\ufeffone\n\n two \n", "utf-8")
    assert read_prompts(text) == ["one", "two"]
    lines = tmp_path / "p.jsonl"
    lines.write_text('{"prompt": "a\\nb"}\n"c"\n')
    assert read_prompts(lines) == ["a\nb", "c"]
    lines.write_text('{"prompt": "a"}\n{"text": "b"}\n')
    with pytest.raises(InputError, match=":2 "):
        read_prompts(lines)
    text.write_bytes("退货".encode("gb18030"))
    with pytest.raises(SlipwayError, match="UTF-8"):
        read_prompts(text)
    text.write_text("\n")
    with pytest.raises(InputError):
        read_prompts(text)


def test_sweeps_are_read_and_labels_name_only_what_differs() -> None:
    assert read_sweeps(["top_k=1, 40,1", "seed=7"]) == {"top_k": ["1", "40"], "seed": ["7"]}
    for wrong in (["top_k"], ["top_k="], ["seed=1", "seed=2"]):
        with pytest.raises(UsageError):
            read_sweeps(wrong)
    made = variants(["m", "m"], [], {"top_k": ["1", "40"], "seed": ["7"]}, {"num_predict": 5})
    assert [v.label for v in made] == ["top_k=1", "top_k=40"]
    assert made[0].options == {"num_predict": 5, "top_k": 1, "seed": 7}
    long = variants(["m"], ["x" * 5000, "y"], {}, {})
    assert long[0].system == "x" * 5000 and len(long[0].label) < 50


def test_the_same_comparison_gives_the_same_answers_again(
    real: RealDaemon, capsys: Capture
) -> None:
    arguments = ["tiny", "-p", "ba be", "-p", "bi", "--temperature", "0,1", "--max-tokens", "12"]
    one = compared(capsys, *arguments)
    assert main(["stop", "tiny"]) == 0
    other = compared(capsys, *arguments)
    texts = [[answer["text"] for answer in found["answers"]] for found in (one, other)]
    assert texts[0] == texts[1] and len(set(texts[0])) > 1
