"""A training recipe: the file, `key=value` overrides, and where each value came from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slipway.core.errors import UsageError, unknown_key
from slipway.core.files import sha256_json
from slipway.core.i18n import Text, tr
from slipway.core.manifest import Origin, Setting, flatten
from slipway.training.spec.keys import COSMETIC, TrainSpec
from slipway.training.spec.places import resolve_places
from slipway.training.spec.source_text import SourceText, parse_value, read_source
from slipway.training.spec.unused import unused_notes
from slipway.training.spec.validate import NESTED, known_keys, require_known, validate

if TYPE_CHECKING:
    from slipway.training.llamafactory.draft import Draft

Dialect = Literal["slipway", "llamafactory"]
# keys whose override is taken as it is typed, unless it is a list
_TEXTS = ("model", "data", "eval_data", "label", "adapter")
_PATHS = (
    "model",
    "data",
    "eval_data",
    "adapter",
    "fsdp",
    "deepspeed",
    "preference.ref_model",
    "rl.reward_function",
    "rl.reward_model",
)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A recipe whose every value is known, with its origin (keys are dotted: `lora.rank`).

    Attributes:
        dialect: whose keys the file has.
        notes: keys without effect, and choices made in reading a LLaMA Factory file.
        run_dir: the run's folder, if the file says (`output_dir`).
        fresh: the file wants an earlier run in that folder dropped (`overwrite_output_dir`).
    """

    spec: TrainSpec
    origins: dict[str, Origin]
    path: Path | None = None
    dialect: Dialect = "slipway"
    notes: tuple[Text, ...] = ()
    run_dir: Path | None = None
    fresh: bool = False

    @property
    def run_name(self) -> str:
        """A folder name for the run; equal recipes and overrides share it, so they resume.

        Keys that do not change the result, such as `tags`, do not change the name.
        """
        stem = self.spec.label or (self.path.stem if self.path else "run")
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "run"
        return f"{readable}-{sha256_json(self.spec.model_dump(exclude=set(COSMETIC)))[:8]}"

    def settings(self) -> dict[str, Setting]:
        """Every key with its value and origin, for a manifest."""
        return {
            key: Setting(value, self.origins.get(key, "default"))
            for key, value in flatten(self.spec.model_dump()).items()
        }


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Resolved:
    """Read a recipe, apply `key=value` overrides, and check every value.

    The file is ours or LLaMA Factory's, YAML or JSON; its keys tell. Overrides of a LLaMA Factory
    file use its keys; those of our keys that it does not know may be given too. Paths become
    absolute: relative ones are looked for beside the recipe, then (and for overrides only) in the
    working directory; `model` may also be the name of a pulled base, such as
    `Qwen/Qwen2.5-0.5B-Instruct`.

    Raises:
        NotFoundError: the recipe, the model or the data does not exist.
        InputError: the file is neither YAML nor JSON.
        UsageError: a key that is unknown or stands twice, or a value of the wrong type or range.
    """
    from slipway.training.llamafactory.read import is_llamafactory

    raw, lines = read_source(path)
    pairs = _pairs(overrides)
    if is_llamafactory(raw):
        return _foreign(path, raw, lines, pairs)
    require_known(raw, str(path))
    flags = _flags(pairs)
    file_keys = flatten(raw)
    source = SourceText(path, lines, frozenset(flags))
    hint = tr("see the examples in `examples/recipes/`")
    spec = validate({**file_keys, **flags}, lambda key: (key, source.place(key)), hint)
    origins: dict[str, Origin] = {
        key: "flag" if key in flags else "file" if key in file_keys else "default"
        for key in flatten(spec.model_dump())
    }
    notes = unused_notes(spec, origins, source.place)
    spec = resolve_places(spec, _places(path, origins))
    return Resolved(spec, origins, path, notes=notes)


def with_overrides(resolved: Resolved, overrides: Sequence[str]) -> Resolved:
    """A recipe that is known already, with some of its values replaced by `key=value`.

    Raises:
        UsageError: a key that is unknown, or a value of the wrong type or range.
        NotFoundError: a path that does not exist.
    """
    flags = _flags(_pairs(overrides))
    values = {**flatten(resolved.spec.model_dump()), **flags}
    command_line = tr("the command line")
    hint = tr("see `docs/recipe.md` for every key")
    spec = validate(values, lambda key: (key, command_line), hint)
    origins: dict[str, Origin] = {**resolved.origins, **dict.fromkeys(flags, "flag")}
    unused_notes(spec, dict.fromkeys(flags, "flag"), lambda _: command_line)
    spec = resolve_places(spec, {key: [Path.cwd()] for key in _PATHS})
    return replace(resolved, spec=spec, origins=origins)


