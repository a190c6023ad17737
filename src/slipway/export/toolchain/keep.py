"""Put tested programs into the home, with the record of what they are and why they were chosen."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slipway.core.errors import SlipwayError, from_os_error
from slipway.core.files import new_folder
from slipway.core.hardware import processor
from slipway.core.manifest import Setting, package_versions, read_manifest, write_manifest
from slipway.core.paths import Home
from slipway.export.toolchain import source
from slipway.export.toolchain.checks import remember_check
from slipway.export.toolchain.cpu import stamp_here
from slipway.export.toolchain.gpu import Gpu
from slipway.export.toolchain.model import (
    EXTRA_PROGRAMS,
    LLAMA_COMMIT,
    PROGRAMS,
    VERSION,
    Toolchain,
)
from slipway.export.toolchain.selftest import SelfTestResult
from slipway.export.toolchain.variants import Variant


def folder_for(home: Home, name: str) -> Path:
    """Where a toolchain of that name goes: a home that several machines share has one for each.

    A folder made on another processor stays, and this one's stamp is added to the name.
    """
    folder = home.toolchains / name
    try:
        notes = read_manifest(folder, kind="toolchain").notes
    except SlipwayError:
        return folder
    other = notes.get("cpu_stamp", stamp_here()) != stamp_here()
    return home.toolchains / f"{name}-{stamp_here()}" if other else folder


def keep_build(
    home: Home,
    built: Toolchain,
    variant: Variant,
    result: SelfTestResult,
    rejected: dict[str, dict[str, str]],
    *,
    seconds: float,
    gpu: Mapping[Gpu, str],
) -> Toolchain:
    """Move the programs and the converter of a native build to `home.toolchains`.

    Args:
        rejected: variants that failed before this one -> type -> why.
        seconds: from the start of the download to the end of the test.
        gpu: GPU backend -> why it is built in or not, in English.
    """
    final = folder_for(home, f"llama.cpp-{LLAMA_COMMIT}-{variant.name}")
    why = (
        f"faster variants failed: {', '.join(rejected)}"
        if rejected
        else f"fastest variant; passed in {result.seconds:.1f} s"
    )
    notes = {
        "variant": variant.name,
        "provider": "native",
        "flags": [flag for flag in variant.cmake_flags() if not flag.endswith("=")],
        "why": why,
        "rejected": rejected,
        "gpu": dict(gpu),
        "source": f"{source.ARCHIVE} sha256:{source.ARCHIVE_SHA256}",
    }
    try:
        with new_folder(final) as folder:
            (folder / "bin").mkdir()
            for program in (*PROGRAMS, *EXTRA_PROGRAMS):
                if (path := built.bin / program).is_file():
                    shutil.copy2(path, folder / "bin" / program)
            source.copy_converter(built.source, folder / "source")
            write_record(folder, final.name, VERSION, notes, result, seconds)
    except OSError as error:
        raise from_os_error(error, final) from error
    remember_check(home, final.name, stamp_here(), result)
    flags = variant.cmake_flags()
    return Toolchain(final, final / "bin", final / "source", VERSION, "native", flags, variant.name)


def write_record(
    folder: Path,
    name: str,
    version: str,
    notes: dict[str, Any],
    result: SelfTestResult,
    seconds: float,
) -> None:
    """Write the manifest of a toolchain, with the processor on which it was tested."""
    write_manifest(
        folder,
        "toolchain",
        name,
        config={"variant": Setting(notes["variant"], "measured")},
        versions={**package_versions(), "llama.cpp": version},
        metrics={"seconds": round(seconds, 1), "self_test_s": round(result.seconds, 2)},
        notes={
            **notes,
            "features": result.features,
            "cpu": processor()[0],
            "cpu_stamp": stamp_here(),
        },
    )
