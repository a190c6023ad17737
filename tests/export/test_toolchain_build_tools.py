"""Building with a compiler only: CMake and Ninja from their PyPI packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slipway.core.errors import ResourceError
from slipway.export.toolchain import build_tools
from slipway.export.toolchain.build_tools import find_build_tools


def programs(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PATH with a compiler and nothing else; no package, nothing beside Python."""
    path = programs(tmp_path / "path", "gcc", "g++")
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setattr(build_tools.sys, "executable", str(tmp_path / "venv" / "python"))
    monkeypatch.setattr(build_tools.importlib.util, "find_spec", lambda name: None)
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def package(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """PyPI's packages as pip lays them out in `folder`: CMake inside, Ninja in `bin`."""

    class Spec:
        def __init__(self, name: str) -> None:
            self.submodule_search_locations = [str(folder / name)]

    programs(folder / "cmake" / "data" / "bin", "cmake")
    programs(folder / "bin", "cmake", "ninja")
    (folder / "ninja").mkdir()
    monkeypatch.setattr(build_tools.importlib.util, "find_spec", Spec)


def test_packages_are_found_when_nothing_is_on_path(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(monkeypatch, bare / "site")
    found = find_build_tools()
    assert found.cmake == bare / "site" / "cmake" / "data" / "bin" / "cmake"
    assert found.ninja and found.maker == bare / "site" / "bin" / "ninja"


def test_what_is_on_path_comes_before_packages_and_ninja_before_make(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(monkeypatch, bare / "site")
    programs(bare / "path", "cmake", "make")
    found = find_build_tools()
    assert found.cmake == bare / "path" / "cmake"
    assert found.ninja and found.maker.name == "ninja"


@pytest.mark.parametrize(
    ("there", "missing", "command"),
    [
        ((), "cmake, ninja", "pip install cmake ninja"),
        (("cmake",), "ninja", "pip install ninja"),
        (("make",), "cmake", "pip install cmake"),
    ],
)
def test_only_what_is_missing_is_named_with_one_command(
    bare: Path, there: tuple[str, ...], missing: str, command: str
) -> None:
    programs(bare / "path", *there)
    with pytest.raises(ResourceError) as caught:
        find_build_tools()
    assert caught.value.message_en.endswith(f"needs {missing}")
    assert f"`{command}`" in caught.value.hint_en


def test_without_a_compiler_the_systems_own_command_is_given(bare: Path) -> None:
    for name in ("gcc", "g++"):
        (bare / "path" / name).unlink()
    programs(bare / "path", "apt-get", "cmake", "make")
    with pytest.raises(ResourceError) as caught:
        find_build_tools()
    if sys.platform == "linux":
        assert "sudo apt-get install -y g++`" in caught.value.hint_en


PROJECT = """\
cmake_minimum_required(VERSION 3.14)
project(tiny CXX)
add_executable(tiny main.cpp)
"""


@pytest.mark.slow
def test_pypis_cmake_and_ninja_build_with_no_other_on_path(tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(site), "cmake", "ninja"]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no package index in reach: {done.stderr[-200:]}")
    path = tmp_path / "path"
    path.mkdir()
    left_out = {"cmake", "ninja", "ninja-build", "make", "gmake"}
    for folder in os.environ["PATH"].split(os.pathsep):
        for program in Path(folder).glob("*"):
            if program.name not in left_out and not (path / program.name).exists():
                (path / program.name).symlink_to(program)
    (tmp_path / "CMakeLists.txt").write_text(PROJECT)
    (tmp_path / "main.cpp").write_text('#include <cstdio>\nint main() { std::puts("built"); }\n')
    code = (
        "import subprocess, sys\n"
        "from slipway.export.toolchain.build_tools import find_build_tools\n"
        "tools = find_build_tools()\n"
        "assert tools.ninja\n"
        "print(tools.cmake, tools.maker, flush=True)\n"
        "maker = f'-DCMAKE_MAKE_PROGRAM={tools.maker}'\n"
        f"build = [tools.cmake, '-S', {str(tmp_path)!r}, '-B', {str(tmp_path / 'build')!r}]\n"
        "subprocess.run([*build, '-G', 'Ninja', maker], check=True)\n"
        f"subprocess.run([tools.maker, '-C', {str(tmp_path / 'build')!r}], check=True)\n"
    )
    source = Path(build_tools.__file__).parents[3]
    # a copy of Python with no scripts beside it
    python = tmp_path / "lonely" / "python"
    python.parent.mkdir()
    python.symlink_to(Path(sys.executable).resolve())
    env = {
        "PATH": str(path),
        "PYTHONPATH": os.pathsep.join([str(site), str(source), *filter(None, sys.path)]),
    }
    made = subprocess.run([python, "-c", code], env=env, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    assert str(site) in made.stdout.splitlines()[0]
    assert shutil.which("tiny", path=str(tmp_path / "build"))
