"""Runs the contract tests' scripts with Node and the clients that `npm ci` installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "js"


def run_script(name: str, *arguments: str) -> dict[str, Any]:
    """What a script prints as JSON. Skips where Node or its packages are not installed."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed: the JavaScript clients were not tried")
    if not (FOLDER / "node_modules").is_dir():
        pytest.skip(f"no packages in {FOLDER}: run `npm ci` there (`make test` does)")
    done = subprocess.run(
        [node, name, *arguments],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
