"""A training recipe: the YAML file, `key=value` overrides, and where each value came from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from slipway.core.errors import (
    InputError,
    NotFoundError,
    UsageError,
    from_os_error,
    unknown_key,
)
from slipway.core.files import sha256_json
from slipway.core.i18n import Text, tr
from slipway.core.manifest import Origin, Setting
from slipway.core.paths import Home
from slipway.training.spec.keys import TrainSpec

# keys that hold keys of their own
_NESTED: dict[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in TrainSpec.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


@dataclass(frozen=True, slots=True)
class Resolved:
    """A recipe whose every value is known, with its origin (keys are dotted: `lora.rank`)."""

    spec: TrainSpec
    origins: dict[str, Origin]
    path: Path | None = None

    @property
    def run_name(self) -> str:
        """A folder name for the run; equal recipes and overrides share it, so they resume."""
        stem = self.spec.label or (self.path.stem if self.path else "run")
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "run"
        return f"{readable}-{sha256_json(self.spec.model_dump(exclude={'label'}))[:8]}"

    def settings(self) -> dict[str, Setting]:
        """Every key with its value and origin, for a manifest."""
        return {
            key: Setting(value, self.origins.get(key, "default"))
            for key, value in flatten(self.spec.model_dump()).items()
        }


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones: `{"lora": {"rank": 8}}` -> `{"lora.rank": 8}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def known_keys() -> list[str]:
    """Every key a recipe may have, dotted."""
    inner = [f"{key}.{name}" for key, model in _NESTED.items() for name in model.model_fields]
    return [name for name in TrainSpec.model_fields if name not in _NESTED] + inner


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Resolved:
    """Read a recipe, apply `key=value` overrides, and check every value.

    `model`, `data` and `eval_data` become absolute paths: relative ones are looked for beside the
    recipe, then (and for overrides only) in the working directory; `model` may also be the name of
    a pulled base.

    Raises:
        NotFoundError: the recipe, the model or the data does not exist.
        InputError: the file is not YAML.
        UsageError: a key that is unknown or stands twice, or a value of the wrong type or range.
    """
    raw, lines = _read(path)
    _require_known(raw, str(path))
    file_keys = flatten(raw)
    flags = _parse_overrides(overrides)
    values = {**file_keys, **flags}
    spec = _validate(values, flags, path, lines)
    origins: dict[str, Origin] = {
        key: "flag" if key in flags else "file" if key in file_keys else "default"
        for key in flatten(spec.model_dump())
    }
    places = [Path.cwd()] if path.parent == Path() else [path.resolve().parent, Path.cwd()]
    found: dict[str, Any] = {}
    for key in ("model", "data", "eval_data"):
        value = getattr(spec, key)
        if value is not None:
            search = [Path.cwd()] if origins[key] == "flag" else places
            found[key] = str(_locate(key, value, search))
    return Resolved(spec.model_copy(update=found), origins, path)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    if not path.is_file():
        raise NotFoundError(
            "recipe.not_found",
            tr("the recipe {path} does not exist", path=str(path)),
            tr("see the examples in `examples/recipes/`"),
        )
    try:
        text = path.read_text(encoding="utf-8")
        raw = yaml.safe_load(text)
        lines = _lines(yaml.compose(text, Loader=yaml.SafeLoader), path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _not_yaml(path, error) from error
    except OSError as error:
        raise from_os_error(error, path) from error
    if raw is None:
        return {}, lines
    if not isinstance(raw, dict):
        raise InputError(
            "recipe.not_a_mapping",
            tr("{path} must hold `key: value` lines", path=str(path)),
            tr("see the examples in `examples/recipes/`"),
        )
    return {str(key): value for key, value in raw.items()}, lines


def _not_yaml(path: Path, error: yaml.YAMLError | UnicodeDecodeError) -> InputError:
    """One sentence with file, line and column; PyYAML's own text has several lines."""
    mark = getattr(error, "problem_mark", None)
    place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
    reason = getattr(error, "problem", None) or str(error).splitlines()[0]
    return InputError(
        "recipe.not_yaml",
        tr("{place}: this is not YAML: {reason}", place=place, reason=reason),
        tr("mend that line; it has the form `key: value`"),
    )


