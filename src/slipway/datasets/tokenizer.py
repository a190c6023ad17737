"""The model's own tokenizer, loaded from its folder and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slipway.core.errors import InputError, NotFoundError, missing_extra
from slipway.core.i18n import tr
from slipway.datasets.templates import check_template, put_template


def load_tokenizer(model_dir: Path, template: str | None = None, *, chat: bool = True) -> Any:
    """A fast `transformers` tokenizer with a chat template; no network, no code from the folder.

    Args:
        template: name that the model's own chat template must have; a base model without one gets
            ours of this name, if there is one (see `templates`).
        chat: whether a chat template is needed at all; plain text needs none.

    Raises:
        NotFoundError: the folder does not exist.
        InputError: it holds no usable tokenizer, no `tokenizer.json`, or no chat template, or one
            of another family than `template` says.
        UsageError: nobody knows a template named `template`.
        ResourceError: transformers is not installed.
    """
    if not model_dir.is_dir():
        raise NotFoundError(
            "model.not_found",
            tr("the model folder {path} does not exist", path=str(model_dir)),
            tr("get a base model with `slipway pull starter`"),
        )
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise missing_extra("transformers", "train") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(model_dir), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers raises many kinds for one cause: a bad folder
        raise InputError(
            "tokenizer.unreadable",
            tr(
                "the tokenizer in {path} cannot be read: {reason}",
                path=str(model_dir),
                reason=(str(error).strip().splitlines() or [type(error).__name__])[0],
            ),
            tr("fetch the model again with `slipway pull`"),
        ) from error
    if not tokenizer.is_fast:
        raise InputError(
            "tokenizer.slow",
            tr("the tokenizer in {path} has no tokenizer.json", path=str(model_dir)),
            tr("use a model that comes with a fast tokenizer"),
        )
    if chat:
        _see_to_template(tokenizer, model_dir, template)
    return tokenizer


def _see_to_template(tokenizer: Any, model_dir: Path, template: str | None) -> None:
    if tokenizer.chat_template and template is not None:
        check_template(tokenizer, template)
    elif template is not None:
        put_template(tokenizer, template)
    if not tokenizer.chat_template:
        raise InputError(
            "tokenizer.no_chat_template",
            tr("the tokenizer in {path} has no chat template", path=str(model_dir)),
            tr(
                "take the Instruct version of the model, add chat_template.jinja to the folder, or "
                "set `template: chatml` (or `default`) in the recipe"
            ),
        )
