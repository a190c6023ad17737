from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from slipway.cli.main import main
from slipway.client import save_profile
from slipway.core.errors import EXIT_AUTH, EXIT_FAILED, EXIT_NOT_FOUND, EXIT_UNREACHABLE, EXIT_USAGE
from slipway.core.paths import Home
from slipway.core.process import free_port
from slipway.testing.fake_upstream import FakeUpstream

Capture = pytest.CaptureFixture[str]


class Terminal(io.StringIO):
    """Standard input of a person at a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream(models=["tiny"]) as server:
        server.api_key = "sk-right"
        yield server


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLIPWAY_API_KEY", raising=False)
    monkeypatch.setattr(sys, "stdin", Terminal())


def test_one_question_with_the_saved_profile(
    upstream: FakeUpstream, home: Home, capsys: Capture
) -> None:
    save_profile(home, upstream.url, "sk-right", "tiny")
    assert main(["chat", "hello there", "--system", "be kind"]) == 0
    assert capsys.readouterr().out == "hello there\n"
    assert upstream.seen[-1].body["messages"][0] == {"role": "system", "content": "be kind"}


def test_json(upstream: FakeUpstream, capsys: Capture) -> None:
    arguments = ["--url", upstream.url, "--key", "sk-right", "--json"]
    assert main(["chat", "hello there", *arguments]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["content"], answer["completion_tokens"]) == ("hello there", 2)
    assert main(["chat", *arguments]) == EXIT_USAGE


def test_a_saved_key_is_not_sent_elsewhere(
    upstream: FakeUpstream, home: Home, capsys: Capture
) -> None:
    save_profile(home, "http://127.0.0.1:1", "sk-right", "tiny")
    assert main(["chat", "x", "--url", upstream.url]) == EXIT_AUTH
    assert "SLIPWAY_API_KEY" in capsys.readouterr().err
    assert upstream.seen == []


def test_failures_have_their_exit_codes(upstream: FakeUpstream, capsys: Capture) -> None:
    here = ["--url", upstream.url]
    assert main(["chat", "x", *here, "--key", "sk-wrong"]) == EXIT_AUTH
    assert main(["chat", "x", *here, "--key", "sk-right", "--model", "no"]) == EXIT_NOT_FOUND
    nobody = f"http://127.0.0.1:{free_port()}"
    assert main(["chat", "x", "--url", nobody, "--key", "k"]) == EXIT_UNREACHABLE
    assert "Traceback" not in capsys.readouterr().err


def test_one_of_several_models_must_be_named(upstream: FakeUpstream, capsys: Capture) -> None:
    upstream.models.append("big")
    assert main(["chat", "x", "--url", upstream.url, "--key", "sk-right"]) == EXIT_USAGE
    assert "--model big" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "piped", "asked"),
    [([], "from the pipe\n", "from the pipe"), (["sum up"], "the text", "sum up\n\nthe text")],
)
def test_text_may_be_piped_in(
    upstream: FakeUpstream, arguments: list[str], piped: str, asked: str
) -> None:
    code = "import sys; from slipway.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "chat", *arguments, "--url", upstream.url],
        input=piped,
        env={**os.environ, "SLIPWAY_API_KEY": "sk-right"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert upstream.seen[-1].body["messages"] == [{"role": "user", "content": asked}]
    assert done.stdout.split() == asked.split()


def test_nothing_piped_in_is_a_usage_error(upstream: FakeUpstream) -> None:
    code = "import sys; from slipway.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "chat", "--url", upstream.url, "--key", "k"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert done.returncode == EXIT_USAGE


def test_standard_input_may_be_a_stream_in_memory(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("from memory\n"))
    assert main(["chat", "sum up", "--url", upstream.url, "--key", "sk-right"]) == 0
    assert upstream.seen[-1].body["messages"][0]["content"] == "sum up\n\nfrom memory"


@pytest.mark.parametrize("missing", [None, "closed"])
def test_without_any_standard_input_the_prompt_is_enough(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, missing: str | None, capsys: Capture
) -> None:
    nothing = io.StringIO()
    nothing.close()
    monkeypatch.setattr(sys, "stdin", nothing if missing else None)
    here = ["--url", upstream.url, "--key", "sk-right"]
    assert main(["chat", "hello", *here]) == 0
    assert capsys.readouterr().out == "hello\n"
    assert main(["chat", *here]) == EXIT_USAGE


def test_piped_bytes_that_are_no_text_are_told(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    data = io.TextIOWrapper(io.BytesIO("退货".encode("gb18030")), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", data)
    assert main(["chat", "--url", upstream.url, "--key", "sk-right"]) == EXIT_FAILED
    assert "iconv" in capsys.readouterr().err
