"""Token sets kept by what they were made from, so that a second start need not encode again.

Each is a folder named by a hash. It is built beside its place and moved there when whole, so a
kill leaves nothing that could be taken for one; its files are compared with their check sums when
it is opened, and a damaged one is made anew. The least recently used go when the folder outgrows
its limit; a process that has one open keeps its tokens, since removed files live on while mapped.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slipway.core.files import locked, new_folder, sha256_json
from slipway.core.process import is_alive
from slipway.datasets.rule import EncodeRule
from slipway.datasets.tokens import FORMAT, TokenSet

LIMIT_BYTES = 10 * 2**30
# raised whenever the same input would give other tokens than before
_ENCODING = 1


@dataclass(frozen=True, slots=True)
class CachedTokens:
    """One token set of the cache: its folder, its size, and when it was last used (unix time)."""

    folder: Path
    bytes: int
    used_at: float


def cache_key(
    digest: str, tokenizer: Any, rule: EncodeRule, bad_rows: Literal["stop", "skip"] = "stop"
) -> str:
    """The hash of everything that decides the tokens.

    Args:
        digest: of everything that decides the samples.
    """
    from importlib.metadata import version

    return sha256_json(
        {
            "format": [FORMAT, _ENCODING],
            "samples": digest,
            "template": tokenizer.chat_template,
            "tokenizer": _content_of(tokenizer),
            "ends": [tokenizer.bos_token_id, tokenizer.eos_token_id],
            "versions": [version("tokenizers"), version("transformers")],
            "rule": rule.as_json(),
            "bad_rows": bad_rows,
        }
    )


def _content_of(tokenizer: Any) -> Any:
    """A fast tokenizer without what the last call may have set on it."""
    import orjson

    return {
        **orjson.loads(tokenizer.backend_tokenizer.to_str()),
        "padding": None,
        "truncation": None,
    }


def find(cache: Path, key: str) -> TokenSet | None:
    """The token set of a key, checked; None when there is none or it is damaged."""
    folder = cache / key
    try:
        found = TokenSet.open(folder, check=True)
        os.utime(folder / "meta.json")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


@contextmanager
def cached(cache: Path | None, key: str) -> Iterator[Path]:
    """A folder to fill; when the block ends well it is at its place in the cache.

    Without a cache the folder is removed again; what is mapped by then can still be read.

    Yields:
        an empty folder, or a finished one if another process made it meanwhile.
    """
    if cache is None:
        with tempfile.TemporaryDirectory(prefix="slipway-tokens-") as name:
            yield Path(name)
        return
    with locked(cache / key):
        if find(cache, key) is not None:
            yield cache / key
            return
        with new_folder(cache / key) as folder:
            yield folder
    _remove_leftovers(cache)
    remove_cached(cache, limit_bytes=LIMIT_BYTES, keep=key)


def list_cached(cache: Path) -> list[CachedTokens]:
    """All token sets of a cache, least recently used first."""
    found = []
    for meta in cache.glob("*/meta.json"):
        folder = meta.parent
        if folder.name.startswith("."):
            continue
        try:
            size = sum(file.stat().st_size for file in folder.iterdir())
            found.append(CachedTokens(folder, size, meta.stat().st_mtime))
        except OSError:
            continue  # another process is removing it
    return sorted(found, key=lambda entry: entry.used_at)


def remove_cached(cache: Path, *, limit_bytes: int = 0, keep: str = "") -> list[CachedTokens]:
    """Remove the least recently used token sets until the rest is within `limit_bytes`.

    Args:
        keep: key of one that stays in any case.

    Returns:
        what was removed.
    """
    entries = list_cached(cache)
    total = sum(entry.bytes for entry in entries)
    removed = []
    for entry in entries:
        if total <= limit_bytes:
            break
        if entry.folder.name == keep:
            continue
        shutil.rmtree(entry.folder, ignore_errors=True)
        entry.folder.with_name(entry.folder.name + ".lock").unlink(missing_ok=True)
        total -= entry.bytes
        removed.append(entry)
    return removed


def _remove_leftovers(cache: Path) -> None:
    """Folders that killed processes were filling."""
    for path in cache.glob(".*"):
        owner = path.name.split(".")[2:3]
        if path.is_dir() and owner and owner[0].isdigit() and not is_alive(int(owner[0])):
            shutil.rmtree(path, ignore_errors=True)
