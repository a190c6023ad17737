"""Datasets, template and masking: from LLaMA Factory's keys to ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slipway.core.errors import NotFoundError
from slipway.core.i18n import tr
from slipway.datasets.registry import REGISTRY, is_elsewhere
from slipway.training.llamafactory.draft import Draft


def put_data(draft: Draft, places: Sequence[Path]) -> None:
    """Decide everything about data.

    Args:
        places: folders that a relative `dataset_dir` is looked for in.
    """
    values = draft.values
    _sources(draft, places)
    draft.copy("val_size", "max_samples", "cutoff_len")
    draft.put("mix", values.text("mix_strategy"), "mix_strategy")
    draft.put("template", values.text("template") or None, "template")
    draft.put("system", values.text("default_system") or None, "default_system")
    draft.put("train_on_prompt", values.flag("train_on_prompt"), "train_on_prompt")
    draft.put("mask_history", values.flag("mask_history"), "mask_history")
    draft.put("bad_rows", "skip")  # as LLaMA Factory does, but counted and named
    _thinking(draft)


def _thinking(draft: Draft) -> None:
    """`enable_thinking` matters only to templates that think; a `_nothink` name switches it off."""
    values = draft.values
    asked = "enable_thinking" in values.given
    if values.text("template").endswith("_nothink") or (
        asked and values.get("enable_thinking") is None
    ):
        thinking = "keep"
    else:
        thinking = "on" if values.flag("enable_thinking") else "off"
    draft.put("thinking", thinking, "enable_thinking", "template")


def _sources(draft: Draft, places: Sequence[Path]) -> None:
    values = draft.values
    if not values.names("dataset"):
        raise values.wrong("dataset", tr("the key is missing"))
    folder = _registry(draft, places)
    names = values.names("dataset")
    weights = [1.0] * len(names)
    if values.has("interleave_probs"):
        try:
            weights = [float(part) for part in values.names("interleave_probs")]
        except ValueError as error:
            raise values.wrong("interleave_probs", tr("must be a number")) from error
    data: list[dict[str, Any]] = [
        {"path": name, "info": folder, "weight": weight}
        for name, weight in zip(names, weights, strict=True)
    ]
    draft.put("data", data, "dataset", "dataset_dir", "interleave_probs")
    if evals := values.names("eval_dataset"):
        limit = values.get("max_samples")  # holds for these too
        sources = [{"path": name, "info": folder, "max_samples": limit} for name in evals]
        draft.put("eval_data", sources, "eval_dataset", "dataset_dir", "max_samples")


def _registry(draft: Draft, places: Sequence[Path]) -> str:
    """The folder of dataset_info.json, or the word that stands for a hub."""
    values = draft.values
    if isinstance(values.get("dataset_dir"), dict):
        raise values.wrong("dataset_dir", tr("must be one text"))
    given = values.text("dataset_dir")
    if is_elsewhere(given):
        return given
    folder = Path(given).expanduser()
    candidates = [folder] if folder.is_absolute() else [place / folder for place in places]
    for candidate in candidates:
        if (candidate / REGISTRY).is_file():
            return str(candidate.resolve())
    raise NotFoundError(
        "llamafactory.no_registry",
        tr(
            "{where}: `dataset_dir: {value}` holds no dataset_info.json (looked in {places})",
            where=values.where.place("dataset_dir"),
            value=given,
            places=", ".join(str(candidate) for candidate in candidates),
        ),
        tr("run the command where `{value}` lies, or give `dataset_dir=FOLDER`", value=given),
    )
