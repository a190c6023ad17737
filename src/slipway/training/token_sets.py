"""The rows of a recipe as token sets: read, encoded by its rule, or taken from the cache."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.core.errors import InputError, NotFoundError
from slipway.core.events import EventLog
from slipway.core.files import sha256_json
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.datasets.model import SampleKind
from slipway.training.spec import TrainSpec
from slipway.training.spec.keys import Stage

if TYPE_CHECKING:
    from slipway.datasets import Encoded, EncodeRule, TokenSet
    from slipway.datasets.open import DividedStream, SampleStream
    from slipway.datasets.source import DataSource
    from slipway.datasets.stream import OnProgress
    from slipway.training.world import World

    Samples = SampleStream | DividedStream

_TELL_EVERY_S = 5.0
KINDS: dict[Stage, SampleKind] = {
    "pt": "text",
    "sft": "chat",
    "dpo": "preference",
    "kto": "feedback",
    "rm": "preference",
    "rloo": "chat",
    "grpo": "chat",
}


def rule_of(spec: TrainSpec) -> EncodeRule:
    """What of each row is learned, as the recipe says it."""
    from slipway.datasets import EncodeRule

    return EncodeRule(
        spec.cutoff_len,
        spec.train_on_prompt,
        spec.mask_history or spec.stage in ("rloo", "grpo"),  # the last answer is drawn anew
        spec.thinking,
        spec.system,
        pt=spec.stage == "pt",
    )


def load_tokenizer_of(spec: TrainSpec, base: Path) -> Any:
    """The base's tokenizer; its chat template is held to `template`, and plain text needs none.

    Raises:
        SlipwayError: see `datasets.load_tokenizer`.
    """
    from slipway.datasets import load_tokenizer

    return load_tokenizer(base, spec.template, chat=spec.stage != "pt")


def keep_template(spec: TrainSpec, base: Path, folder: Path) -> bool:
    """Put the chat template beside the adapter if the base has none of its own; say if so.

    Raises:
        SlipwayError: the disk is full.
    """
    from slipway.datasets import save_template

    if spec.template is None or spec.stage == "pt":
        return False
    return save_template(load_tokenizer_of(spec, base), folder)


def token_sets(
    spec: TrainSpec, tokenizer: Any, on_progress: OnProgress | None = None
) -> tuple[TokenSet, TokenSet | None]:
    """The documents to train on, and those kept for the eval loss, if there are any.

    Raises:
        SlipwayError: the data cannot be read or encoded.
    """
    from slipway.datasets import encode_stream

    rule, cache = rule_of(spec), Home.current().token_cache

    def encode(stream: Samples) -> TokenSet:
        tokens = encode_stream(
            stream,
            tokenizer,
            rule,
            cache=cache,
            digest=stream.digest,
            bad_rows=spec.bad_rows,
            on_progress=on_progress,
        )
        names = ", ".join(source.path for source in spec.sources)
        hold_to_stage(tokens.kind if len(tokens) else KINDS[spec.stage], spec.stage, names)
        return tokens

    train, heldout = streams(spec)
    return encode(train), encode(heldout) if heldout else None


def streams(spec: TrainSpec) -> tuple[Samples, Samples | None]:
    """The samples to train on and those of the eval loss, as the recipe's data keys say.

    `eval_data` goes before `val_size`, which goes before the heldout splits of `data`.

    Raises:
        SlipwayError: a dataset is missing, or the keys contradict each other.
    """
    from slipway.datasets import open_samples

    opened = partial(open_samples, seed=spec.seed, bad_rows=spec.bad_rows, stage=spec.stage)
    train = opened(spec.sources, mix=spec.mix, max_samples=spec.max_samples)
    if spec.eval_sources:
        return train, opened(spec.eval_sources)
    if spec.val_size:
        return train.divided(spec.val_size, spec.seed)
    whole = tuple(source.model_copy(update={"max_samples": None}) for source in spec.sources)
    try:
        return train, opened(whole, "heldout", mix=spec.mix)
    except NotFoundError:
        return train, None


def data_identity(sources: Sequence[DataSource], stage: str | None = None) -> str:
    """`sha256:<hex>` of the datasets of a recipe: of one as `dataset_digest`, of several together.

    Of a dataset in a registry it is that of its files and of what the entry means, not of how the
    entry is written.

    Raises:
        NotFoundError: a dataset is missing.
    """
    from slipway.datasets import dataset_digest
    from slipway.datasets.open import part_of

    def digest(source: DataSource) -> str:
        if source.info is None:
            return dataset_digest(Path(source.path))
        part = part_of(source, stage=stage)
        assert part is not None
        return "sha256:" + sha256_json(part.identity())

    digests = [digest(source) for source in sources]
    limits = [(source.weight, source.max_samples) for source in sources]
    if len(digests) == 1 and limits == [(1.0, None)]:
        return digests[0]
    return "sha256:" + sha256_json([digests, limits])


def fetch_data(spec: TrainSpec, events: EventLog) -> None:
    """Bring datasets of a hub here, and tell how far that is.

    Raises:
        SlipwayError: see `datasets.open.fetch_sources`.
    """
    from slipway.datasets.open import fetch_sources

    told_at = 0.0

    def tell(name: str, done: int, total: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at > 1 or done == total:
            told_at = time.monotonic()
            events.emit("progress", stage="fetch", name=name, done_bytes=done, total_bytes=total)

    fetch_sources([*spec.sources, *spec.eval_sources], tell)


def told_token_sets(
    spec: TrainSpec, tokenizer: Any, events: EventLog
) -> tuple[Sequence[Encoded], Sequence[Encoded]]:
    """`token_sets`, with everything that happened to the rows told as events.

    Raises:
        InputError: no row has anything to learn.
    """
    told_at = time.monotonic()

    def tell(done: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at > _TELL_EVERY_S:
            told_at = time.monotonic()
            events.emit("log", message=f"{done:,} rows encoded", rows=done)

    train_set, heldout = token_sets(spec, tokenizer, tell)
    for row in train_set.truncated:
        events.emit(
            "log", message=f"{row.file}:{row.line}: cut from {row.tokens} tokens", row=row.id
        )
    for row in train_set.dropped:
        events.emit("log", message=f"{row.file}:{row.line}: dropped, no label left", row=row.id)
    for problem in train_set.skipped["first"]:
        place = f"{problem['file']}:{problem['line']}: {problem['field']}"
        events.emit("log", message=f"left out: {place}: {problem['reason']}")
    for reason in train_set.reasons:
        events.emit("log", message=f"left out: {reason}")
    if train_set.unread:
        names = ", ".join(f"`{name}` ({rows:,} rows)" for name, rows in train_set.unread.items())
        events.emit("log", message=f"columns that are not read: {names}", unread=train_set.unread)
    left_out = train_set.skipped["count"] + train_set.refused
    events.emit(
        "log",
        message=f"{len(train_set):,} documents, {train_set.truncated.count:,} rows cut, "
        f"{train_set.dropped.count:,} dropped, {left_out:,} left out",
        documents=len(train_set),
        truncated=train_set.truncated.count,
        longest=max((row.tokens for row in train_set.truncated), default=0),
        dropped=train_set.dropped.count,
        skipped=train_set.skipped["count"],
        refused=train_set.refused,
    )
    require_labels(spec, train_set)
    if heldout is None:
        events.emit("log", message="no heldout split: eval loss is not measured")
    return train_set, heldout if heldout is not None else []


def part_of(spec: TrainSpec, rows: Sequence[Encoded], world: World) -> Sequence[Encoded]:
    """This process's share of held-out rows; the two of a preference pair stay together.

    Processes that compute in step measure all of them, all together.
    """
    if world.size == 1 or world.in_step or not len(rows):
        return rows
    from slipway.datasets import TokenSet

    each = 2 if KINDS[spec.stage] == "preference" else 1
    mine = range(world.rank, len(rows) // each, world.size)
    numbers = [unit * each + at for unit in mine for at in range(each)]
    assert isinstance(rows, TokenSet)
    return rows.select(numbers)


def require_labels(spec: TrainSpec, rows: TokenSet) -> None:
    """Refuse data with nothing to learn.

    Raises:
        InputError: naming the data and the cut-off.
    """
    if rows.learned.sum():
        return
    raise InputError(
        "train.no_label",
        tr(
            "{path} has no assistant token within the first {cutoff} tokens of any row",
            path=", ".join(source.path for source in spec.sources),
            cutoff=spec.cutoff_len,
        ),
        tr(
            "raise `cutoff_len`, or look at the rows with `slipway data check {path}`",
            path=spec.sources[0].arguments,
        ),
    )


def hold_to_stage(kind: SampleKind, stage: Stage, path: str) -> None:
    """Refuse rows that the stage does not learn from.

    Raises:
        InputError: they are of another kind.
    """
    if kind == KINDS[stage]:
        return
    fitting = ", ".join(name for name, learned in KINDS.items() if learned == kind)
    raise InputError(
        "data.kind",
        tr(
            "stage {stage} learns from rows of kind {wanted}, and those of {path} are of kind "
            "{kind}",
            stage=stage,
            wanted=KINDS[stage],
            path=path,
            kind=kind,
        ),
        tr("set `stage` to one of {stages}, or give other data", stages=fitting),
    )
