"""An environment of its own with LLaMA Factory, on the very torch that Slipway trains with.

Version 0.9.5 asks for torchvision and torchaudio, which fine-tuning of text never calls; without
torchvision and with an empty `torchaudio` module it installs beside any torch. torch itself is
linked from the running environment, so both programs compute with the same build.

    python benchmarks/llamafactory_env.py [FOLDER]
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import venv
from pathlib import Path

VERSION = "0.9.5"
_LEFT_OUT = ("torch", "torchvision", "torchaudio")
_REQUIREMENTS = """
import importlib.metadata
from packaging.requirements import Requirement
for line in importlib.metadata.requires("llamafactory"):
    wanted = Requirement(line)
    if wanted.name not in {left_out} and (not wanted.marker or wanted.marker.evaluate()):
        print(f"{{wanted.name}}{{wanted.specifier}}")
"""


def python_of(env: Path) -> Path:
    return env / "bin" / "python"


def _run(*command: str | Path) -> str:
    return subprocess.run(
        [str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def _link_torch(site: Path) -> None:
    found = importlib.metadata.distribution("torch")
    tops = {Path(str(file)).parts[0] for file in found.files or ()} - {"..", "__pycache__"}
    for name in sorted(tops):
        source = Path(str(found.locate_file(name)))
        if source.exists() and not (site / name).exists():
            (site / name).symlink_to(source)


def make(env: Path) -> Path:
    """Build the environment if it is not there, and return its python."""
    python = python_of(env)
    if (env / "ready").is_file():
        return python
    venv.EnvBuilder(with_pip=True, clear=True).create(env)
    site = Path(_run(python, "-c", "import site; print(site.getsitepackages()[0])").strip())
    _link_torch(site)
    (site / "torchaudio.py").touch()
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    _run(*pip, "--no-deps", f"llamafactory=={VERSION}")
    _run(*pip, "packaging")
    wanted = _run(python, "-c", _REQUIREMENTS.format(left_out=_LEFT_OUT)).split()
    torch = f"torch=={importlib.metadata.version('torch')}"  # linked; pip must not fetch another
    _run(*pip, torch, *wanted)
    (env / "ready").touch()
    return python


def check(env: Path) -> Path:
    """The python of an environment that is there, with the right version.

    Raises:
        SystemExit: it holds no LLaMA Factory, or another version.
    """
    python = python_of(env)
    ask = "import importlib.metadata as m; print(m.version('llamafactory'), m.version('torch'))"
    done = subprocess.run([str(python), "-c", ask], capture_output=True, text=True)
    ours = importlib.metadata.version("torch")
    if done.returncode or done.stdout.split() != [VERSION, ours]:
        there = done.stdout.strip() or "none"
        raise SystemExit(f"{env}: wanted llamafactory {VERSION} and torch {ours}, found {there}")
    return python


if __name__ == "__main__":
    print(make(Path(sys.argv[1] if len(sys.argv) > 1 else "llamafactory-env").absolute()))
