"""A LLaMA Factory file becomes one of ours: every key is obeyed, explained or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slipway.core.errors import unknown_key
from slipway.core.hardware import probe
from slipway.core.i18n import tr
from slipway.core.manifest import flatten
from slipway.training.llamafactory.conflicts import check_conflicts
from slipway.training.llamafactory.draft import Draft
from slipway.training.llamafactory.table import KEYS
from slipway.training.llamafactory.to_data import put_data
from slipway.training.llamafactory.to_method import put_method
from slipway.training.llamafactory.to_run import put_run
from slipway.training.llamafactory.to_steps import put_steps
from slipway.training.llamafactory.values import Values
from slipway.training.spec.keys import TrainSpec
from slipway.training.spec.source_text import SourceText
from slipway.training.spec.unused import unused, why

# refused only where there is a GPU that would otherwise be used
_CPU_KEYS = ("use_cpu", "no_cuda")


def is_llamafactory(raw: Mapping[str, Any]) -> bool:
    """Whether a file is LLaMA Factory's, told by its keys.

    `model_name_or_path` decides; without it, a file that has a key only LLaMA Factory knows and
    none that only we know.
    """
    if "model_name_or_path" in raw:
        return True
    ours = [key for key in raw if key in TrainSpec.model_fields and key not in KEYS]
    theirs = [key for key in raw if key in KEYS and key not in TrainSpec.model_fields]
    return bool(theirs) and not ours


def convert(given: Mapping[str, Any], where: SourceText) -> Draft:
    """Our keys, from the keys of a LLaMA Factory file and its overrides.

    Raises:
        UsageError: an unknown key; a wrong value; keys that do not go together; a value that asks
            for something Slipway does not do.
        NotFoundError: `dataset_dir` holds no dataset_info.json.
    """
    for key in given:
        if key not in KEYS:
            raise unknown_key(key, KEYS, where.place(key))
    values = Values(given, where)
    draft = Draft(values)
    if not values.text("model_name_or_path"):
        raise values.wrong("model_name_or_path", tr("the key is missing"))
    check_conflicts(values)
    _refuse(draft)
    put_run(draft)
    put_method(draft)
    put_data(draft, _places(where.path))
    put_steps(draft)
    for key in given:
        if KEYS[key].fate == "accepted" and values.asks(key):
            draft.note(tr("`{key}` has no effect: {why}", key=key, why=KEYS[key].why))
    return draft


def note_unused(draft: Draft, spec: TrainSpec) -> None:
    """Tell of keys that the file's other keys leave without effect; its authors often keep such."""
    told = set()
    values = flatten(spec.model_dump())
    for key, rule in unused(spec):
        for theirs in draft.decided_by.get(key, ()):
            given = draft.values.given.get(theirs)
            if given is not None and given != KEYS[theirs].default and theirs not in told:
                told.add(theirs)
                place = draft.values.where.place(theirs)
                reason = why(rule, values[rule.decider])
                draft.note(
                    tr("{where}: `{key}` has no effect: {why}", where=place, key=theirs, why=reason)
                )


def _refuse(draft: Draft) -> None:
    values = draft.values
    for key in values.given:
        rule = KEYS[key]
        if rule.fate != "refused" or not values.asks(key):
            continue
        if key in _CPU_KEYS and not probe().accelerators:
            continue
        assert rule.why is not None
        raise draft.refuse(key, rule.why)


def _places(path: Path) -> Sequence[Path]:
    """Where LLaMA Factory looks (the working directory), then the file's folder and those above."""
    return [Path.cwd(), *path.resolve().parents][:6]
