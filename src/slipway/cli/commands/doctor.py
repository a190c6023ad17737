"""`slipway doctor`: each thing Slipway stands on, whether it is there, and how to get it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any, Literal

import click

from slipway.cli.output import print_json, size
from slipway.core.i18n import Text, tr

if TYPE_CHECKING:
    from slipway.core.paths import Home
    from slipway.export.toolchain import Toolchain

State = Literal["ok", "missing", "note"]
Check = tuple[str, State, Text | str, Text | str]


@click.command(help=str(tr("Show this machine, the tools found, and what is missing.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def doctor(as_json: bool) -> None:
    checks = machine() + training() + programs() + packages() + tools()
    if as_json:
        rows = [
            {"check": name, "state": state, "found": _english(found), "fix": _english(fix)}
            for name, state, found, fix in checks
        ]
        print_json({"checks": rows})
        return
    marks = {"ok": "✓", "missing": "✗", "note": "•"}
    for name, state, found, fix in checks:
        print(f"{marks[state]} {name:<18} {found}")
        if str(fix):
            print(f"  {'':<18} → {fix}")


def _english(text: Text | str) -> str:
    return text.en if isinstance(text, Text) else text


def machine() -> list[Check]:
    """Processor, memory, accelerators, disk."""
    from slipway.core.hardware import available_memory_bytes, probe
    from slipway.core.paths import Home

    hardware = probe()
    home = Home.current().root
    existing = next(p for p in [home, *home.parents] if p.exists())
    free = shutil.disk_usage(existing).free
    memory = f"{size(available_memory_bytes())} / {size(hardware.memory_bytes)}"
    rows: list[Check] = [
        ("python", "ok", sys.version.split()[0], ""),
        ("cpu", "ok", f"{hardware.cpu}, {hardware.cores} cores", ""),
        ("cpu features", "ok", " ".join(sorted(hardware.cpu_flags)) or "-", ""),
        ("bf16 products", "ok" if hardware.has_bf16 else "note", str(hardware.has_bf16), ""),
        ("memory free/all", "ok", memory, ""),
        ("SLIPWAY_HOME", "ok", f"{home} ({size(free)} free)", ""),
    ]
    for gpu in hardware.accelerators:
        rows.append(("gpu", "ok", f"{gpu.name}, {size(gpu.memory_bytes)}", ""))
    if not hardware.accelerators:
        rows.append(("gpu", "note", tr("none found: training and serving use the CPU"), ""))
    return rows


def training() -> list[Check]:
    """What the machine means for training, and what is there for its further methods."""
    from slipway.core.hardware import available_memory_bytes, probe
    from slipway.training.fit import Machine, overview

    hardware = probe()
    amx = "amx_bf16" in hardware.cpu_flags
    rows: list[Check] = []
    if hardware.accelerators:
        memory, base_bytes = max(gpu.memory_bytes for gpu in hardware.accelerators), 2
        rows.append(("training", "ok", tr("on the GPU, in bf16 where it has it"), ""))
    else:
        memory, base_bytes = hardware.memory_bytes, 2 if hardware.has_bf16 else 4
        found = (
            tr("on the CPU in bf16 (AMX: {amx})", amx=tr("yes") if amx else tr("no"))
            if hardware.has_bf16
            else tr("on the CPU in fp32: it has no bf16 products")
        )
        rows.append(("training", "ok" if hardware.has_bf16 else "note", found, ""))
    kind: Literal["cpu", "gpu"] = "gpu" if hardware.accelerators else "cpu"
    fitting = [m for m, _, train, _ in overview(Machine(memory, base_bytes, kind)) if train]
    largest = fitting[-1].name if fitting else "-"
    told = tr("up to {name} by the method that fits; see `slipway fit`", name=largest)
    rows.append(("largest to train", "ok" if fitting else "note", told, ""))
    free = available_memory_bytes()
    low = free < 2 << 30
    fix = tr("stop other programs, or train with a small `pack_tokens`") if low else ""
    rows.append(("memory for now", "note" if low else "ok", size(free), fix))
    for package in ("bitsandbytes", "trl", "ray"):
        there = importlib.util.find_spec(package) is not None
        more = "" if there else tr("only where needed: `pip install {package}`", package=package)
        rows.append((package, "ok" if there else "note", tr("yes") if there else "-", more))
    return rows


def programs() -> list[Check]:
    """What a native build of llama.cpp needs: on PATH, or from PyPI's packages."""
    from slipway.core.errors import ResourceError
    from slipway.export.toolchain.build_tools import find_build_tools

    try:
        tools = find_build_tools()
    except ResourceError as error:
        return [("build tools", "missing", error.message, error.hint)]
    found = f"{tools.cxx}, {tools.cmake}, {tools.maker}"
    fix = "" if tools.ninja else tr("builds are faster with Ninja: `pip install ninja`")
    return [("build tools", "ok", found, fix)]


