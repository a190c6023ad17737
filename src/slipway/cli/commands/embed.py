"""`slipway embed`: texts as vectors, and a search over a folder of text files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.cli.connect import connect, url_option
from slipway.core.i18n import Text, tr

if TYPE_CHECKING:
    from slipway.cli.vectors.index import Hit, Report
    from slipway.client import DaemonClient

_SHOWN = 160
_BATCH = 64


@click.command(
    help=str(
        tr(
            "Turn texts into vectors by an embedding model of the daemon: TEXTS, the lines of a "
            "file, or the text files of a folder, whose vectors are kept. With --query show what "
            "is nearest in meaning."
        )
    ),
    epilog=str(
        tr(
            "Examples: `slipway embed 'some text'`; "
            "`slipway embed --folder docs --query 'how do I get a refund?'`"
        )
    ),
)
@click.argument("texts", nargs=-1)
@click.option("--model", "-m", help=str(tr("Embedding model; default: the only one there is.")))
@click.option(
    "--file", "source", type=click.Path(path_type=Path), help=str(tr("A text on each line."))
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help=str(tr("Text files to search; only what changed is embedded again.")),
)
@click.option("--query", "-q", "queries", multiple=True, help=str(tr("What to look for.")))
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help=str(tr("How many of the nearest to show.")),
)
@click.option("--glob", "globs", multiple=True, help=str(tr("Only files like this, such as *.md.")))
@click.option(
    "--chunk-tokens",
    type=click.IntRange(16, 8192),
    help=str(tr("Tokens of a passage, about; default: what the model reads, at most 256.")),
)
@click.option("--query-prefix", default="", help=str(tr("Put before each query (bge, e5).")))
@click.option("--text-prefix", default="", help=str(tr("Put before each text (e5).")))
@click.option(
    "--index",
    type=click.Path(path_type=Path, dir_okay=False),
    help=str(tr("File of the folder's vectors; default: below SLIPWAY_HOME.")),
)
@url_option
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print the result as JSON.")))
def embed(texts: tuple[str, ...], url: str | None, as_json: bool, **given: Any) -> None:
    from slipway.cli.vectors.choose import embedding_model
    from slipway.core.errors import UsageError

    wanted = [bool(texts), given["source"] is not None, given["folder"] is not None]
    if sum(wanted) != 1:
        raise UsageError(
            "embed.what",
            tr("give texts, or `--file`, or `--folder`: one of the three"),
            tr("for example `slipway embed 'some text'`"),
        )
    if given["source"] is not None:
        from slipway.cli.compare.plan import read_text

        lines = read_text(given["source"]).splitlines()
        texts = tuple(line.strip() for line in lines if line.strip())
    with connect(url, may_start=True) as daemon:
        model = embedding_model(daemon, given["model"])
        if given["folder"] is not None:
            _folder(daemon, model, given, as_json)
        else:
            _texts(daemon, model.name, texts, given, as_json)


def _texts(
    daemon: DaemonClient, model: str, texts: tuple[str, ...], given: dict[str, Any], as_json: bool
) -> None:
    from slipway.cli.output import print_json, print_table

    vectors = _vectors(daemon, model, texts, given["text_prefix"])
    queries = _query_vectors(daemon, model, given)
    hits = []
    for query, vector in zip(given["queries"], queries, strict=True):
        scores = [sum(a * b for a, b in zip(vector, v, strict=True)) for v in vectors]
        order = sorted(range(len(texts)), key=lambda i: -scores[i])[: given["top"]]
        hits += [{"query": query, "score": scores[i], "text": texts[i]} for i in order]
    if as_json:
        found: dict[str, Any] = {"model": model, "texts": texts, "embeddings": vectors}
        print_json(found | ({"hits": hits} if queries else {}))
    elif queries:
        print_table(("SCORE", "TEXT"), [(f"{h['score']:.3f}", h["text"]) for h in hits])
    else:
        for vector in vectors:
            sys.stdout.write("[" + ",".join(f"{x:.8g}" for x in vector) + "]\n")


def _vectors(
    daemon: DaemonClient, model: str, texts: tuple[str, ...], prefix: str
) -> list[list[float]]:
    """A vector for each text.

    Raises:
        UsageError: a text is too long for the model; the message tells which.
    """
    from slipway.core.errors import SlipwayError, UsageError

    vectors: list[list[float]] = []
    for start in range(0, len(texts), _BATCH):
        batch = [prefix + text for text in texts[start : start + _BATCH]]
        try:
            vectors += daemon.embed(model, batch)
            continue
        except SlipwayError as error:
            if error.code != "engine.context_overflow":
                raise
        for number, text in enumerate(batch, start + 1):  # the one that is too long is among them
            try:
                vectors += daemon.embed(model, [text])
            except UsageError as error:
                raise UsageError(
                    error.code,
                    tr("text {number}: {reason}", number=number, reason=error.message),
                    tr("make it shorter, or put it in a file of a `--folder`, where it is cut"),
                ) from error
    return vectors


def _query_vectors(daemon: DaemonClient, model: str, given: dict[str, Any]) -> list[list[float]]:
    queries = [given["query_prefix"] + query for query in given["queries"]]
    return daemon.embed(model, queries) if queries else []


def _folder(daemon: DaemonClient, model: Any, given: dict[str, Any], as_json: bool) -> None:
    from slipway.cli.output import note, print_json
    from slipway.cli.vectors import index as vectors
    from slipway.core.paths import Home

    folder: Path = given["folder"]
    path: Path = given["index"] or vectors.index_path(Home.current(), folder, model.name)
    index, report = _updated(daemon, model, folder, path, given)
    found = [
        (query, vectors.search(index, vector, given["top"]))
        for query, vector in zip(
            given["queries"], _query_vectors(daemon, model.name, given), strict=True
        )
    ]
    if as_json:
        from dataclasses import asdict

        print_json(
            {
                "model": model.name,
                "index": str(path),
                **asdict(report),
                "hits": [{"query": q, **hit.as_json()} for q, hits in found for hit in hits],
            }
        )
        return
    for line in _told(report):
        note(line)
    for query, hits in found:
        _print_hits(query, hits)


def _updated(
    daemon: DaemonClient, model: Any, folder: Path, path: Path, given: dict[str, Any]
) -> tuple[Any, Report]:
    """The folder's index as its files are now, saved."""
    from slipway.cli.output import LiveLine
    from slipway.cli.vectors import index as vectors
    from slipway.cli.vectors.chunks import read_chunks
    from slipway.core.errors import InputError
    from slipway.core.files import locked

    prefix, line = given["text_prefix"], LiveLine()
    size = given["chunk_tokens"] or model.chunk_tokens
    chunks, skipped = read_chunks(folder, given["globs"], size)

    def embed_texts(texts: Any) -> list[list[float]]:
        return daemon.embed(model.name, [prefix + text for text in texts])

    with locked(path):
        index, found = vectors.load(path, {"model": model.digest, "text_prefix": prefix})
        if found == "damaged" and given["index"]:  # it may be a file of somebody else's
            raise InputError(
                "embed.no_index",
                tr("{path} holds no vectors of this command", path=str(path)),
                tr("give another `--index`, or remove it with `rm {path}`", path=str(path)),
            )
        try:
            report = vectors.update(
                index,
                chunks,
                embed_texts,
                on_progress=lambda done, total: line.show(
                    tr("{done} of {total} passages", done=done, total=total)
                ),
                checkpoint=lambda: vectors.save(path, index),
            )
        finally:
            line.done()
        report.skipped, report.began_anew = skipped, found in ("other", "damaged")
        vectors.save(path, index)
    return index, report


