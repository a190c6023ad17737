"""The programs that a native build needs: on PATH, or from their PyPI packages."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slipway.core.errors import ResourceError
from slipway.core.i18n import tr


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
        missing.append("ninja")
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
    """A program on PATH, else of its PyPI package, else beside this Python."""
    for name in names:
        if found := shutil.which(name) or _packaged(name):
            return Path(found)
    beside = str(Path(sys.executable).parent)
    found = next((f for name in names if (f := shutil.which(name, path=beside))), None)
    return Path(found) if found else None


def _packaged(name: str) -> str | None:
    """The program in the PyPI package of the same name (cmake, ninja), wherever pip put it."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location)
        # before the console script, which is Python and needs the package on its path
        for place in (folder / "data" / "bin", folder.parent / "bin"):
            if found := shutil.which(name, path=str(place)):
                return found
    return None


def _compiler(variable: str, *names: str) -> str | None:
    if value := os.environ.get(variable, "").strip():
        return value if shutil.which(value.split()[0]) else None
    return next((name for name in names if shutil.which(name)), None)


def _install_command(missing: Sequence[str]) -> str:
    """One command that installs what is missing; PyPI has all but the compiler."""
    if "g++" not in missing:
        return f"pip install {' '.join(missing)}"
    if sys.platform == "darwin":
        rest = [name for name in missing if name != "g++"]
        return "xcode-select --install" + (f" && pip install {' '.join(rest)}" if rest else "")
    for manager, compiler in (("apt-get", "g++"), ("dnf", "gcc-c++"), ("yum", "gcc-c++")):
        if shutil.which(manager):
            names = {"g++": compiler, "ninja": "ninja-build"}
            return f"sudo {manager} install -y {' '.join(names.get(n, n) for n in missing)}"
    return f"apt-get install -y {' '.join('ninja-build' if n == 'ninja' else n for n in missing)}"