def _lines(node: yaml.Node | None, path: Path, prefix: str = "") -> dict[str, int]:
    """Dotted key -> line.

    Raises:
        UsageError: a key stands twice; YAML would let the later one win in silence.
    """
    lines: dict[str, int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name, line = f"{prefix}{key.value}", key.start_mark.line + 1
            if name in lines:
                raise UsageError(
                    "recipe.key_twice",
                    tr(
                        "{path}:{line}: `{key}` stands in line {first} already",
                        path=str(path),
                        line=line,
                        key=name,
                        first=lines[name],
                    ),
                    tr("remove one of the two lines"),
                )
            lines[name] = line
            lines.update(_lines(value, path, f"{name}."))
    return lines


def _require_known(raw: Mapping[str, Any], where: str) -> None:
    for key, value in raw.items():
        if key not in TrainSpec.model_fields:
            raise unknown_key(key, TrainSpec.model_fields, where)
        if key in _NESTED and isinstance(value, Mapping):
            for inner in value:
                if inner not in _NESTED[key].model_fields:
                    raise unknown_key(f"{key}.{inner}", known_keys(), where)


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    flags: dict[str, Any] = {}
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals:
            raise UsageError(
                "recipe.override",
                tr("`{item}` is not of the form key=value", item=item),
                tr("for example `learning_rate=0.001` or `lora.rank=8`"),
            )
        if key not in known_keys():
            raise unknown_key(key, known_keys(), tr("the command line"))
        try:
            flags[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            flags[key] = text
        if key in ("model", "data", "eval_data", "label") and flags[key] is not None:
            flags[key] = text
    return flags


def _validate(
    values: Mapping[str, Any], flags: Mapping[str, Any], path: Path, lines: Mapping[str, int]
) -> TrainSpec:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        head, _, tail = key.partition(".")
        if tail:
            nested.setdefault(head, {})[tail] = value
        else:
            nested[head] = value
    try:
        return TrainSpec.model_validate(nested)
    except ValidationError as error:
        first = error.errors()[0]
        parts = [str(part) for part in first["loc"]]
        key = ".".join(parts[: 2 if parts[0] in _NESTED else 1])
        where: Text | str
        if key in flags:
            where = tr("the command line")
        elif key in lines:
            where = f"{path}:{lines[key]}"
        else:
            where = str(path)
        code = "recipe.missing_key" if first["type"] == "missing" else "recipe.bad_value"
        raise UsageError(
            code,
            tr(
                "{where}: `{key}`: {reason}",
                where=where,
                key=key,
                reason=_reason(first["type"], first),
            ),
            tr("see the examples in `examples/recipes/`"),
        ) from error


def _reason(kind: str, error: Mapping[str, Any]) -> Text | str:
    """Pydantic's commonest faults in the reader's language, the others in its own English."""
    limits: Mapping[str, Any] = error.get("ctx") or {}
    if kind == "missing":
        return tr("the key is missing")
    if kind in ("float_parsing", "float_type", "int_parsing", "int_type", "int_from_float"):
        whole = kind.startswith("int")
        return tr("must be a whole number") if whole else tr("must be a number")
    if kind == "literal_error":
        return tr("must be one of {names}", names=limits["expected"].replace(" or ", ", "))
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    found = [f"{sign} {limits[key]}" for key, sign in signs.items() if key in limits]
    return tr("must be {limit}", limit=found[0]) if found else str(error["msg"])


def _locate(key: str, value: str, places: Sequence[Path]) -> Path:
    given = Path(value).expanduser()
    candidates = [given] if given.is_absolute() else [place / given for place in places]
    if key == "model" and not given.is_absolute() and len(given.parts) == 1:
        candidates.append(Home.current().bases / value)
    for candidate in candidates:
        if candidate.exists():
            return candidate.resolve()
    hint = (
        tr("get a base model with `slipway pull starter`")
        if key == "model"
        else tr("give the dataset's folder, for example `data=examples/support-en`")
    )
    raise NotFoundError(
        "recipe.path_not_found",
        tr(
            "`{key}: {value}` does not exist (looked for {places})",
            key=key,
            value=value,
            places=", ".join(str(candidate) for candidate in candidates),
        ),
        hint,
    )
