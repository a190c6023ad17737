"""Build llama.cpp's programs with CMake: only what Slipway uses, resumable, with progress."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from slipway.core import process
from slipway.core.files import write_text
from slipway.export.toolchain.build_tools import find_build_tools
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
  foreach(target llama-perplexity llama-batched-bench)
    target_sources(${{target}} PRIVATE ${{CMAKE_BINARY_DIR}}/slipway_flush.cpp)
  endforeach()
  add_custom_target({_ALL})
  add_dependencies({_ALL} {" ".join(TARGETS)})
endfunction()
if(NOT CMAKE_VERSION VERSION_LESS 3.19)
  cmake_language(DEFER DIRECTORY ${{CMAKE_SOURCE_DIR}} CALL slipway_targets)
endif()
"""

# These programs leave their output to a thread that the end of the program cuts off, with the
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
    include = build_dir / "slipway.cmake"
    same = include.is_file() and include.read_text(encoding="utf-8") == _INCLUDE
    if not rules.is_file() or not same:
        # half configured, by another generator, or for other programs
        shutil.rmtree(build_dir, ignore_errors=True)
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
