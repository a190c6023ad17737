"""What the run says about how its model is asked: the system prompt it learned under."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import yaml

from slipway.core.errors import SlipwayError
from slipway.core.i18n import Text, tr

_ROWS_READ = 200


@dataclass(frozen=True, slots=True)
class SystemPrompt:
    """A system prompt and where it was found; `text` is empty when there is none.

    Attributes:
        warning: why none could be taken although there may be one.
    """

    text: str
    origin: str
    warning: Text | None = None


def system_prompt(run: Path | None, given: str | None) -> SystemPrompt:
    """The system prompt for the Modelfile.

    That of `given`, else the recipe's `system`, else the one that all of the first rows have in
    common. A prompt that only some rows have is none that the model always expects.
    """
    if given is not None:
        return SystemPrompt(given, "flag")
    if run is None:
        return SystemPrompt("", "none")
    from slipway.datasets import open_samples
    from slipway.training import TrainSpec

    try:
        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
        spec = TrainSpec.model_validate({"model": "", **recipe})
        rows = open_samples(spec.sources, mix=spec.mix, bad_rows=spec.bad_rows, stage=spec.stage)
        prompts = [_system_of(sample) or spec.system or "" for sample in islice(rows, _ROWS_READ)]
    except (OSError, yaml.YAMLError, TypeError, ValueError, SlipwayError) as error:
        return SystemPrompt(
            "",
            "none",
            tr(
                "the data of {run} could not be read, so no system prompt was taken from it "
                "({reason}); give it with `--system TEXT`",
                run=run.name,
                reason=error.message if isinstance(error, SlipwayError) else str(error),
            ),
        )
    counts = Counter(prompts)
    if len(counts) == 1:
        text = next(iter(counts))
        return SystemPrompt(text, ("recipe" if text == spec.system else "data") if text else "none")
    return SystemPrompt(
        "",
        "none",
        tr(
            "the rows of {run} have {count} different system prompts, so none was taken; give one "
            "with `--system TEXT`",
            run=run.name,
            count=len(counts),
        )
        if counts
        else None,
    )


def _system_of(sample: object) -> str:
    messages = getattr(sample, "messages", ())
    return messages[0].content if messages and messages[0].role == "system" else ""
