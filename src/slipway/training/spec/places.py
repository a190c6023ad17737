"""Where the files and folders that a recipe names lie."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slipway.core.errors import NotFoundError
from slipway.core.i18n import Text, tr
from slipway.core.paths import Home
from slipway.datasets.registry import is_elsewhere
from slipway.datasets.source import DataSource
from slipway.training.spec.keys import TrainSpec

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def resolve_places(spec: TrainSpec, places_of: dict[str, Sequence[Path]]) -> TrainSpec:
    """The recipe with every path absolute.

    Args:
        places_of: dotted key -> folders in which a relative path is looked for.

    Raises:
        NotFoundError: naming the key and the places.
    """
    found: dict[str, Any] = {"model": str(_model("model", spec.model, places_of["model"]))}
    for key in ("data", "eval_data"):
        if (value := getattr(spec, key)) is not None:
            found[key] = _data(key, value, places_of[key])
    if spec.adapter:
        found["adapter"] = str(_run("adapter", spec.adapter, places_of["adapter"]))
    for key in ("fsdp", "deepspeed"):
        if value := getattr(spec, key):
            hint = tr("give the path of the config file")
            found[key] = str(_locate(key, value, _in(value, places_of[key]), hint))
    if spec.preference.ref_model:
        key = "preference.ref_model"
        path = _model(key, spec.preference.ref_model, places_of[key], runs=True)
        found["preference"] = spec.preference.model_copy(update={"ref_model": str(path)})
    if spec.rl.reward_function:
        key = "rl.reward_function"
        file, sign, name = spec.rl.reward_function.rpartition(":")
        if sign and name.isidentifier():  # another form is refused when it is used
            at = _locate(key, file, _in(file, places_of[key]), tr("give `FILE.py:NAME`"))
            found["rl"] = spec.rl.model_copy(update={"reward_function": f"{at}:{name}"})
    if spec.rl.reward_model:
        key = "rl.reward_model"
        path = _run(key, spec.rl.reward_model, places_of[key])
        given = found.get("rl", spec.rl)
        found["rl"] = given.model_copy(update={"reward_model": str(path)})
    return spec.model_copy(update=found)


def pulled_base(name: str) -> Path:
    """The folder that `slipway pull NAME` makes: `org/repo` lies in `org--repo`."""
    return Home.current().bases / name.removeprefix("hf://").removeprefix("ms://").replace(
        "/", "--"
    )


def _in(value: str, places: Sequence[Path]) -> list[Path]:
    given = Path(value).expanduser()
    return [given] if given.is_absolute() else [place / given for place in places]


def _model(key: str, value: str, places: Sequence[Path], *, runs: bool = False) -> Path:
    candidates = _in(value, places)
    if runs and len(Path(value).parts) == 1:
        candidates.append(Home.current().runs / value)
    hub = bool(_HUB_ID.fullmatch(value.removeprefix("hf://").removeprefix("ms://")))
    if hub or len(Path(value).parts) == 1:
        candidates.append(pulled_base(value))
    hint = (
        tr("fetch it with `slipway pull {name}`", name=value)
        if hub
        else tr("get a base model with `slipway pull starter`")
    )
    return _locate(key, value, candidates, hint)


def _run(key: str, value: str, places: Sequence[Path]) -> Path:
    candidates = _in(value, places)
    if len(Path(value).parts) == 1:
        candidates.append(Home.current().runs / value)
    return _locate(key, value, candidates, tr("give the folder of a run or of an adapter"))


def _data(
    key: str, value: str | list[str | DataSource], places: Sequence[Path]
) -> str | list[str | DataSource]:
    hint = tr("give the dataset's folder, for example `data=examples/support-en`")
    if isinstance(value, str):
        return str(_locate(key, value, _in(value, places), hint))
    found: list[str | DataSource] = []
    for item in value:
        if isinstance(item, str):
            found.append(str(_locate(key, item, _in(item, places), hint)))
        elif item.info is not None and is_elsewhere(item.info):
            found.append(item)
        elif item.info is not None:  # `path` is a name in the registry
            folder = str(_locate(f"{key}.info", item.info, _in(item.info, places), hint))
            found.append(item.model_copy(update={"info": folder}))
        else:
            path = str(_locate(key, item.path, _in(item.path, places), hint))
            found.append(item.model_copy(update={"path": path}))
    return found


def _locate(key: str, value: str, candidates: Sequence[Path], hint: Text) -> Path:
    for candidate in candidates:
        if candidate.exists():
            return candidate.resolve()
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
