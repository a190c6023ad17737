"""Generation options: Ollama's names and defaults, the model's own, the request's; then llama's.

The same defaults hold at both doors, so a model answers alike through `/api` and `/v1`, and what
a Modelfile sets is used wherever the request says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.store.parameters import PARAMETERS, check_value

DEFAULTS: dict[str, Any] = {
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repeat_last_n": 64,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "num_predict": -1,
    "seed": -1,
}

_LLAMA_NAMES = {"num_predict": "n_predict", "num_keep": "n_keep"}


def merge_options(
    model: Mapping[str, Any], request: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Defaults, under the model's parameters, under the request's options.

    Returns:
        the merged options, and the names in the request that mean nothing (for a warning).

    Raises:
        UsageError: an option of the request has a value of the wrong kind.
    """
    merged = {**DEFAULTS, **model}
    unknown = []
    for name, value in request.items():
        parameter = PARAMETERS.get(name)
        if parameter is None or parameter.dead:
            unknown.append(name)
            continue
        if value is None:
            continue
        try:
            merged[name] = check_value(parameter.kind, value)
        except ValueError:
            raise UsageError(
                "request.bad_option",
                tr('option "{name}" must be of type {kind}', name=name, kind=parameter.kind),
            ) from None
    return merged, unknown


def sampling(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one request in llama-server's names; load options are left out."""
    return {
        _LLAMA_NAMES.get(name, name): value
        for name, value in options.items()
        if name in PARAMETERS and not PARAMETERS[name].load
    }
