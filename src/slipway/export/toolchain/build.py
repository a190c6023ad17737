"""Build llama.cpp's programs with CMake: only what Slipway uses, resumable, with progress."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slipway.core import process
from slipway.core.errors import ResourceError
from slipway.core.files import write_text
from slipway.core.i18n import tr
from slipway.export.toolchain.model import EXTRA_PROGRAMS, LLAMA_COMMIT, PROGRAMS
from slipway.export.toolchain.variants import Variant

_ALL = "slipway-tools"  # one target, so that make reports one progress
TARGETS = (*PROGRAMS, *EXTRA_PROGRAMS)

OnFraction = Callable[[float, float | None], None]
"""Progress of one step: part done (0..1), seconds left or None while unknown."""

_SETTINGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",  # else the build tries to fetch pages from a hub
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_ALL_WARNINGS=OFF",
    "-DGGML_ALL_WARNINGS=OFF",
    "-DLLAMA_BUILD_NUMBER=0",
    f"-DLLAMA_BUILD_COMMIT={LLAMA_COMMIT}",
)

# Argument parsing, HTTP and chat templates take most of the compiler's time and none of the
# engine's: -O1 there (the last -O on the command line wins) saves a third of the build.
_INCLUDE = f"""\
function(slipway_targets)
  foreach(target llama-common server-context llama-server-impl mtmd cpp-httplib
          llama-bench-impl llama-quantize-impl llama-imatrix llama-tokenize llama-gguf-split
          llama-cli-impl llama-completion-impl llama-batched-bench-impl)
    if(TARGET ${{target}})
      target_compile_options(${{target}} PRIVATE -O1)
    endif()
  endforeach()
  target_sources(llama-perplexity PRIVATE ${{CMAKE_BINARY_DIR}}/slipway_flush.cpp)
  add_custom_target({_ALL})
  add_dependencies({_ALL} {" ".join(TARGETS)})
endfunction()
if(NOT CMAKE_VERSION VERSION_LESS 3.19)
  cmake_language(DEFER DIRECTORY ${{CMAKE_SOURCE_DIR}} CALL slipway_targets)
