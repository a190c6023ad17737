"""The walls of the house: one-way layers, small files, light imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "slipway"
PATH_OF_DATA = [
    "core",
    "datasets",
    "training",
    "export",
    "evaluation",
    "store",
    "ship",
    "engine",
    "api",
    "gateway",
    "demo",
    "cli",
]
SIDEWAYS = {"jobs", "client", "monitor", "testing"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def layer_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else ""


def imported_layers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "slipway":
                names = [f"slipway.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "slipway" and len(parts) > 1 and (SOURCE / parts[1]).is_dir():
                yield parts[1], getattr(node, "lineno", 0)


def allowed(layer: str) -> set[str]:
    if layer in SIDEWAYS:
        return {"core", layer}
    if layer == "":
        return {"core", ""}
    index = PATH_OF_DATA.index(layer)
    found = set(PATH_OF_DATA[: index + 1])
    # the front end may use every helper; the layers of the path may use `jobs` and `monitor`
    return found | (
        {"jobs", "client", "monitor"} if layer in {"ship", "demo", "cli"} else {"monitor"}
    )


def test_every_folder_is_a_known_layer() -> None:
    folders = {p.name for p in SOURCE.iterdir() if p.is_dir() and not p.name.startswith("__")}
    assert folders <= set(PATH_OF_DATA) | SIDEWAYS


def test_layers_import_only_to_their_left() -> None:
    wrong = []
    for path in modules():
        # `python -m slipway` is the command line's own door
        layer = "cli" if path == SOURCE / "__main__.py" else layer_of(path)
        for target, line in imported_layers(ast.parse(path.read_text(encoding="utf-8"))):
            if target not in allowed(layer):
                wrong.append(f"{path.relative_to(SOURCE)}:{line} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_files_and_functions_stay_small() -> None:
    large = []
    for path in modules():
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > MAX_FILE_LINES:
            large.append(f"{path.relative_to(SOURCE)}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    large.append(f"{path.relative_to(SOURCE)}: {node.name} has {length} lines")
    assert not large, "\n".join(large)


def test_no_module_is_named_utils() -> None:
    assert not [p for p in modules() if p.stem in {"utils", "util", "helpers", "common", "misc"}]


LIGHT = ["slipway", "slipway.cli.main"] + [
    f"slipway.{layer}"
    for layer in (
        "api",
        "client",
        "datasets",
        "demo",
        "engine",
        "evaluation",
        "export",
        "gateway",
        "jobs",
        "ship",
        "store",
        "training",
    )
]


@pytest.mark.parametrize("module", LIGHT)
def test_import_loads_neither_torch_nor_transformers(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "heavy = {'torch', 'transformers', 'peft', 'matplotlib', 'xllamacpp'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_path_of_a_developers_machine_is_in_the_project() -> None:
    root = SOURCE.parents[1]
    marks = ["/" + "work/", "/" + "tmp/w/", "/" + "opt/wheels", "/" + "home/"]
    listed = subprocess.run(
        ["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    found = []
    for name in listed.splitlines():
        path = root / name
        if path.suffix in {".png", ".gguf"} or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{name}: {mark}" for mark in marks if mark in text]
    assert not found, "\n".join(found)
