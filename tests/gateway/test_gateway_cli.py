from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from slipway.cli.main import main
from slipway.core.errors import (
    EXIT_FAILED,
    EXIT_NOT_FOUND,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
)
from slipway.core.process import free_port
from slipway.testing.fake_upstream import FakeUpstream

Capture = pytest.CaptureFixture[str]


def run(*arguments: str) -> int:
    return main(["gateway", *arguments])


def test_user_token_and_channel_are_made_and_listed(
    upstream: FakeUpstream, capsys: Capture
) -> None:
    assert run("user", "add", "ada", "--role", "admin") == 0
    capsys.readouterr()
    limits = ["--models", "tiny,other", "--budget", "1.50", "--expires", "30d", "--rpm", "60"]
    assert run("token", "add", "laptop", "--user", "ada", *limits) == 0
    key = capsys.readouterr().out.strip()
    assert key.startswith("sk-") and "\n" not in key
    price = ["--price-in", "0.5", "--price-out", "1.5"]
    assert run("channel", "add", "main", "--url", upstream.url, *price) == 0
    capsys.readouterr()

    assert run("user", "ls") == 0
    assert capsys.readouterr().out.splitlines()[1].split("\t")[:3] == ["ada", "admin", "default"]
    assert run("token", "ls") == 0
    listed = capsys.readouterr().out
    assert key not in listed and key[:10] in listed
    assert listed.splitlines()[1].split("\t")[4:8] == ["tiny, other", "0.00", "1.50", "60"]
    assert run("channel", "ls") == 0
    row = capsys.readouterr().out.splitlines()[1].split("\t")
    assert row[:3] == ["main", "slipway", upstream.url] and row[6:] == ["tiny", "0.50", "1.50"]


def test_json_is_one_document_without_secrets(upstream: FakeUpstream, capsys: Capture) -> None:
    def document(*arguments: str) -> object:
        assert run(*arguments, "--json") == 0
        return json.loads(capsys.readouterr().out)

    assert document("user", "add", "ada")["name"] == "ada"  # type: ignore[index]
    made = document("token", "add", "t", "--user", "ada")
    key = made.pop("key")  # type: ignore[attr-defined]
    assert document("token", "ls") == [made]
    assert key[12:] not in json.dumps(made)
    channel = document("channel", "add", "c", "--url", upstream.url)
    assert document("channel", "ls") == [channel]
    assert channel["has_key"] is False and channel["prices"] == {}  # type: ignore[index]
    usage = document("usage")
    assert usage["total"]["requests"] == 0 and usage["lines"] == []  # type: ignore[index]


def test_unpriced_models_are_named(upstream: FakeUpstream, capsys: Capture) -> None:
    assert run("channel", "add", "c", "--url", upstream.url) == 0
    assert "requests cost 0: tiny" in capsys.readouterr().err
    assert run("channel", "ls") == 0
    assert capsys.readouterr().out.count("unpriced") == 2


def test_the_upstreams_key_comes_from_a_file(
    upstream: FakeUpstream, capsys: Capture, tmp_path: object
) -> None:
    upstream.api_key = "secret"
    file = tmp_path / "key"  # type: ignore[operator]
    file.write_text("secret\n")
    assert run("channel", "add", "c", "--url", upstream.url, "--api-key-file", str(file)) == 0
    assert run("channel", "refresh", "c") == 0
    assert "secret" not in capsys.readouterr().err


def test_revoking(capsys: Capture) -> None:
    run("user", "add", "ada")
    run("token", "add", "laptop", "--user", "ada")
    assert run("token", "revoke", "laptop") == 0
    capsys.readouterr()
    run("token", "ls")
    assert "disabled" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["token", "add", "t", "--user", "nobody"], EXIT_NOT_FOUND, "no user `nobody`"),
        (["token", "add", "t", "--user", "ada", "--budget", "x"], EXIT_USAGE, "--budget"),
        (["token", "add", "t", "--user", "ada", "--expires", "soon"], EXIT_USAGE, "30d"),
        (["token", "add", "t", "--user", "ada", "--budget", ""], EXIT_USAGE, "--budget"),
        (["token", "add", "t", "--user", "ada", "--expires", ""], EXIT_USAGE, "30d"),
        (["token", "add", "t", "--user", "ada", "--models", " ,"], EXIT_USAGE, "--models"),
        (["token", "revoke", "nothing"], EXIT_NOT_FOUND, "`nothing`"),
        (["user", "add", "ada"], EXIT_FAILED, "exists already"),
        (["channel", "add", "c", "--url", "nonsense"], EXIT_USAGE, "nonsense"),
        (["channel", "add", "c", "--url", "http://x", "--price-in", "1"], EXIT_USAGE, "both"),
        (["channel", "refresh", "c"], EXIT_NOT_FOUND, "no channel `c`"),
    ],
)
def test_mistakes_are_explained(
    arguments: list[str], code: int, says: str, capsys: Capture
) -> None:
    run("user", "add", "ada")
    capsys.readouterr()
    assert run(*arguments) == code
    assert says in capsys.readouterr().err


def test_a_daemon_that_is_down_is_named(capsys: Capture) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert run("channel", "add", "c", "--url", url) == EXIT_UNREACHABLE
    assert url in capsys.readouterr().err


def test_a_port_in_use_is_named_with_another_one(capsys: Capture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run("serve", "--port", str(port)) == EXIT_FAILED
    assert f"--port {port + 1}" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"  \n", b"sk-a\nsk-b\n", b"\xff\xfe", "钥匙".encode()])
def test_a_key_file_without_a_key_is_refused(
    tmp_path: Path, content: bytes, capsys: Capture
) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    channel = ["channel", "add", "c", "--url", "http://127.0.0.1:1", "--models", "m"]
    assert run(*channel, "--api-key-file", str(file)) == EXIT_USAGE
    assert str(file) in capsys.readouterr().err
    assert run("channel", "refresh", "c") == EXIT_NOT_FOUND


def test_limits_are_set_listed_and_taken_away(capsys: Capture) -> None:
    assert run("user", "add", "ada", "--group", "team") == 0
    assert run("limit", "set", "group", "team", "--rpm", "60", "--day", "2.50") == 0
    capsys.readouterr()
    assert run("limit", "ls") == 0
    row = capsys.readouterr().out.splitlines()[1].split("\t")
    assert row == ["group", "team", "60", "-", "-", "0.00 / 2.50", "-", "-"]
    assert run("limit", "ls", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["scope"], found["rpm"], found["day_micro"]) == ("group", 60, 2_500_000)
    assert run("limit", "set", "user", "ad", "--rpm", "1") == 5
    assert "`ada`" in capsys.readouterr().err
    assert run("limit", "set", "user", "ada") == 2
    assert run("limit", "rm", "group", "team") == 0
    assert run("limit", "rm", "group", "team") == 5


def test_explain_names_every_channel_of_a_model(upstream: FakeUpstream, capsys: Capture) -> None:
    assert run("channel", "add", "main", "--url", upstream.url, "--priority", "3") == 0
    assert run("channel", "add", "spare", "--url", upstream.url) == 0
    capsys.readouterr()
    assert run("explain", "tiny") == 0
    shown = capsys.readouterr()
    assert "1. main" in shown.out and "2. spare" in shown.out and "/api/explain" in shown.err
    assert run("explain", "none", "--json") == 0
    assert json.loads(capsys.readouterr().out)["model"] is None