def _told(report: Report) -> list[Text]:
    """What an update did, for people."""
    lines: list[Text] = []
    if report.began_anew:
        lines.append(tr("the kept vectors were of another model or damaged; all were made anew"))
    lines.append(
        tr(
            "{files} files, {chunks} passages: {embedded} embedded, {reused} known before",
            files=report.files,
            chunks=report.chunks,
            embedded=report.embedded,
            reused=report.reused,
        )
    )
    if report.split:
        lines.append(tr("{count} passages were too long and were cut in two", count=report.split))
    if report.removed_files:
        lines.append(tr("no longer there: {names}", names=_few(report.removed_files)))
    if report.skipped:
        names = [f"{s.path} ({s.reason})" for s in report.skipped]
        lines.append(tr("left out: {names}", names=_few(names)))
    return lines


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown}, … ({len(names)})" if len(names) > 5 else shown


def _print_hits(query: str, hits: list[Hit]) -> None:
    from slipway.cli.output import note, print_table
    from slipway.cli.talk.wrap import printable

    note(f"\n{query}")
    rows = []
    for hit in hits:
        chunk = hit.chunk
        place = f"{chunk.path}:{chunk.first_line}"
        if chunk.last_line > chunk.first_line:
            place += f"-{chunk.last_line}"
        text = " ".join(printable(chunk.text).split())
        rows.append(
            (f"{hit.score:.3f}", place, text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
        )
    print_table(("SCORE", "PLACE", "TEXT"), rows)
