"""The store as a whole: is everything there and right, and what does nobody need."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from slipway.core.errors import ConflictError, SlipwayError, from_os_error
from slipway.core.files import sha256_file
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.store.catalogue import list_models
from slipway.store.manifests import ManifestStore

GRACE_S = 3600.0
"""Age before a blob that no name uses may go: somebody may be about to use it. Ollama's hour."""

_BLOB = re.compile(r"sha256-[0-9a-f]{64}")
_PARTIAL = re.compile(r"sha256-[0-9a-f]{64}-partial.*|\.tmp-.*")


@dataclass
class StoreReport:
    """What is wrong with a store, and what is only left over.

    Attributes:
        models, blobs: how many there are.
        damaged: digests of blobs whose content is another one.
        dangling: "name: digest" for blobs that a name needs and that are missing or cut short.
        unreadable: manifests that cannot be read, with the reason.
        unused: digests that no name uses.
        partial: files of downloads that have not come to their end.
    """

    models: int = 0
    blobs: int = 0
    damaged: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether every name can be used."""
        return not (self.damaged or self.dangling or self.unreadable)


def check_store(home: Home, on_blob: Callable[[int, int], None] | None = None) -> StoreReport:
    """Read every blob and compare it with its name; look whether every manifest has its blobs.

    Args:
        on_blob: told the blobs read so far and their number.
    """
    store = ManifestStore(home.models)
    report = StoreReport()
    problems: list[SlipwayError] = []
    models = list_models(home, problems=problems)
    report.models = len(models)
    report.unreadable = [str(problem.message) for problem in problems]
    files = _files(store.blobs.folder)
    whole = [path for path in files if _BLOB.fullmatch(path.name)]
    report.blobs = len(whole)
    report.partial = [path.name for path in files if _PARTIAL.fullmatch(path.name)]
    used = {layer.digest for model in models for layer in model.all_layers}
    for number, path in enumerate(whole, start=1):
        digest = path.name.replace("-", ":", 1)
        try:
            if "sha256:" + sha256_file(path) != digest:
                report.damaged.append(digest)
        except FileNotFoundError:
            continue  # removed while we were reading others
        except OSError as error:
            raise from_os_error(error, path) from error
        if digest not in used:
            report.unused.append(digest)
        if on_blob:
            on_blob(number, len(whole))
    for model in models:
        for layer in model.all_layers:
            path = store.blobs.path(layer.digest)
            if not path.is_file() or path.stat().st_size != layer.size:
                report.dangling.append(f"{model.name}: {layer.digest}")
    return report


def prune_store(home: Home, *, grace_s: float = GRACE_S) -> tuple[list[str], int]:
    """Delete what no name uses: blobs, and downloads that were given up.

    Args:
        grace_s: what changed later than this many seconds ago stays.

    Returns:
        names of the files that went, and the bytes that were freed.

    Raises:
        ConflictError: a manifest cannot be read, so its blobs are not known.
    """
    store = ManifestStore(home.models)
    with store.blobs.lock(exclusive=True):
        problems: list[SlipwayError] = []
        models = list_models(home, problems=problems)
        if problems:
            raise ConflictError(
                "store.prune_unsure",
                tr("nothing was deleted: {reason}", reason=problems[0].message),
                problems[0].hint,
            )
        used = {store.blobs.path(layer.digest) for m in models for layer in m.all_layers}
        gone, freed = [], 0
        for path in _files(store.blobs.folder):
            known = _BLOB.fullmatch(path.name) or _PARTIAL.fullmatch(path.name)
            if not known or path in used:
                continue
            try:
                found = path.stat()
                if time.time() - max(found.st_mtime, found.st_ctime) < grace_s:
                    continue
                path.unlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise from_os_error(error, path) from error
            gone.append(path.name)
            freed += found.st_blocks * 512 if found.st_nlink == 1 else 0
        return gone, freed


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_file())
