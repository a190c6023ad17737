"""`slipway toolchain …` as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slipway.cli.main import main
from slipway.core.errors import NotFoundError
from slipway.core.manifest import write_manifest
from slipway.core.paths import Home
from slipway.export.toolchain import Toolchain
from slipway.export.toolchain.command import tool_command, tool_names, tool_path
from slipway.export.toolchain.cpu import stamp_here
from slipway.export.toolchain.model import VERSION
from slipway.testing.toolchain import CRASH_SIGILL, FakeToolchain

ECHO = "import sys, gguf\nprint(gguf.WHO, *sys.argv[1:])\n"


@pytest.fixture(autouse=True)
def no_other_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLIPWAY_TOOLCHAIN", raising=False)
    monkeypatch.setattr("slipway.export.toolchain.find.candidate_on_path", lambda: None)


def put(home: Home, name: str, variant: str = "native", **scripts: str) -> FakeToolchain:
    """An installed toolchain of shell scripts, as tested on this processor."""
    fake = FakeToolchain(home.toolchains / name, converter=ECHO, **scripts)
    package = fake.source / "gguf-py" / "gguf"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text("WHO = 'its own gguf'\n")
    write_manifest(
        fake.folder,
        "toolchain",
        name,
        versions={"llama.cpp": VERSION},
        notes={"variant": variant, "cpu_stamp": stamp_here()},
    )
    return fake


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    source = Path(__file__).parents[2] / "src"
    env = {**os.environ, "PYTHONPATH": str(source), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "slipway", "toolchain", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, **options)  # type: ignore[call-overload,no-any-return]


def test_exec_passes_arguments_output_and_exit_status_through(home: Home) -> None:
    put(home, "a", llama_bench='printf "%s|" "$@"; echo told >&2; exit 7')
    done = run("exec", "llama-bench", "--", "-m", "x y.gguf", "--json", "--help", "--")
    assert done.stdout == "-m|x y.gguf|--json|--help|--|"
    assert done.stderr == "told\n" and done.returncode == 7
    assert run("exec", "bench", "-p", "1").stdout == "-p|1|"  # without `--` and `llama-` too


def test_exec_dies_of_the_signal_that_killed_the_tool(home: Home) -> None:
    put(home, "a", llama_server=CRASH_SIGILL)
    assert run("exec", "llama-server").returncode == -signal.SIGILL


def test_exec_gives_a_signal_to_the_tool_itself(home: Home) -> None:
    put(home, "a", llama_server='trap "exit 42" TERM; echo up; while :; do sleep 0.05; done')
    source = Path(__file__).parents[2] / "src"
    child = subprocess.Popen(
        [sys.executable, "-m", "slipway", "toolchain", "exec", "llama-server"],
        env={**os.environ, "PYTHONPATH": str(source), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None and child.stdout.readline() == b"up\n"
        child.terminate()
        assert child.wait(10) == 42


def test_converter_runs_with_the_gguf_package_of_its_toolchain(home: Home) -> None:
    put(home, "a")
    done = run("exec", "convert_hf_to_gguf.py", "--", "folder", "--outtype", "f16")
    assert done.stdout == "its own gguf folder --outtype f16\n", done.stderr


def test_commands_of_tools(home: Home, tmp_path: Path) -> None:
    fake = put(home, "a")
    tools = Toolchain(fake.folder, fake.bin, fake.source, VERSION, "cache")
    made = tool_command(tools, "convert_lora_to_gguf", ["x"], {"PYTHONPATH": "/mine"})
    assert made.argv == [sys.executable, str(tools.lora_converter), "x"]
    assert made.env["PYTHONPATH"] == os.pathsep.join([str(tools.gguf_py), "/mine"])
    assert tool_names(tools)[-2:] == ["convert_hf_to_gguf.py", "convert_lora_to_gguf.py"]
    with pytest.raises(NotFoundError) as caught:
        tool_path(tools, "llama-bensh")
    assert "`llama-bench`" in caught.value.hint_en
    with pytest.raises(NotFoundError) as caught:
        tool_path(tools, "../../bin/sh")
    with pytest.raises(NotFoundError) as caught:
        tool_path(tools, "llama-cli")
    assert "slipway toolchain build" in caught.value.hint_en


def test_path_prints_the_folder_or_a_program(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = put(home, "a")
    assert main(["toolchain", "path"]) == 0
    assert capsys.readouterr().out == f"{fake.bin}\n"
    assert main(["toolchain", "path", "quantize", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(fake.bin / "llama-quantize")}


def test_list_use_and_remove(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    put(home, "fast")
    put(home, "safe", variant="baseline")

    def listed() -> dict[str, dict[str, object]]:
        capsys.readouterr()
        assert main(["toolchain", "list", "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["toolchains"]
        return {row["name"]: row for row in rows}

    assert list(listed()) == ["fast", "safe"] and listed()["fast"]["in_use"]
    assert main(["toolchain", "use", "safe"]) == 0
    assert listed()["safe"]["in_use"] and listed()["safe"]["pinned"]
    assert main(["toolchain", "use", "saef"]) == 5
    assert "`safe`" in capsys.readouterr().err
    assert main(["toolchain", "rm", "safe"]) == 0
    assert list(listed()) == ["fast"] and not listed()["fast"]["pinned"]
    assert main(["toolchain", "rm", "safe"]) == 5


def test_test_shows_each_type_and_a_crash_takes_the_tools_out_of_use(
    home: Home,
    tools: Toolchain,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("SLIPWAY_TOOLCHAIN")
    real = {
        name.replace("-", "_"): f'exec "{tools.program(name)}" "$@"'
        for name in ("llama-quantize", "llama-perplexity")
    }
    crash = f"case $* in *Q8_0.gguf*) {CRASH_SIGILL};; esac"
    fake = put(home, "a", llama_bench=crash, **real)
    package = fake.source / "gguf-py" / "gguf"
    (package / "__init__.py").unlink()
    package.rmdir()
    package.symlink_to(tools.gguf_py / "gguf")
    assert main(["toolchain", "test"]) == 1
    out = capsys.readouterr().out
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in out.splitlines()}
    assert rows["Q8_0"][0] == "crashed" and rows["Q8_0"][3].startswith("SIGILL in llama-bench")
    assert rows["Q4_K_M"][0] == "passed"

    assert main(["toolchain", "path"]) == 6
    assert "Q8_0: SIGILL" in capsys.readouterr().err
    assert main(["toolchain", "list"]) == 0
    assert "fails here" in capsys.readouterr().out


def test_digest_without_archive_is_a_slip(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["toolchain", "install", "--sha256", "0" * 64]) == 2
    assert "--from-archive" in capsys.readouterr().err
