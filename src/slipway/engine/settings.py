"""How the daemon runs engine workers: a frozen record, its environment variables, and durations."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from slipway.core.errors import UsageError
from slipway.core.i18n import tr

ProviderName = Literal["auto", "native", "embedded"]

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Each field can be set by the environment variable in its comment.

    Attributes:
        engine: SLIPWAY_ENGINE; which worker program: `native` (llama-server of the toolchain),
            `embedded` (the xllamacpp package), `auto` (native when there is one).
        server: SLIPWAY_LLAMA_SERVER; a llama-server to use instead of the toolchain's.
        parallel: SLIPWAY_NUM_PARALLEL; requests that one worker serves at once. Fewer when the
            key-value cache of that many would not fit a quarter of the free memory.
        max_loaded: SLIPWAY_MAX_LOADED_MODELS; workers at once.
        max_queue: SLIPWAY_MAX_QUEUE; requests that may wait for a worker before 503.
        context_length: SLIPWAY_CONTEXT_LENGTH; tokens of context for each request where neither
            the request nor the model says.
        keep_alive_s: SLIPWAY_KEEP_ALIVE; seconds an idle worker stays; infinity for ever.
        load_timeout_s: SLIPWAY_LOAD_TIMEOUT; seconds a model may take to load.
    """

    engine: ProviderName = "auto"
    server: Path | None = None
    parallel: int = 4
    max_loaded: int = 3
    max_queue: int = 512
    context_length: int = 4096
    keep_alive_s: float = 300.0
    load_timeout_s: float = 300.0

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> EngineSettings:
        """The settings of this process's environment.

        Raises:
            UsageError: a variable has a value that cannot be used; the message names it.
        """
        values = os.environ if env is None else env
        found: dict[str, Any] = {}
        for name, variable in _VARIABLES.items():
            text = values.get(variable, "").strip()
            if text:
                found[name] = _read(name, variable, text)
        return cls(**found)


_VARIABLES = {
    "engine": "SLIPWAY_ENGINE",
    "server": "SLIPWAY_LLAMA_SERVER",
    "parallel": "SLIPWAY_NUM_PARALLEL",
    "max_loaded": "SLIPWAY_MAX_LOADED_MODELS",
    "max_queue": "SLIPWAY_MAX_QUEUE",
    "context_length": "SLIPWAY_CONTEXT_LENGTH",
    "keep_alive_s": "SLIPWAY_KEEP_ALIVE",
    "load_timeout_s": "SLIPWAY_LOAD_TIMEOUT",
}
assert set(_VARIABLES) == {field.name for field in fields(EngineSettings)}


def _read(name: str, variable: str, text: str) -> Any:
    try:
        if name == "engine":
            if text not in get_args(ProviderName):
                raise ValueError(text)
            return text
        if name == "server":
            return Path(text).expanduser()
        if name.endswith("_s"):
            return parse_duration(text)
        value = int(text)
        if value < 1:
            raise ValueError(text)
        return value
    except ValueError:
        raise UsageError(
            "config.bad_value",
            tr(
                "{variable} has the value `{value}`, which cannot be used",
                variable=variable,
                value=text,
            ),
            tr("correct it, or `unset {variable}`", variable=variable),
        ) from None


def parse_duration(value: str | int | float) -> float:
    """Seconds of an Ollama duration: a number of seconds, or Go's notation (`5m`, `1h30m`, `90s`).

    Negative means for ever (infinity).

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, bool):
        raise ValueError(value)
    if isinstance(value, int | float):
        seconds = float(value)
    else:
        text = value.strip()
        sign = -1.0 if text.startswith("-") else 1.0
        body = text.lstrip("+-")
        try:
            seconds = sign * float(body)
        except ValueError:
            parts = _DURATION.findall(body)
            if not parts or "".join(n + u for n, u in parts) != body:
                raise ValueError(value) from None
            seconds = sign * sum(float(number) * _UNITS[unit] for number, unit in parts)
    if math.isnan(seconds):
        raise ValueError(value)
    return math.inf if seconds < 0 else seconds