def _places(path: Path, origins: Mapping[str, Origin]) -> dict[str, Sequence[Path]]:
    """Where each path is looked for: what was typed, in the working directory alone."""
    beside = [Path.cwd()] if path.parent == Path() else [path.resolve().parent, Path.cwd()]
    return {key: [Path.cwd()] if origins.get(key) == "flag" else beside for key in _PATHS}


def _foreign(
    path: Path, raw: Mapping[str, Any], lines: Mapping[str, int], pairs: Mapping[str, str]
) -> Resolved:
    """A LLaMA Factory file; overrides that only we know are applied last."""
    from slipway.training.llamafactory.read import convert, note_unused
    from slipway.training.llamafactory.table import KEYS

    theirs: dict[str, Any] = dict(raw)
    ours: dict[str, str] = {}
    typed = set()
    for key, text in pairs.items():
        head, _, tail = key.partition(".")
        if head in KEYS and (not tail or key not in known_keys()):
            typed.add(head)
            if tail:  # as OmegaConf reads `lr_scheduler_kwargs.min_lr_rate=0.1`
                inner = theirs.get(head)
                theirs[head] = {
                    **(inner if isinstance(inner, dict) else {}),
                    tail: parse_value(text),
                }
            else:
                theirs[head] = parse_value(text)
        elif key in known_keys():
            ours[key] = text
        else:
            raise unknown_key(key, [*KEYS, *known_keys()], tr("the command line"))
    source = SourceText(path, lines, frozenset([*typed, *ours]))
    draft = convert(theirs, source)
    flags = _flags(ours)

    def named(key: str) -> tuple[str, Text | str]:
        if key in flags:
            return key, tr("the command line")
        first = next(iter(draft.decided_by.get(key, ())), key)
        return first, source.place(first)

    hint = tr("see `docs/llamafactory.md` for every key")
    spec = validate({**draft.spec, **flags}, named, hint)
    origins: dict[str, Origin] = {
        key: "flag" if key in flags else draft.origin(key) for key in flatten(spec.model_dump())
    }
    unused_notes(spec, dict.fromkeys(flags, "flag"), source.place)
    note_unused(draft, spec)
    return _found(spec, origins, draft, path)


def _found(spec: TrainSpec, origins: dict[str, Origin], draft: Draft, path: Path) -> Resolved:
    """Paths of a LLaMA Factory file are relative to the working directory, as there."""
    beside = [Path.cwd(), path.resolve().parent]
    return Resolved(
        resolve_places(spec, dict.fromkeys(_PATHS, beside)),
        origins,
        path,
        dialect="llamafactory",
        notes=tuple(draft.notes),
        run_dir=draft.run_dir,
        fresh=draft.fresh,
    )


def _pairs(overrides: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals:
            raise UsageError(
                "recipe.override",
                tr("`{item}` is not of the form key=value", item=item),
                tr("for example `learning_rate=0.001` or `lora.rank=8`"),
            )
        pairs[key] = text
    return pairs


def _flags(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Overrides of our own keys: lists as `[a, b]`, `data` also as `[{path: a, weight: 2}]`."""
    flags: dict[str, Any] = {}
    for key, text in pairs.items():
        if key not in known_keys() and key not in NESTED:
            raise unknown_key(key, known_keys(), tr("the command line"))
        value = parse_value(text)
        if key in NESTED:
            if not isinstance(value, Mapping):
                raise unknown_key(key, known_keys(), tr("the command line"))
            flags.update({f"{key}.{inner}": found for inner, found in value.items()})
        elif key in _TEXTS and value is not None and not isinstance(value, list):
            flags[key] = text
        else:
            flags[key] = value
    for key in flags:
        if key not in known_keys():
            raise unknown_key(key, known_keys(), tr("the command line"))
    require_known({k: v for k, v in flags.items() if "." not in k}, str(tr("the command line")))
    return flags
