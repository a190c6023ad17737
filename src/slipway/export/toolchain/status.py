"""What is known about a toolchain, for `slipway toolchain status` and `slipway doctor`."""

from __future__ import annotations

from typing import Any

from slipway.core.manifest import FILE_NAME, read_manifest
from slipway.export.toolchain.model import EXTRA_PROGRAMS, PROGRAMS, Toolchain


def describe(toolchain: Toolchain) -> dict[str, Any]:
    """Facts as JSON values.

    Keys: folder, version, provider, variant, flags, programs (names present), why (why this
    variant was chosen; "" when Slipway did not build it), rejected (variant -> quant type ->
    failure), cpu (where it was tested), seconds (download to last test; None if not built here).
    """
    facts: dict[str, Any] = {
        "folder": str(toolchain.folder),
        "version": toolchain.version,
        "provider": toolchain.provider,
        "variant": toolchain.variant,
        "flags": [flag for flag in toolchain.flags if not flag.endswith("=")],
        "programs": [
            name for name in (*PROGRAMS, *EXTRA_PROGRAMS) if (toolchain.bin / name).is_file()
        ],
        "why": "",
        "rejected": {},
        "cpu": "",
        "seconds": None,
    }
    if (toolchain.folder / FILE_NAME).is_file():
        manifest = read_manifest(toolchain.folder, kind="toolchain")
        facts |= {key: manifest.notes.get(key, facts[key]) for key in ("why", "rejected", "cpu")}
        facts["seconds"] = manifest.metrics.get("seconds")
    return facts
