"""`slipway gguf`: look into GGUF files, check them, compare them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.core.paths import Home
    from slipway.store.gguf_facts import Differences, Group


@click.group(help=str(tr("Look into GGUF files, check them, compare them.")))
def gguf() -> None:
    pass


@gguf.command(help=str(tr("Show a file's keys, and its tensors by type and by part of the model.")))
@click.argument("model")
@click.option("--tensors", is_flag=True, help=str(tr("List every tensor too.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def inspect(model: str, tensors: bool, as_json: bool) -> None:
    from dataclasses import asdict

    from slipway.cli.output import print_json, print_table, size
    from slipway.core.paths import Home
    from slipway.store import gguf_facts as facts
    from slipway.store import read_gguf

    path = _file(model, Home.current())
    header = read_gguf(path)
    kinds, parts = facts.by_type(header), facts.by_part(header)
    listed = [asdict(t) for t in header.tensors] if tensors else None
    if as_json:
        print_json(
            {
                "file": str(path),
                "size_bytes": header.size,
                "version": header.version,
                "architecture": header.architecture,
                "file_type": header.file_type,
                "parameters": header.parameters,
                "bits_per_weight": round(facts.bits_per_weight(header), 3),
                "special_tokens": facts.special_tokens(header),
                "has_template": bool(header.chat_template),
                "values": {key: facts.shown(value) for key, value in header.values.items()},
                "by_type": {key: asdict(group) for key, group in kinds.items()},
                "by_part": {key: asdict(group) for key, group in parts.items()},
                **({"tensors": listed} if listed is not None else {}),
            }
        )
        return
    for key, value in header.values.items():
        print(f"{key:<44} {facts.shown(value)}")
    print(
        tr(
            "{count} weights in {tensors} tensors, {bits} bits each, {size}",
            count=f"{header.parameters:,}",
            tensors=len(header.tensors),
            bits=f"{facts.bits_per_weight(header):.2f}",
            size=size(header.size),
        )
    )
    _groups(str(tr("type")), kinds)
    _groups(str(tr("part")), parts)
    if listed:
        columns = [tr("tensor"), tr("type"), tr("shape"), tr("bytes"), tr("at")]
        print_table(
            columns,
            [(t.name, t.type, list(t.shape), t.nbytes, t.offset) for t in header.tensors],
        )


@gguf.command(
    help=str(
        tr(
            "Check a file: header, places of the tensors, special tokens, and its digest where a "
            "manifest or the store knows it."
        )
    )
)
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def verify(model: str, as_json: bool) -> None:
    from slipway.cli.output import print_json
    from slipway.core.errors import ProofError
    from slipway.core.files import sha256_file
    from slipway.core.paths import Home
    from slipway.store import read_gguf
    from slipway.store.gguf_facts import faults

    path = _file(model, Home.current())
    found = faults(read_gguf(path))
    digest = "sha256:" + sha256_file(path)
    known = _known_digest(path)
    if known and known != digest:
        found.append(f"its content is {digest[:19]}…, and was {known[:19]}…")
    if as_json:
        print_json({"file": str(path), "digest": digest, "known_digest": known, "faults": found})
    if found:
        raise ProofError(
            "gguf.faulty",
            tr("{path} is damaged: {faults}", path=str(path), faults="; ".join(found)),
            tr("convert, quantise or download it again"),
        )
    if not as_json:
        compared = tr("as it was made") if known else tr("nothing to compare with")
        print(f"{path}\t{digest}\t{compared}")


@gguf.command(
    help=str(tr("Compare two files: keys, chat templates, tensors. Exit code 1 when they differ."))
)
@click.argument("one")
@click.argument("two")
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
@click.pass_context
def diff(context: click.Context, one: str, two: str, as_json: bool) -> None:
    from dataclasses import asdict

    from slipway.cli.output import print_json
    from slipway.core.paths import Home
    from slipway.store import read_gguf
    from slipway.store.gguf_facts import differences

    home = Home.current()
    found = differences(read_gguf(_file(one, home)), read_gguf(_file(two, home)))
    if as_json:
        print_json({**asdict(found), "same": found.none})
    elif found.none:
        print(tr("the headers say the same"))
    else:
        _print_differences(found)
    context.exit(0 if found.none else 1)


def _print_differences(found: Differences) -> None:
    for key, value in found.removed.items():
        print(f"- {key} = {value}")
    for key, value in found.added.items():
        print(f"+ {key} = {value}")
    for key, (before, after) in found.changed.items():
        print(f"~ {key}: {before} -> {after}")
    print("\n".join(found.template), end="\n" if found.template else "")
    for name in found.tensors_removed:
        print(f"- {name}")
    for name in found.tensors_added:
        print(f"+ {name}")
    for name, (before, after) in found.tensors_changed.items():
        print(f"~ {name}: {before} -> {after}")


@gguf.command(help=str(tr("Write a file as several, each below a size or number of tensors.")))
@click.argument("model")
@click.argument("prefix", required=False, type=click.Path(path_type=Path))
@click.option("--max-size", help=str(tr("Bytes of tensors in a part, such as 2G.")))
@click.option("--max-tensors", type=click.IntRange(1), help=str(tr("Tensors in a part.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def split(
    model: str, prefix: Path | None, max_size: str | None, max_tensors: int | None, as_json: bool
) -> None:
    from slipway.core.errors import UsageError
    from slipway.core.paths import Home
    from slipway.core.sizes import parse_size
    from slipway.export.split import split_gguf

    home = Home.current()
    source = _file(model, home)
    try:
        limit = parse_size(max_size) if max_size else 0
    except ValueError:
        raise UsageError(
            "gguf.bad_size",
            tr("`{option} {text}` is no size", option="--max-size", text=max_size),
            tr("try `{command}`", command="--max-size 2G"),
        ) from None
    parts = split_gguf(
        source,
        prefix or source.with_suffix(""),
        home=home,
        max_size=limit,
        max_tensors=max_tensors or 0,
    )
    _tell_files(parts, as_json)


@gguf.command(help=str(tr("Write the parts of a split model as one file.")))
@click.argument("part", type=click.Path(path_type=Path))
@click.argument("whole", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def join(part: Path, whole: Path, as_json: bool) -> None:
    from slipway.core.paths import Home
    from slipway.export.split import join_gguf

    _tell_files([join_gguf(part, whole, home=Home.current())], as_json)


def _tell_files(files: list[Path], as_json: bool) -> None:
    from slipway.cli.output import print_json, size

    found = [{"file": str(path), "size_bytes": path.stat().st_size} for path in files]
    if as_json:
        print_json({"files": found})
        return
    for path in files:
        print(f"{path}  {size(path.stat().st_size)}")


def _groups(title: str, groups: dict[str, Group]) -> None:
    from slipway.cli.output import print_table, size

    total = sum(group.nbytes for group in groups.values()) or 1
    rows: list[tuple[Any, ...]] = [
        (key, g.tensors, size(g.nbytes), f"{g.nbytes / total:.1%}", f"{g.weights:,}")
        for key, g in groups.items()
    ]
    print_table([title, tr("tensors"), tr("size"), tr("share"), tr("number of weights")], rows)


def _file(name: str, home: Home) -> Path:
    from slipway.cli.commands.bench import file_of

    return file_of(name, home)


def _known_digest(path: Path) -> str | None:
    """The digest that the artefact's manifest or the name of a blob gives."""
    from slipway.core.manifest import FILE_NAME, read_manifest

    if path.parent.name == "blobs" and path.name.startswith("sha256-"):
        return path.name.replace("-", ":", 1)
    if not (path.parent / FILE_NAME).is_file():
        return None
    files = {entry.path: entry.sha256 for entry in read_manifest(path.parent).files}
    digest = files.get(path.name)
    return None if digest is None else "sha256:" + digest.removeprefix("sha256:")
