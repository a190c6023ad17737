"""A stream of samples into a token set: in batches, in constant memory, out of the cache if it can.

Python renders the next batch while the tokenizer's threads (which need no interpreter lock) work
on the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from slipway.core.errors import InputError
from slipway.core.i18n import tr
from slipway.datasets.cut import Cut, cut
from slipway.datasets.encode import Tools, together, tools_for
from slipway.datasets.encoded import LongRow
from slipway.datasets.model import Sample, SampleKind
from slipway.datasets.rule import EncodeRule
from slipway.datasets.segments import Batch
from slipway.datasets.skeleton import Document
from slipway.datasets.token_cache import cache_key, cached, find
from slipway.datasets.token_writer import TokenWriter
from slipway.datasets.tokens import TokenSet

OnProgress = Callable[[int], None]

# a batch ends at whichever comes first: enough to keep the threads busy, little enough to hold
_BATCH_ROWS = 512
_BATCH_CHARS = 2_000_000
_MAX_REFUSED = 1000

_Prepared = tuple[Sample, "tuple[Document, ...] | InputError"]


def encode_stream(
    stream: Iterable[Sample],
    tokenizer: Any,
    rule: EncodeRule,
    *,
    cache: Path | None,
    digest: str,
    bad_rows: Literal["stop", "skip"] = "stop",
    on_progress: OnProgress | None = None,
) -> TokenSet:
    """Encode a whole dataset, or take it from the cache when the same was encoded before.

    Args:
        stream: samples of one kind; not touched when the cache has them.
        tokenizer: from `load_tokenizer`.
        cache: folder of token caches; None: the tokens live in a temporary file.
        digest: of everything that decides the stream: files, mixture, seed, limits.
        bad_rows: rows that cannot be encoded: an error in the end, or named and left out.
        on_progress: called with the number of samples done so far, about once a batch.

    Raises:
        InputError: rows that cannot be encoded, or rows of different kinds; they are named.
        ResourceError: the disk is full.
    """
    key = cache_key(digest, tokenizer, rule, bad_rows)
    if cache is not None and (found := find(cache, key)) is not None:
        return found
    with cached(cache, key) as folder:
        if (folder / "meta.json").is_file():  # another process made it while this one waited
            return TokenSet.open(folder)
        with TokenWriter(folder, rule.cutoff_len) as writer:
            _fill(writer, stream, tokenizer, rule, bad_rows, on_progress)
            writer.note_skipped(stream)
        if cache is None:
            temporary = TokenSet.open(folder)
            temporary.folder = None
            return temporary
    return TokenSet.open(cache / key)


def _fill(
    writer: TokenWriter,
    stream: Iterable[Sample],
    tokenizer: Any,
    rule: EncodeRule,
    bad_rows: Literal["stop", "skip"],
    on_progress: OnProgress | None,
) -> None:
    kind: SampleKind | None = None
    done = refused = 0
    errors: list[InputError] = []
    for sample, result in encode_batches(stream, tokenizer, rule):
        done += 1
        if on_progress and done % _BATCH_ROWS == 0:
            on_progress(done)
        kind = kind or sample.kind
        if sample.kind != kind:
            raise _mixed(sample, kind)
        if isinstance(result, InputError):
            refused += 1
            if len(errors) < _MAX_REFUSED:
                errors.append(result)
            if len(errors) == _MAX_REFUSED and bad_rows == "stop":
                raise together(errors, f"{refused}+")
            continue
        writer.add(result.rows, sample)
        long = LongRow(sample.id, str(sample.file), sample.line, result.longest)
        if result.dropped:
            writer.dropped.add(long)
        elif result.truncated:
            writer.truncated.add(long)
    if errors and bad_rows == "stop":
        raise together(errors, refused)
    writer.refused = refused
    writer.reasons = [error.message_en for error in errors]
    if on_progress:
        on_progress(done)


def _mixed(sample: Sample, kind: SampleKind) -> InputError:
    return InputError(
        "data.mixed_kinds",
        tr(
            "{file}:{line}: a row of kind {found} among rows of kind {kind}",
            file=str(sample.file),
            line=sample.line,
            found=sample.kind,
            kind=kind,
        ),
        tr("train on one kind of rows at a time"),
    )


def encode_batches(
    samples: Iterable[Sample], tokenizer: Any, rule: EncodeRule
) -> Iterator[tuple[Sample, Cut | InputError]]:
    """Every sample with what became of it, in order."""
    tools = tools_for(tokenizer)
    waiting: tuple[list[_Prepared], Batch, Future[None]] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="tokenize") as pool:
        for batch in _batches(samples, tools, rule):
            texts = [text for _, ready in batch if isinstance(ready, tuple) for text in ready]
            encoding = tools.encoder.start(texts)
            running = pool.submit(encoding.run)
            if waiting:
                yield from _finish(*waiting, tools, rule)
            waiting = (batch, encoding, running)
        if waiting:
            yield from _finish(*waiting, tools, rule)


def _batches(
    samples: Iterable[Sample], tools: Tools, rule: EncodeRule
) -> Iterator[list[_Prepared]]:
    batch: list[_Prepared] = []
    chars = 0
    for sample in samples:
        try:
            documents = tuple(tools.documents(sample, rule))
        except InputError as error:
            batch.append((sample, error))
        else:
            batch.append((sample, documents))
            chars += sum(len(document.text) for document in documents)
        if len(batch) >= _BATCH_ROWS or chars >= _BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _finish(
    batch: list[_Prepared],
    encoding: Batch,
    running: Future[None],
    tools: Tools,
    rule: EncodeRule,
) -> Iterator[tuple[Sample, Cut | InputError]]:
    running.result()
    encoded = iter(tools.encoder.finish(encoding))
    for sample, ready in batch:
        if isinstance(ready, InputError):
            yield sample, ready
            continue
        whole = [next(encoded) for _ in ready]
        yield sample, cut(sample, whole, rule, tools.text_ends)
