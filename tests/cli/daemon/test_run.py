from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import RunningDaemon, StartDaemon
from tests.pseudo_terminal import Terminal

from slipway.cli.connect import addresses
from slipway.cli.main import main
from slipway.cli.talk.images import take_images
from slipway.core.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NOT_FOUND,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
)
from slipway.core.paths import Home
from slipway.core.process import free_port
from slipway.testing.fake_upstream import FakeUpstream

Capture = pytest.CaptureFixture[str]


def slipway(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, with a pipe for standard input."""
    return subprocess.run(
        [sys.executable, "-m", "slipway.cli", *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )


def sent(answer: str) -> dict[str, Any]:
    """The request that the fake engine got, after the message `/dump`."""
    found: dict[str, Any] = json.loads(answer)
    return found


class TestOnce:
    def test_the_answer_is_all_of_stdout(self, here: RunningDaemon, shop: str) -> None:
        done = slipway("run", shop, "hello", "there")
        assert (done.returncode, done.stdout) == (0, "echo: hello there\n"), done.stderr

    def test_a_prompt_and_piped_text_come_together(self, here: RunningDaemon, shop: str) -> None:
        done = slipway("run", shop, "sum up:", text="one\ntwo\n")
        assert done.stdout == "echo: sum up: one two\n", done.stderr
        assert slipway("run", shop, text="only piped").stdout == "echo: only piped\n"

    def test_settings_reach_the_engine(self, here: RunningDaemon, shop: str) -> None:
        done = slipway(
            *("run", shop, "/dump", "--system", "Be kind.", "-o", "temperature=0.5"),
            *("-o", "stop=a", "-o", "stop=b", "--format", '{"type": "object"}'),
        )
        body = sent(done.stdout)
        assert body["temperature"] == 0.5 and body["stop"] == ["a", "b"]
        assert body["messages"][0] == {"role": "system", "content": "Be kind."}
        assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}

    def test_the_models_own_system_text_and_parameters_hold(
        self, here: RunningDaemon, shop: str
    ) -> None:
        body = sent(slipway("run", shop, "/dump").stdout)
        assert body["messages"][0]["content"] == "Be short." and body["temperature"] == 0.25

    def test_timings_are_printed_as_ollama_does(self, here: RunningDaemon, shop: str) -> None:
        done = slipway("run", shop, "/count 3", "--verbose")
        assert done.stdout == "w0 w1 w2\n"
        lines = [line.partition(":")[0] for line in done.stderr.splitlines()]
        assert lines == [
            *("total duration", "load duration", "prompt eval count", "prompt eval duration"),
            *("prompt eval rate", "eval count", "eval duration", "eval rate"),
        ]
        assert "eval count:           3 token(s)\neval duration:        3ms" in done.stderr

    def test_json_is_one_document(self, here: RunningDaemon, shop: str) -> None:
        answer = json.loads(slipway("run", shop, "--json", "hi").stdout)
        assert answer["content"] == "echo: hi" and answer["completion_tokens"] == 2
        assert answer["done_reason"] == "stop" and answer["completion_tokens_per_s"] == 1000
        assert slipway("run", shop, "--json").returncode == EXIT_USAGE

    def test_an_answer_at_its_limit_says_so(self, here: RunningDaemon, shop: str) -> None:
        done = slipway("run", shop, "/count 9", "-o", "num_predict=2")
        assert done.stdout == "w0 w1\n" and "num_predict" in done.stderr

    def test_keepalive_decides_how_long_the_model_stays(
        self, here: RunningDaemon, shop: str
    ) -> None:
        slipway("run", shop, "hi", "--keepalive", "2h")
        assert here.residents()[0].expires_in_s > 7000

    def test_an_embedding_model_prints_its_vector(self, here: RunningDaemon, embedder: str) -> None:
        done = slipway("run", embedder, "hi")
        assert len(json.loads(done.stdout)) == 8, done.stderr

    def test_without_truncation_a_long_prompt_is_refused(
        self, here: RunningDaemon, shop: str
    ) -> None:
        done = slipway("run", shop, "-o", "num_ctx=16", text="word " * 40)
        assert done.returncode == EXIT_USAGE and "16" in done.stderr

    @pytest.mark.parametrize(
        "wrong",
        [
            ["-o", "temprature=1"],
            ["-o", "temperature=warm"],
            ["-o", "temperature"],
            ["--think=very"],
            ["--keepalive", "soon"],
        ],
    )
    def test_wrong_values_are_told(
        self, here: RunningDaemon, shop: str, wrong: list[str], capsys: Capture
    ) -> None:
        assert main(["run", shop, "x", *wrong]) == EXIT_USAGE
        assert wrong[-1].strip("-").removesuffix("=1").split("=")[-1] in capsys.readouterr().err

    def test_a_format_that_is_no_schema_is_told(
        self, here: RunningDaemon, shop: str, tmp_path: Path, capsys: Capture
    ) -> None:
        (tmp_path / "s.json").write_text("[1]")
        assert main(["run", shop, "x", "--format", str(tmp_path / "s.json")]) == EXIT_FAILED
        assert main(["run", shop, "x", "--format", str(tmp_path / "no")]) == EXIT_NOT_FOUND
        assert main(["run", shop, "x", "--format", "{oops"]) == EXIT_FAILED

    def test_thinking_of_a_model_that_cannot_is_refused(
        self, here: RunningDaemon, shop: str, capsys: Capture
    ) -> None:
        assert main(["run", shop, "--think", "why"]) == EXIT_USAGE
        assert "think" in capsys.readouterr().err

    def test_an_unknown_model_names_the_near_ones(
        self, here: RunningDaemon, shop: str, capsys: Capture
    ) -> None:
        assert main(["run", "shop", "x"]) == EXIT_NOT_FOUND
        assert "`shop:q4`" in capsys.readouterr().err

    def test_an_engine_that_dies_is_an_error_after_what_came(
        self, here: RunningDaemon, shop: str
    ) -> None:
        done = slipway("run", shop, "/die")
        assert done.stdout == "I am\n" and done.returncode == EXIT_FAILED
        assert "Traceback" not in done.stderr and "error:" in done.stderr


def test_ctrl_c_ends_a_single_answer_and_the_models_work_on_it(
    start_daemon: StartDaemon, shop: str
) -> None:
    daemon = start_daemon("--tokens-per-second", "20")
    with Terminal(["run", shop, "/count 2000"], env={"OLLAMA_HOST": daemon.url}) as terminal:
        terminal.wait_for("w2 ")
        terminal.type("\x03")
        assert terminal.end() == EXIT_INTERRUPTED
        assert "Traceback" not in terminal.output
    deadline = time.monotonic() + 2
    while daemon.residents()[0].leases:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_given_address_is_never_started(capsys: Capture, home: Home) -> None:
    assert main(["run", "x", "y", "--url", f"127.0.0.1:{free_port()}"]) == EXIT_UNREACHABLE
    assert "slipway serve" in capsys.readouterr().err
    assert not home.services.exists()


def test_a_daemon_is_started_in_the_background_once(
    monkeypatch: pytest.MonkeyPatch, home: Home, capsys: Capture
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{free_port()}")
    commands = [
        subprocess.Popen(
            [sys.executable, "-m", "slipway.cli", "run", "nothing", "x"], stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    try:
        said = b"".join(command.communicate(timeout=60)[1] for command in commands).decode()
        assert [command.returncode for command in commands] == [EXIT_NOT_FOUND] * 2, said
        assert said.count("starting the model daemon") == 1
        assert main(["status"]) == 0 and "serve" in capsys.readouterr().out
    finally:
        assert main(["down"]) == 0


def test_the_service_of_this_home_is_found_and_a_stale_record_of_one_is_passed_over(
    here: RunningDaemon, shop: str, monkeypatch: pytest.MonkeyPatch, home: Home, capsys: Capture
) -> None:
    monkeypatch.delenv("OLLAMA_HOST")
    home.services.mkdir(parents=True)
    record = home.services / "serve.json"
    record.write_text(json.dumps({"url": here.url}))
    assert main(["run", shop, "hi"]) == 0
    assert capsys.readouterr().out == "echo: hi\n"
    for stale in ('{"url": "http://127.0.0.1:1"}', "{}", "[]", "no json"):
        record.write_text(stale)
        assert addresses(None, home)[-1] == "http://127.0.0.1:11434"


def test_a_server_of_another_kind_is_not_taken_for_a_daemon(capsys: Capture) -> None:
    with FakeUpstream(models=["tiny"]) as other:
        assert main(["ps", "--url", other.url]) != 0
    assert "Traceback" not in capsys.readouterr().err


def test_the_command_line_starts_quickly_and_without_torch() -> None:
    code = (
        "import sys; from slipway.cli.main import main; main(['run', '--help'])\n"
        "import slipway.cli.talk.repl, slipway.client.daemon\n"
        "slipway.client.DaemonClient('http://127.0.0.1:1')\n"
        "sys.exit(', '.join({'torch', 'rich', 'pydantic', 'slipway.store'} & {*sys.modules}) or 0)"
    )
    best = 9.0
    for _ in range(3):
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        best = min(best, time.perf_counter() - begun)
        assert done.returncode == 0, done.stderr
    assert best < 3  # 0.2 s on a machine with nothing else to do; what is imported is tested above


def test_thoughts_do_not_stand_among_the_answer_in_a_pipe(
    here: RunningDaemon, thinker: str
) -> None:
    done = slipway("run", "thinker", "--think", "/think")
    assert done.stdout == "echo: /think\n" and "let me see" in done.stderr
    assert "let me" not in slipway("run", "thinker", "--hidethinking", "/think").stderr
    answer = json.loads(slipway("run", "thinker", "/think", "--json").stdout)
    assert (answer["thinking"], answer["content"]) == ("let me see", "echo: /think")


PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M8AAwUBAZ6W3e8A"
)


def test_pictures_reach_a_model_that_sees(
    here: RunningDaemon, seer: str, shop: str, tmp_path: Path
) -> None:
    picture = tmp_path / "my photo.png"
    picture.write_bytes(PNG)
    data = base64.b64encode(PNG).decode()
    done = slipway("run", seer, f'what is on "{picture}" here?')
    assert data in done.stdout and "added the picture" in done.stderr
    assert "photo" not in done.stdout and "what is on" in done.stdout
    assert data in slipway("run", seer, "what?", "--image", str(picture)).stdout
    # nothing is taken for a picture that is none, or by a model that cannot see
    assert slipway("run", seer, "where is /nowhere/x.png").stdout.endswith("/nowhere/x.png\n")
    assert str(picture).split()[0] in slipway("run", shop, f"name {picture}").stdout
    assert slipway("run", shop, "what?", "--image", str(picture)).returncode == EXIT_USAGE
    missing = slipway("run", seer, "what?", "--image", str(tmp_path / "no.png"))
    assert missing.returncode == EXIT_NOT_FOUND


@pytest.mark.parametrize(
    ("text", "rest"),
    [("see ./a.png", "see"), ("'b c.JPG' and /x", "and /x"), ("a.png alone", "a.png alone")],
)
def test_only_paths_are_taken_out_of_a_message(
    text: str, rest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b c.JPG"):
        (tmp_path / name).write_bytes(PNG)
    assert take_images(text)[0] == rest
