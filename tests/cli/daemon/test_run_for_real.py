"""llama.cpp and a tiny random model behind the real daemon."""

from __future__ import annotations

import json

from tests.cli.daemon.conftest import RealDaemon
from tests.cli.daemon.test_run import slipway
from tests.pseudo_terminal import Terminal


def test_an_answer_is_the_same_for_the_same_seed_and_piped_or_not(real: RealDaemon) -> None:
    asked = ["run", "tiny", "-o", "seed=3", "-o", "temperature=0", "-o", "num_predict=12"]
    one = json.loads(slipway(*asked, "--json", "ba be").stdout)
    assert 0 < one["completion_tokens"] <= 12 and one["prompt_tokens"] > 3
    assert one["completion_s"] > 0 and one["total_s"] >= one["completion_s"]
    piped = slipway(*asked, text="ba be")
    assert piped.stdout.rstrip("\n") == one["content"].rstrip("\n"), piped.stderr


def test_a_format_is_kept(real: RealDaemon) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    done = slipway("run", "tiny", "x", "--format", json.dumps(schema), "-o", "num_predict=200")
    assert json.loads(done.stdout)["n"] in (1, 2), done.stderr


def test_a_dialogue_in_a_terminal(real: RealDaemon) -> None:
    with Terminal(["run", "tiny", "--verbose"], env={"OLLAMA_HOST": real.url}) as terminal:
        terminal.line("ba be bi")
        terminal.wait_for("eval rate:")
        terminal.line("/set parameter num_predict 3")
        terminal.line("and on")
        terminal.wait_for("eval count:           3 token(s)")
        terminal.wait_for(">>> ")
        terminal.type("\x04")
        assert terminal.end() == 0
        assert "Traceback" not in terminal.output
