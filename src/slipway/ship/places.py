"""Where the products of a ship lie, and which of them are there already.

They lie in SLIPWAY_HOME/artefacts under the names that `merge`, `convert` and `quantize` give, so
that what was made by hand is taken over. A product is taken only when its manifest names the same
parents, settings and tools; otherwise another folder is used, marked with the source's digest.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slipway.core.errors import SlipwayError
from slipway.core.manifest import Manifest, read_manifest
from slipway.core.paths import Home
from slipway.export.convert import native_outtype
from slipway.ship.artefacts import whole_manifest
from slipway.ship.source import Source

LLAMA = "llama.cpp"


@dataclass(frozen=True, slots=True)
class Place:
    """A product's folder; `manifest` is None as long as it must be made."""

    folder: Path
    manifest: Manifest | None


def merged_place(home: Home, source: Source) -> Place:
    """The run merged into its base, with every number in the base's format."""

    def fits(manifest: Manifest) -> bool:
        dtype = manifest.config.get("dtype")
        return (
            manifest.kind == "merged"
            and {role for role in manifest.parents} == {"run", "base"}
            and manifest.parents["run"] == source.digest
            and (dtype is None or dtype.value == "keep")
            and "weights" not in manifest.notes
        )

    return _place(home, f"{source.name}-merged", source.digest, fits)


def adapter_place(home: Home, source: Source, version: str) -> Place:
    """The run's adapter as a GGUF adapter, made by this version of llama.cpp."""

    def fits(manifest: Manifest) -> bool:
        return (
            manifest.kind == "gguf-adapter"
            and manifest.parents.get("run") == source.digest
            and manifest.config["outtype"].value == "f32"
            and manifest.versions.get(LLAMA) == version
        )

    return _place(home, f"{source.name}-adapter", source.digest, fits)


def gguf_place(home: Home, model: Path, digest: str, version: str) -> Place:
    """The unquantised GGUF of a model folder, made by this version of llama.cpp."""
    outtype = native_outtype(model)

    def fits(manifest: Manifest) -> bool:
        return (
            manifest.kind == "gguf"
            and list(manifest.parents.values()) == [digest]
            and {name: s.value for name, s in manifest.config.items()} == {"outtype": outtype}
            and manifest.versions.get(LLAMA) == version
        )

    return _place(home, f"{model.name}-{outtype}", digest, fits)


def quant_place(home: Home, gguf: Path, digest: str, kind: str, version: str) -> Place:
    """One quant of a GGUF, with the settings that `quantize` has by itself."""

    def fits(manifest: Manifest) -> bool:
        settings = {name: setting.value for name, setting in manifest.config.items()}
        return (
            manifest.kind == "quant"
            and manifest.parents == {"gguf": digest}
            and settings == {"type": kind, "importance": "uniform"}
            and manifest.versions.get(LLAMA) == version
        )

    return _place(home, f"{gguf.name}-quants", digest, fits, below=kind)


def _place(
    home: Home, name: str, digest: str, fits: Callable[[Manifest], bool], below: str = ""
) -> Place:
    marked = home.artefacts / f"{name}-{digest.removeprefix('sha256:')[:8]}" / below
    plain = home.artefacts / name / below
    for folder in (plain, marked):
        with suppress(SlipwayError):
            if fits(read_manifest(folder)):  # a damaged one is made again in its place
                return Place(folder, whole_manifest(folder))
    free = not plain.exists() or not any(plain.iterdir())
    return Place(plain if free else marked, None)
