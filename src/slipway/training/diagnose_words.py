"""The words of each finding: what is seen and why, and what to change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slipway.core.i18n import Text, tr

_Words = tuple[Text, Text]
_Values = dict[str, Any]


def words(code: str, values: dict[str, Any]) -> tuple[Text, Text]:
    """Cause and remedy of a finding.

    Raises:
        KeyError: no such code, or a value is missing.
    """
    return _WORDS[code](values)


def _rate_too_high(v: _Values) -> _Words:
    return (
        tr(
            "learning_rate {rate:g} is above {high:g}, the most that {stage} with {method} bears: "
            "the loss tends to explode, or what the model knew is lost",
            **_only(v, "rate", "high", "stage", "method"),
        ),
        tr("set learning_rate between {low:g} and {high:g}", **_only(v, "low", "high")),
    )


def _rate_too_low(v: _Values) -> _Words:
    return (
        tr(
            "learning_rate {rate:g} is below {low:g}: {stage} with {method} will hardly learn",
            **_only(v, "rate", "low", "stage", "method"),
        ),
        tr("set learning_rate between {low:g} and {high:g}", **_only(v, "low", "high")),
    )


def _nothing_trained(v: _Values) -> _Words:
    return (
        tr("method {method} leaves no weight to train in this model", **_only(v, "method")),
        tr("look at `lora.target`, `freeze.layers` or `freeze.modules` in the recipe"),
    )


def _all_truncated(v: _Values) -> _Words:
    return (
        tr(
            "all {rows} rows are longer than cutoff_len {cutoff} and were cut: the model never "
            "sees how an answer ends",
            **_only(v, "rows", "cutoff"),
        ),
        tr("set cutoff_len={longest}, the longest row", **_only(v, "longest")),
    )


def _many_truncated(v: _Values) -> _Words:
    return (
        tr(
            "{truncated} of {rows} rows are longer than cutoff_len {cutoff} and were cut",
            **_only(v, "truncated", "rows", "cutoff"),
        ),
        tr("set cutoff_len={longest}, the longest row", **_only(v, "longest")),
    )


def _memory_tight(v: _Values) -> _Words:
    return (
        tr(
            "{used:.1f} of {total:.1f} GB of memory are in use: the system may end the run",
            used=v["used"] / 1e9,
            total=v["total"] / 1e9,
        ),
        tr(
            "`slipway runs stop RUN`, then `slipway runs resume RUN pack_tokens={better}` (now "
            "{pack_tokens})",
            **_only(v, "better", "pack_tokens"),
        ),
    )


def _probably_killed(v: _Values) -> _Words:
    return (
        tr(
            "its process vanished with {used:.1f} of {total:.1f} GB of memory in use: probably "
            "the system ended it for lack of memory",
            used=v["used"] / 1e9,
            total=v["total"] / 1e9,
        ),
        tr("go on with half the pack_tokens: `slipway runs resume RUN pack_tokens=...`"),
    )


def _loss_zero(v: _Values) -> _Words:
    return (
        tr(
            "the loss is {loss:g}: no token is learned, or the numbers overflow",
            **_only(v, "loss"),
        ),
        tr("look at the labels with `slipway data check`, and set dtype: fp32"),
    )


def _loss_exploded(v: _Values) -> _Words:
    return (
        tr(
            "the loss went from {start:.2f} to {now:.2f} and stays there: the steps are too long",
            **_only(v, "start", "now"),
        ),
        tr("train anew with a quarter of the learning_rate, and warmup_ratio: 0.1"),
    )


def _loss_rises(v: _Values) -> _Words:
    return (
        tr("the loss rose from {start:.2f} to {now:.2f}", **_only(v, "start", "now")),
        tr("if it does not come down soon, halve the learning_rate"),
    )


def _loss_stands_still(v: _Values) -> _Words:
    return (
        tr(
            "the loss does not fall: {start:.3f} at the start, {now:.3f} now",
            **_only(v, "start", "now"),
        ),
        tr(
            "try three times the learning_rate or a larger lora.rank, and look at the data with "
            "`slipway data check`"
        ),
    )


def _gradient_exploded(v: _Values) -> _Words:
    return (
        tr(
            "the gradient norm is {norm:g}, where {usual:g} is usual: a row unlike the others, or "
            "steps that are too long",
            **_only(v, "norm", "usual"),
        ),
        tr("if it comes again, lower learning_rate or max_grad_norm"),
    )


def _speed_collapsed(v: _Values) -> _Words:
    return (
        tr(
            "the speed fell from {before:.0f} to {now:.0f} tokens/s: the machine swaps, is too "
            "hot, or works for others",
            **_only(v, "before", "now"),
        ),
        tr("look at the machine with `top`; if it swaps, halve pack_tokens"),
    )


def _eval_rises(v: _Values) -> _Words:
    return (
        tr(
            "the eval loss rises, {best:.4f} at its best and {now:.4f} now: the model learns the "
            "rows by heart",
            **_only(v, "best", "now"),
        ),
        tr("set keep_best: true and early_stopping: 2, or train fewer epochs on more rows"),
    )


def _only(values: _Values, *names: str) -> dict[str, Any]:
    return {name: values[name] for name in names}


_WORDS: dict[str, Callable[[_Values], _Words]] = {
    "rate_too_high": _rate_too_high,
    "rate_too_low": _rate_too_low,
    "nothing_trained": _nothing_trained,
    "all_truncated": _all_truncated,
    "many_truncated": _many_truncated,
    "memory_tight": _memory_tight,
    "probably_killed": _probably_killed,
    "loss_zero": _loss_zero,
    "loss_exploded": _loss_exploded,
    "loss_rises": _loss_rises,
    "loss_stands_still": _loss_stands_still,
    "gradient_exploded": _gradient_exploded,
    "speed_collapsed": _speed_collapsed,
    "eval_rises": _eval_rises,
}
CODES = tuple(_WORDS)
