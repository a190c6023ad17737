"""Splitting a GGUF into files and joining them again, by llama.cpp's own `llama-gguf-split`.

The tool copies tensors; whether it copied them all and right is checked here, tensor by tensor, so
that a full disk or a set with a foreign part in it cannot pass for a model.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from slipway.core import process
from slipway.core.errors import ConflictError, InputError, NotFoundError, ProofError, UsageError
from slipway.core.files import fsync_tree
from slipway.core.gguf import read_gguf
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.export.convert import require_space
from slipway.export.toolchain import require_toolchain

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_CHUNK = 8 << 20

Checksums = dict[str, tuple[str, tuple[int, ...], int]]
"""Tensor name -> type, shape, CRC-32 of its bytes."""


def split_gguf(
    source: Path, prefix: Path, *, home: Home, max_size: int = 0, max_tensors: int = 0
) -> list[Path]:
    """Write `source` as files `<prefix>-00001-of-0000N.gguf`; exactly one limit is given.

    Args:
        max_size: bytes of tensors in a file, a multiple of 1,000,000 (the tool counts in M).
        max_tensors: tensors in a file.

    Returns:
        the files in order.

    Raises:
        UsageError: none of the limits is given, or both, or it is too small.
        ConflictError: such files are there already, or the source is a part of a set itself.
        ProofError: the parts are not what the source holds.
    """
    if bool(max_size) == bool(max_tensors):
        raise UsageError(
            "gguf.one_limit",
            tr("give one limit: a size or a number of tensors"),
            tr("try `{command}`", command="slipway gguf split FILE --max-size 2G"),
        )
    if max_size and max_size < 1_000_000:
        raise UsageError("gguf.limit_too_small", tr("a part holds at least 1M"))
    if _PART.search(source.name):
        raise ConflictError(
            "gguf.is_part",
            tr("{path} is a part of a split model", path=source),
            tr("join it first: `slipway gguf join {path} WHOLE.gguf`", path=source),
        )
    before = checksums([source])
    standing = sorted(prefix.parent.glob(f"{prefix.name}-*-of-*.gguf"))
    if standing:
        raise _exists(standing[0])
    limit = (
        ["--split-max-size", f"{max_size // 1_000_000}M"]
        if max_size
        else ["--split-max-tensors", str(max_tensors)]
    )
    require_space(prefix.parent, source.stat().st_size)
    with tempfile.TemporaryDirectory(prefix=f".{prefix.name}.", dir=prefix.parent) as folder:
        program = require_toolchain(home).program("llama-gguf-split")
        process.run([program, "--split", *limit, source, Path(folder) / prefix.name])
        parts = sorted(Path(folder).glob("*.gguf"))
        _require_same(before, checksums(parts), source)
        _require_keys(source, parts[0])
        fsync_tree(Path(folder))
        # The first part goes last: without it the others are no model to anybody.
        for part in reversed(parts):
            part.replace(prefix.parent / part.name)
    return [prefix.parent / part.name for part in parts]


def join_gguf(first: Path, target: Path, *, home: Home) -> Path:
    """Write the parts of a split model as one file.

    Args:
        first: any part of the set; the others lie beside it.

    Raises:
        UsageError: it is no part of a set.
        NotFoundError: parts are missing; the message names them.
        ConflictError: `target` is there already.
        ProofError: the whole is not what the parts hold.
    """
    parts = parts_of(first)
    if target.exists():
        raise _exists(target)
    before = checksums(parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    require_space(target.parent, sum(part.stat().st_size for part in parts))
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        whole = Path(folder) / "whole.gguf"
        program = require_toolchain(home).program("llama-gguf-split")
        process.run([program, "--merge", parts[0], whole])
        _require_same(before, checksums([whole]), parts[0])
        _require_keys(parts[0], whole)
        fsync_tree(Path(folder))
        shutil.move(whole, target)
    return target


def parts_of(path: Path) -> list[Path]:
    """All files of the set that a part belongs to, in order.

    Raises:
        UsageError: the name is not that of a part.
        NotFoundError: some are missing.
    """
    match = _PART.search(path.name)
    if match is None:
        raise UsageError(
            "gguf.no_part",
            tr("{path} is not named like a part of a split model", path=path),
            tr("parts are named `NAME-00001-of-00003.gguf`"),
        )
    stem, count = path.name[: match.start()], int(match[2])
    parts = [path.with_name(f"{stem}-{n:05}-of-{count:05}.gguf") for n in range(1, count + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise NotFoundError(
            "gguf.parts_missing",
            tr("parts are missing: {names}", names=", ".join(missing)),
            tr("put all {count} files into {folder}", count=count, folder=path.parent),
        )
    return parts


def checksums(paths: Iterable[Path]) -> Checksums:
    """What the tensors of a file, or of all files of a set, are.

    Raises:
        InputError: a file is damaged, or a tensor stands in two of them.
    """
    found: Checksums = {}
    for path in paths:
        header = read_gguf(path)
        with path.open("rb") as file:
            for tensor in header.tensors:
                if tensor.name in found:
                    raise InputError(
                        "gguf.twice",
                        tr(
                            "{path}: tensor {name} stands in two parts", path=path, name=tensor.name
                        ),
                    )
                file.seek(tensor.offset)
                crc, left = 0, tensor.nbytes
                while left:
                    data = file.read(min(_CHUNK, left))
                    if not data:
                        raise InputError("gguf.cut", tr("{path} is cut short", path=path))
                    crc, left = zlib.crc32(data, crc), left - len(data)
                found[tensor.name] = (tensor.type, tensor.shape, crc)
    return found


def _require_same(before: Checksums, after: Checksums, source: Path) -> None:
    wrong = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    if wrong:
        raise ProofError(
            "gguf.split_differs",
            tr(
                "{count} tensors differ from those of {path}; the first is {name}",
                count=len(wrong),
                path=source,
                name=wrong[0],
            ),
            tr("check the source with `slipway gguf verify {path}`", path=source),
        )


def _require_keys(source: Path, made: Path) -> None:
    """The first part carries what a model says about itself: tokenizer, template, sizes."""
    before, after = (
        {key: value for key, value in read_gguf(path).values.items() if key[:6] != "split."}
        for path in (source, made)
    )
    wrong = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    if wrong:
        raise ProofError(
            "gguf.split_keys_differ",
            tr(
                "{count} metadata keys differ from those of {path}; the first is {name}",
                count=len(wrong),
                path=source,
                name=wrong[0],
            ),
            tr("check the source with `slipway gguf verify {path}`", path=source),
        )


def _exists(path: Path) -> ConflictError:
    return ConflictError(
        "file.exists", tr("{path} exists already", path=str(path)), tr("give another name")
    )
