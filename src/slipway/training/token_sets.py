"""The rows of a recipe as token sets: read, encoded by its rule, or taken from the cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.core.errors import NotFoundError
from slipway.core.paths import Home
from slipway.training.spec import TrainSpec

if TYPE_CHECKING:
    from slipway.datasets import EncodeRule, TokenSet
    from slipway.datasets.model import Split
    from slipway.datasets.stream import OnProgress


def rule_of(spec: TrainSpec) -> EncodeRule:
    """What of each row is learned, as the recipe says it."""
    from slipway.datasets import EncodeRule

    return EncodeRule(
        spec.cutoff_len,
        spec.train_on_prompt,
        spec.mask_history,
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
    from slipway.datasets import dataset_digest, encode_stream, load_dataset

    rule, cache = rule_of(spec), Home.current().token_cache

    def encode(path: Path, split: Split) -> TokenSet:
        return encode_stream(
            load_dataset(path, split),
            tokenizer,
            rule,
            cache=cache,
            digest=f"{dataset_digest(path)}:{split}",
            bad_rows=spec.bad_rows,
            on_progress=on_progress,
        )

    train = encode(Path(spec.sources[0].path), "train")
    if spec.eval_sources:
        return train, encode(Path(spec.eval_sources[0].path), "train")
    try:
        return train, encode(Path(spec.sources[0].path), "heldout")
    except NotFoundError:
        return train, None