def packages() -> list[Check]:
    """The optional packages; found without importing them."""
    rows: list[Check] = []
    for package, extra in (("torch", "train"), ("transformers", "train"), ("peft", "train")):
        there = importlib.util.find_spec(package) is not None
        fix = tr("install it with `pip install 'slipway[{extra}]'`", extra=extra)
        rows.append(
            (package, "ok" if there else "missing", str(tr("yes")) if there else "-",
             "" if there else fix)
        )  # fmt: skip
    return rows


def tools() -> list[Check]:
    """The llama.cpp toolchain and the engine that `slipway serve` will use."""
    from slipway.core.paths import Home
    from slipway.export.toolchain import find_toolchain

    home = Home.current()
    found = find_toolchain(home)
    wanted = os.environ.get("SLIPWAY_ENGINE", "auto")
    rows = toolchain_rows(home, found)
    engine = "embedded" if wanted == "embedded" or not found else "native"
    what = f"{engine} (SLIPWAY_ENGINE={wanted})"
    if engine == "embedded" and importlib.util.find_spec("xllamacpp") is None:
        fix = tr("install it: `pip install {package}`", package="xllamacpp")
        rows.append(("engine", "missing", what, fix))
    else:
        rows.append(("engine", "ok", what, ""))
    return rows


def toolchain_rows(home: Home, found: Toolchain | None) -> list[Check]:
    """Provider, version, flags, processor features used and missed, GPU, other versions."""
    from slipway.export.toolchain.gpu import choose, look
    from slipway.export.toolchain.status import describe, installed_rows

    others = [
        row for row in installed_rows(home) if found is None or row["name"] != found.folder.name
    ]
    rows: list[Check] = []
    if found is None:
        fix = tr("install it with `slipway toolchain install`")
        failing = next((row["name"] for row in others if row["state"] == "failed"), None)
        what = tr("{name} fails on this processor", name=failing) if failing else "-"
        rows.append(("llama.cpp", "missing", what, fix))
    else:
        facts = describe(found, home)
        what = f"{found.version} ({found.provider}, {found.variant}) {found.folder}"
        unsure = tr("tested on another processor; tested here before it is used")
        new = found.state == "other_cpu"
        rows.append(("llama.cpp", "note" if new else "ok", what, unsure if new else ""))
        rows.append(("llama.cpp flags", "ok", " ".join(facts["flags"]) or "-", ""))
        rows += _feature_rows(facts, found.variant)
        for variant, failures in facts["rejected"].items():
            why = "; ".join(f"{name}: {text}" for name, text in failures.items())
            rows.append(
                (
                    "llama.cpp variant",
                    "note",
                    tr("{name} failed: {why}", name=variant, why=why[:200]),
                    "",
                )
            )
    for row in others:
        rows.append(
            ("llama.cpp, other", "note", f"{row['name']} ({row['version']}, {row['state']})", "")
        )
    for choice in choose(look()):
        if choice.use and (found is None or not found.variant.endswith(choice.gpu)):
            fix = tr("build it in with `slipway toolchain build --{gpu}`", gpu=choice.gpu)
            rows.append(("llama.cpp GPU", "note", f"{choice.gpu}: {choice.why}", fix))
    return rows


def _feature_rows(facts: dict[str, Any], variant: str) -> list[Check]:
    if not facts["features_used"]:
        fix = tr("find out with `slipway toolchain test`")
        return [("llama.cpp CPU", "note", tr("features not known"), fix)]
    rows: list[Check] = [("llama.cpp CPU", "ok", " ".join(facts["features_used"]), "")]
    for flag in facts["features_missed"]:
        text = tr("{flag} present, not used: variant {variant}", flag=flag, variant=variant)
        rows.append(("llama.cpp CPU", "note", text, ""))
    return rows
