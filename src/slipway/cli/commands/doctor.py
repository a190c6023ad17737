"""`slipway doctor`: each thing Slipway stands on, whether it is there, and how to get it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from typing import Literal

import click

from slipway.cli.output import print_json, size
from slipway.core.i18n import Text, tr

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
    """What a native build of llama.cpp needs."""
    rows: list[Check] = []
    for names in (("g++", "clang++", "c++"), ("gcc", "clang", "cc"), ("cmake",)):
        path = next((p for p in map(shutil.which, names) if p), None)
        fix = tr("install it: `apt-get install {package}`", package=names[0])
        rows.append((names[0], "ok" if path else "missing", path or "-", "" if path else fix))
    return rows


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

    found = find_toolchain(Home.current())
    wanted = os.environ.get("SLIPWAY_ENGINE", "auto")
    rows: list[Check] = []
    if found:
        what = f"{found.version} ({found.provider}, {found.variant}) {found.folder}"
        rows.append(("llama.cpp", "ok", what, ""))
    else:
        fix = tr("install it with `slipway toolchain install`")
        rows.append(("llama.cpp", "missing", "-", fix))
    engine = "embedded" if wanted == "embedded" or not found else "native"
    what = f"{engine} (SLIPWAY_ENGINE={wanted})"
    if engine == "embedded" and importlib.util.find_spec("xllamacpp") is None:
        fix = tr("install it: `pip install {package}`", package="xllamacpp")
        rows.append(("engine", "missing", what, fix))
    else:
        rows.append(("engine", "ok", what, ""))
    return rows
