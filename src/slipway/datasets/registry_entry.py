"""One entry of a dataset_info.json: where its rows are, how their columns and roles are called.

The defaults are LLaMA Factory's (src/llamafactory/data/parser.py, data/README.md), with what is
easily overlooked there: without `columns` there is neither history nor system nor tools; as soon as
`columns` stands in an entry, every column it does not list is absent, the usual names included; the
same for `tags`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slipway.core.errors import InputError, UsageError, nearest, unknown_key
from slipway.core.i18n import Text, tr
from slipway.datasets.formats import Layout, Tags
from slipway.datasets.formats.layout import TurnRole
from slipway.datasets.model import Format
from slipway.datasets.registry_split import Span, parse_split

Where = Literal["file", "hf", "ms"]

_FORMATS: tuple[Format, ...] = ("alpaca", "sharegpt", "openai")
_PLACES = ("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
_KEYS = (
    *_PLACES,
    *("formatting", "ranking", "subset", "split", "folder", "num_samples", "columns", "tags"),
    *("revision", "file_sha1"),  # of older versions; the second never had any effect
)
_DEFAULT_COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "messages": "conversations",
}
_MEDIA = ("images", "videos", "audios")
_COLUMNS = (
    *_DEFAULT_COLUMNS,
    *("history", "system", "tools", "chosen", "rejected", "kto_tag"),
    *_MEDIA,
)
_DEFAULT_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_NEEDED_TAGS = ("role_tag", "content_tag", "user_tag", "assistant_tag")
_ROLES: dict[str, TurnRole] = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "call",
    "system_tag": "system",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """What a registry says of a dataset.

    Attributes:
        place: a path relative to the registry's folder, or the id of a dataset on a hub.
        subset, folder, revision: which part of a dataset on a hub; empty: the default one.
        split: name of the split; `span`: the part of it.
        draw: so many rows drawn at random, more than there are with repetition; None: all.
    """

    name: str
    where: Where
    place: str
    layout: Layout
    subset: str = ""
    folder: str = ""
    revision: str = ""
    split: str = "train"
    span: Span | None = None
    draw: int | None = None


class Reader:
    """Reads one entry; every fault names the registry, the dataset and the key."""

    def __init__(self, registry: Path | str, name: str, given: Mapping[str, Any]) -> None:
        self.registry = registry
        self.name = name
        self.given = given

    def fault(self, key: str, reason: Text, hint: Text | str = "") -> InputError:
        """An error about a key, such as `columns.prompt`."""
        message = tr(
            "{path}: dataset `{name}`: `{key}`: {reason}",
            path=str(self.registry),
            name=self.name,
            key=key,
            reason=reason,
        )
        return InputError("data.bad_entry", message, hint or tr("see `docs/dataset-info.md`"))

    def refuse(self, key: str, reason: Text, hint: Text | str) -> UsageError:
        """An error about something Slipway does not do."""
        fault = self.fault(key, reason, hint)
        return UsageError("data.unsupported_entry", fault.message, fault.hint)

    def text(self, key: str, default: str = "") -> str:
        """A text; null is the same as absent.

        Raises:
            InputError: it is something else.
        """
        value = self.given.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.fault(key, tr("must be a text"))
        return value

    def names(
        self, key: str, defaults: Mapping[str, str], known: tuple[str, ...]
    ) -> dict[str, str]:
        """`columns` or `tags`: all that are not listed are absent, unless none is.

        Raises:
            UsageError: an unknown name.
            InputError: a value that is not a text.
        """
        if key not in self.given:
            return {name: defaults.get(name, "") for name in known}
        value = self.given[key]
        if not isinstance(value, Mapping):
            raise self.fault(key, tr("must be an object"))
        for name, column in value.items():
            if name not in known:
                raise unknown_key(f"{key}.{name}", [f"{key}.{one}" for one in known], self.place())
            if column is not None and not isinstance(column, str):
                raise self.fault(f"{key}.{name}", tr("must be a text"))
        return {name: value.get(name) or "" for name in known}

    def place(self) -> Text:
        """The entry, for errors about unknown keys."""
        return tr("{path}, dataset `{name}`", path=str(self.registry), name=self.name)


def read_entry(registry: Path | str, name: str, given: object) -> Entry:
    """An entry of a registry, checked.

    Raises:
        InputError: a key has a wrong type or value, or a needed one is missing.
        UsageError: an unknown key, or one that asks for something Slipway does not do.
    """
    if not isinstance(given, Mapping):
        given = {"": given}
        raise Reader(registry, name, given).fault("", tr("must be an object"))
    reader = Reader(registry, name, given)
    for key in given:
        if key not in _KEYS and not key.startswith("_"):  # `_comment` and the like
            raise unknown_key(key, _KEYS, reader.place())
    where, place = _where(reader)
    draw = given.get("num_samples")
    if draw is not None and (not isinstance(draw, int) or isinstance(draw, bool) or draw < 1):
        raise reader.fault("num_samples", tr("must be a whole number above 0"))
    split = parse_split(reader.text("split", "train"))
    if split is None:
        raise reader.refuse(
            "split",
            tr("`{split}` is neither a name nor a name with one range", split=given["split"]),
            tr("for example `train`, `train[:1000]` or `train[10%:20%]`"),
        )
    if where == "file" and split[0] != "train":
        raise reader.fault("split", tr("files have no split but `train`"))
    return Entry(
        name,
        where,
        place,
        _layout(reader),
        reader.text("subset"),
        reader.text("folder"),
        reader.text("revision"),
        *split,
        draw,
    )


def _where(reader: Reader) -> tuple[Where, str]:
    """The same choice as LLaMA Factory's: hubs before script, cloud and file."""
    given = reader.given
    hf, ms, om = (f"{hub}_hub_url" in given for hub in ("hf", "ms", "om"))
    if ms and (enabled("USE_MODELSCOPE_HUB") or not hf):
        return "ms", _needed(reader, "ms_hub_url")
    if om and (enabled("USE_OPENMIND_HUB") or not hf):
        raise reader.refuse(
            "om_hub_url",
            tr("datasets of the openMind hub are not fetched"),
            tr("download the dataset and name its file as `file_name`"),
        )
    if hf:
        return "hf", _needed(reader, "hf_hub_url")
    if "script_url" in given:
        raise reader.refuse(
            "script_url",
            tr("programs that come with a dataset are not run"),
            tr("convert the dataset to .jsonl or .parquet and name its file as `file_name`"),
        )
    if "cloud_file_name" in given:
        raise reader.refuse(
            "cloud_file_name",
            tr("files in cloud storage (s3, gs) are not fetched"),
            tr("copy the file beside the registry and name it as `file_name`"),
        )
    if "file_name" not in given:
        raise reader.fault("file_name", tr("the key is missing"))
    return "file", _needed(reader, "file_name")