endif()
"""

# `llama-perplexity` leaves its log to a thread that the end of the program cuts off, with the
# result in it when the machine is busy; this object is destroyed after main and waits for it.
_FLUSH = """\
struct common_log;
struct common_log * common_log_main();
void common_log_flush(struct common_log * log);
namespace {
struct slipway_flush {
    slipway_flush() { common_log_main(); }
    ~slipway_flush() { common_log_flush(common_log_main()); }
} at_exit;
}
"""


@dataclass(frozen=True, slots=True)
class BuildTools:
    """The programs a build needs; `ninja` is None where make does the work."""

    cmake: Path
    maker: Path
    ninja: bool
    cc: str
    cxx: str


def find_build_tools() -> BuildTools:
    """Find CMake, Ninja or make, and the compilers (CC and CXX are respected).

    Raises:
        ResourceError: something is missing; the hint has the command that installs it.
    """
    cmake = _which("cmake")
    ninja = _which("ninja", "ninja-build")
    make = _which("make", "gmake")
    cc = _compiler("CC", "cc", "gcc", "clang")
    cxx = _compiler("CXX", "c++", "g++", "clang++")
    missing = []
    if cmake is None:
        missing.append("cmake")
    if ninja is None and make is None:
        missing.append("make")
    if cc is None or cxx is None:
        missing.append("g++")
    maker = ninja or make
    if cmake is None or maker is None or cc is None or cxx is None:
        raise ResourceError(
            "toolchain.no_compiler",
            tr("building llama.cpp's tools needs {programs}", programs=", ".join(missing)),
            tr("install what is missing: `{command}`", command=_install_command(missing)),
        )
    return BuildTools(cmake, maker, ninja is not None, cc, cxx)


def _which(*names: str) -> Path | None:
    """A program on PATH, else beside this Python (PyPI has packages of cmake and ninja)."""
    for path in (None, str(Path(sys.executable).parent)):
        for name in names:
            if found := shutil.which(name, path=path):
                return Path(found)
    return None


def _compiler(variable: str, *names: str) -> str | None:
    if value := os.environ.get(variable, "").strip():
        return value if shutil.which(value.split()[0]) else None
    return next((name for name in names if shutil.which(name)), None)


def _install_command(missing: Sequence[str]) -> str:
    if "g++" not in missing and "make" not in missing:
        return "pip install cmake ninja"
    if sys.platform == "darwin":
        extra = " && brew install cmake" if "cmake" in missing else ""
        return f"xcode-select --install{extra}"
    for manager, compiler in (("apt-get", "g++"), ("dnf", "gcc-c++"), ("yum", "gcc-c++")):
        if shutil.which(manager):
            packages = [compiler if name == "g++" else name for name in missing]
            return f"sudo {manager} install -y {' '.join(packages)}"
    return (
        "pip install cmake ninja" if "g++" not in missing else "apt-get install -y g++ cmake make"
    )


def build(
    source: Path,
    build_dir: Path,
    variant: Variant,
    *,
    jobs: int,
    on_fraction: OnFraction | None = None,
) -> Path:
    """Build `TARGETS` of the source tree and return the folder of the programs.

    A build that was killed goes on where it was when called again with the same `build_dir`.

    Args:
        jobs: compilers at once.

    Raises:
        ResourceError: no compiler or CMake.
        ToolError: the configuration or a compilation failed; the end of its log is quoted.
    """
    tools = find_build_tools()
    nice = [found] if (found := shutil.which("nice")) else []
    environment = {"CC": tools.cc, "CXX": tools.cxx}
    rules = build_dir / ("build.ninja" if tools.ninja else "Makefile")
    if not rules.is_file():
        shutil.rmtree(build_dir, ignore_errors=True)  # half configured, or by another generator
        include = build_dir / "slipway.cmake"
        write_text(include, _INCLUDE)
        write_text(build_dir / "slipway_flush.cpp", _FLUSH)
        process.run(
            [
                tools.cmake,
                *("-S", source, "-B", build_dir),
                *("-G", "Ninja" if tools.ninja else "Unix Makefiles"),
                f"-DCMAKE_MAKE_PROGRAM={tools.maker}",
                f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={include}",
                *_SETTINGS,
                *variant.cmake_flags(),
            ],
            env=environment,
        )
    known = _ALL in rules.read_text(encoding="utf-8", errors="replace")
    targets = [_ALL] if known else TARGETS  # CMake before 3.19 cannot defer
    # the maker itself, not `cmake --build`: a kill of this process must end the compilers' parent
    process.run(
        [*nice, tools.maker, "-C", build_dir, f"-j{jobs}", *targets],
        env=environment,
        on_line=_Progress(on_fraction) if on_fraction else None,
    )
    return build_dir / "bin"


class _Progress:
    """Reads "[12/230] ..." (Ninja) and "[ 12%] ..." (make) and estimates the time left."""

    def __init__(self, on_fraction: OnFraction) -> None:
        self._on_fraction = on_fraction
        self._started = time.monotonic()
        self._first: float | None = None

    def __call__(self, line: str) -> None:
        fraction = parse_progress(line)
        if fraction is None:
            return
        if self._first is None:  # a resumed make starts beyond zero
            self._first, self._started = fraction, time.monotonic()
        done = fraction - self._first
        elapsed = time.monotonic() - self._started
        left = elapsed / done * (1 - fraction) if done > 0.03 else None
        self._on_fraction(fraction, left)


def parse_progress(line: str) -> float | None:
    """The part done (0..1) that a line of Ninja or make reports; None for other lines."""
    if match := re.match(r"\[(\d+)/(\d+)\]", line):
        return int(match[1]) / max(1, int(match[2]))
    if match := re.match(r"\[ *(\d+)%\]", line):
        return int(match[1]) / 100
    return None
