"""What is known about a toolchain, for `slipway toolchain status` and `slipway doctor`."""

from __future__ import annotations

from typing import Any

from slipway.core.hardware import processor
from slipway.core.manifest import FILE_NAME, read_manifest
from slipway.core.paths import Home
from slipway.export.toolchain import source
from slipway.export.toolchain.checks import check_of
from slipway.export.toolchain.cpu import features_missed, features_used, stamp_here
from slipway.export.toolchain.find import all_installed
from slipway.export.toolchain.model import (
    EXTRA_PROGRAMS,
    LORA_CONVERTER,
    PROGRAMS,
    VERSION,
    Toolchain,
)


def describe(toolchain: Toolchain, home: Home | None = None) -> dict[str, Any]:
    """Facts as JSON values.

    Keys: folder, version, provider, variant, state, flags, programs (names present), converters,
    why (why this variant was chosen; "" when Slipway did not build it), rejected (variant -> quant
    type -> failure), gpu (backend -> why it is built in or not), cpu (where it was tested),
    features_used (ggml's names), features_missed (flags of this processor for which ggml has
    kernels that are not used), source (what it was made from, with digest), pinned (release and
    source that Slipway stands on), seconds (download to last test; None if not built here).

    Args:
        home: where the results of later self-tests lie.
    """
    facts: dict[str, Any] = {
        "folder": str(toolchain.folder),
        "version": toolchain.version,
        "provider": toolchain.provider,
        "variant": toolchain.variant,
        "state": toolchain.state,
        "flags": [flag for flag in toolchain.flags if not flag.endswith("=")],
        "programs": [
            name for name in (*PROGRAMS, *EXTRA_PROGRAMS) if (toolchain.bin / name).is_file()
        ],
        "converters": [
            name
            for name in (toolchain.converter.name, LORA_CONVERTER)
            if (toolchain.source / name).is_file()
        ],
        "why": "",
        "rejected": {},
        "gpu": {},
        "cpu": "",
        "source": "",
        "seconds": None,
    }
    features: dict[str, str] = {}
    if (toolchain.folder / FILE_NAME).is_file():
        manifest = read_manifest(toolchain.folder, kind="toolchain")
        noted = ("why", "rejected", "gpu", "cpu", "source")
        facts |= {key: manifest.notes.get(key, facts[key]) for key in noted}
        facts["seconds"] = manifest.metrics.get("seconds")
        features = manifest.notes.get("features", {})
    if home is not None and not features:
        check = check_of(home, toolchain.folder.name, stamp_here())
        features = check.features if check else {}
    return {
        **facts,
        "features_used": features_used(features),
        "features_missed": features_missed(processor()[1], features),
        "pinned": {
            "version": VERSION,
            "archive": source.ARCHIVE,
            "sha256": source.ARCHIVE_SHA256,
        },
    }


def installed_rows(home: Home) -> list[dict[str, Any]]:
    """The toolchains of the home, best first.

    Keys: name, version, variant, provider, state, in_use, pinned, bytes, created_at, cpu.
    """
    rows = []
    in_use = next((i.name for i in all_installed(home) if i.toolchain.state != "failed"), None)
    for item in all_installed(home):
        rows.append(
            {
                "name": item.name,
                "version": item.toolchain.version,
                "variant": item.toolchain.variant,
                "provider": item.manifest.notes.get("provider", "native"),
                "state": item.toolchain.state,
                "in_use": item.name == in_use,
                "pinned": item.pinned,
                "bytes": sum(file.size for file in item.manifest.files),
                "created_at": item.manifest.created_at,
                "cpu": item.manifest.notes.get("cpu", ""),
            }
        )
    return rows