def _needed(reader: Reader, key: str) -> str:
    text = reader.text(key)
    if not text.strip():
        raise reader.fault(key, tr("must be a text"))
    return text


def enabled(variable: str) -> bool:
    """Whether an environment variable is switched on, as LLaMA Factory reads it."""
    return os.environ.get(variable, "0").lower() in ("true", "y", "1")


def _layout(reader: Reader) -> Layout:
    format = _format(reader)
    ranking = reader.given.get("ranking")
    if ranking is not None and not isinstance(ranking, bool):
        raise reader.fault("ranking", tr("must be true or false"))
    columns = reader.names("columns", _DEFAULT_COLUMNS, _COLUMNS)
    for media in _MEDIA:
        if columns[media]:
            raise reader.refuse(
                f"columns.{media}",
                tr("pictures, videos and sounds are not supported"),
                tr("choose a dataset of texts"),
            )
    alpaca = format == "alpaca"
    if alpaca and not columns["prompt"] and not columns["query"]:
        raise lost(reader, "columns.prompt")
    if not alpaca and not columns["messages"]:
        raise lost(reader, "columns.messages")
    tags = _tags(reader)
    own = ("prompt", "query", "response", "history") if alpaca else ("messages",)
    read = {name: column if name in own else "" for name, column in columns.items()}
    return Layout(
        format,
        prompt=read["prompt"],
        query=read["query"],
        response=read["response"],
        history=read["history"],
        messages=read["messages"],
        system=columns["system"],
        tools=columns["tools"],
        # LLaMA Factory breaks off where pairs have no columns; the usual names are meant
        chosen=columns["chosen"] or ("chosen" if ranking else ""),
        rejected=columns["rejected"] or ("rejected" if ranking else ""),
        mark=(columns["kto_tag"],) if columns["kto_tag"] else (),
        media=(),
        tags=tags,
        registry=True,
        ranking=bool(ranking),
    )


def _format(reader: Reader) -> Format:
    wanted = reader.text("formatting", "alpaca")
    for format in _FORMATS:
        if format == wanted:
            return format
    close = nearest(wanted, _FORMATS)
    raise reader.fault(
        "formatting",
        tr("must be one of {names}", names=", ".join(_FORMATS)),
        tr("did you mean {names}?", names=", ".join(f"`{name}`" for name in close))
        if close
        else "",
    )


def lost(reader: Reader, key: str) -> InputError:
    """The error for a column or tag that is absent because others are listed."""
    name = key.partition(".")[0]
    return reader.fault(
        key,
        tr("the key is missing"),
        tr("once `{name}` is given, whatever it does not list is absent: list it there", name=name),
    )


def _tags(reader: Reader) -> Tags:
    tags = reader.names("tags", _DEFAULT_TAGS, tuple(_DEFAULT_TAGS))
    if reader.text("formatting", "alpaca") != "alpaca":
        for needed in _NEEDED_TAGS:
            if not tags[needed]:
                raise lost(reader, f"tags.{needed}")
    roles: dict[str, TurnRole] = {}
    for tag, role in _ROLES.items():
        if tags[tag]:
            roles.setdefault(tags[tag], role)
    return Tags(tags["role_tag"], tags["content_tag"], roles)
