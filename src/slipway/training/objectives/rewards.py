"""What answers are worth: a function of the user's, or a trained reward model."""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from slipway.core.errors import InputError, SlipwayError, UsageError
from slipway.core.i18n import tr
from slipway.datasets import Encoded
from slipway.training.spec import TrainSpec


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that is to be rewarded.

    Attributes:
        prompt: the conversation before it as the template writes it, without control tokens.
        text: the answer.
        reference: the answer that the row has.
        document: prompt and answer as a reward model reads them.
    """

    prompt: str
    text: str
    reference: str
    document: Encoded


class Rewards(Protocol):
    """Who says what answers are worth."""

    def of(self, answers: Sequence[Answered], stop: Callable[[], None]) -> list[float]:
        """A number for each answer; higher is better."""


def make_rewards(spec: TrainSpec) -> Rewards:
    """The rewards of a recipe of stage rloo or grpo.

    Raises:
        UsageError: the recipe names none, or both.
        SlipwayError: what it names cannot be used.
    """
    function, run = spec.rl.reward_function, spec.rl.reward_model
    if (function is None) == (run is None):
        raise UsageError(
            "train.no_reward",
            tr("stage {stage} needs `rl.reward_function` or `rl.reward_model`", stage=spec.stage),
            tr("give one of them: `FILE.py:NAME`, or a run of stage rm"),
        )
    if function is not None:
        return ByFunction(function)
    return ByModel(Path(str(run)), spec)


class ByFunction:
    """`FILE.py:NAME`, a function (prompts, answers) -> rewards.

    One with a parameter `references` gets the rows' own answers too.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._function = load_function(place)
        self._wants_references = "references" in inspect.signature(self._function).parameters

    def of(self, answers: Sequence[Answered], stop: Callable[[], None]) -> list[float]:
        """See `Rewards`.

        Raises:
            InputError: the function fails, or does not give one finite number for each answer.
        """
        stop()
        given: dict[str, Any] = {}
        if self._wants_references:
            given["references"] = [answer.reference for answer in answers]
        try:
            found = self._function(
                [answer.prompt for answer in answers], [answer.text for answer in answers], **given
            )
            values = [float(value) for value in found]
        except Exception as error:  # whatever the user's own code does
            raise self._bad(f"{type(error).__name__}: {error}") from error
        if len(values) != len(answers):
            raise self._bad(f"{len(values)} rewards for {len(answers)} answers")
        if not all(math.isfinite(value) for value in values):
            raise self._bad("a reward is not a finite number")
        return values

    def _bad(self, reason: str) -> SlipwayError:
        return InputError(
            "train.bad_reward",
            tr("the reward function {place} fails: {reason}", place=self._place, reason=reason),
            tr("it gets lists of prompts and answers, and gives a list of one number for each"),
        )


def load_function(place: str) -> Callable[..., Any]:
    """The function that `FILE.py:NAME` names. The file is run.

    Raises:
        UsageError: it has not that form.
        InputError: the file cannot be run, or has no such function.
    """
    path, sign, name = place.rpartition(":")
    if not sign or not path.endswith(".py") or not name.isidentifier():
        raise UsageError(
            "train.no_reward",
            tr("`rl.reward_function: {place}` is not FILE.py:NAME", place=place),
            tr("for example `rewards.py:politeness`"),
        )
    made = importlib.util.spec_from_file_location("slipway_reward", path)
    try:
        assert made is not None and made.loader is not None
        module = importlib.util.module_from_spec(made)
        made.loader.exec_module(module)
        function = getattr(module, name)
    except Exception as error:  # whatever the user's own code does
        raise InputError(
            "train.bad_reward",
            tr(
                "the reward function {place} fails: {reason}",
                place=place,
                reason=f"{type(error).__name__}: {error}",
            ),
            tr("mend the file, or name another function"),
        ) from error
    assert callable(function)
    return function  # type: ignore[no-any-return]


class ByModel:
    """A run of stage rm whose base has the same tokens."""

    def __init__(self, run: Path, spec: TrainSpec) -> None:
        from slipway.training.objectives.other_model import require_same_tokens
        from slipway.training.reward_model import load_reward

        self._model = load_reward(run, threads=spec.threads, dtype=spec.dtype)
        require_same_tokens(Path(self._model.spec.model), Path(spec.model))

    def of(self, answers: Sequence[Answered], stop: Callable[[], None]) -> list[float]:
        """See `Rewards`."""
        return self._model.score([answer.document for answer in answers], stop)
