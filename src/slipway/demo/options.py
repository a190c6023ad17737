"""What can be chosen for a demo run, and what follows from the choice."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import slipway
from slipway.core.errors import NotFoundError
from slipway.core.i18n import Language, current_language, tr

QUANT_TYPES = ("Q4_K_M", "Q5_K_M", "Q8_0")


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Choices of one demo run.

    Attributes:
        base: name of the base model (`starter`, `ms://org/repo`, `hf://org/repo`, a folder);
            None takes Qwen2.5-0.5B-Instruct when a hub answers within 3 s, else the starter.
        data: dataset folder; None takes the example that fits the base and the language.
        report: folder of the report; None is `report` below the demo's folder.
        quick: fewer steps, rows and chunks: a look at the path, not at the quality.
        fresh: do everything again except downloads and the native build.
        types: quantisation types, see `slipway quantize`.
        train_budget_s: seconds for training on a CPU, evaluation and checkpoints included.
        max_steps: upper limit of training steps, for tests.
        daemon_port, gateway_port: preferred ports; another free one is taken when occupied, or
            when 0 is asked for.
        keep_services: leave daemon and gateway running at the end.
    """

    base: str | None = None
    data: Path | None = None
    report: Path | None = None
    quick: bool = False
    fresh: bool = False
    types: tuple[str, ...] = QUANT_TYPES
    train_budget_s: float = 0.0
    max_steps: int | None = None
    daemon_port: int = 11434
    gateway_port: int = 3000
    keep_services: bool = True
    with_embeddings: bool = True
    language: Language = "en"

    @property
    def budget_s(self) -> float:
        """Seconds for training: what was asked for, else by `quick`; never above six minutes."""
        return min(self.train_budget_s or (40.0 if self.quick else 240.0), 360.0)

    @property
    def eval_rows(self) -> int:
        """Held-out rows that each model answers."""
        return 12 if self.quick else 48

    @property
    def eval_chunks(self) -> int:
        """Chunks of the text file for perplexity and KLD."""
        return 4 if self.quick else 12


def examples_folder() -> Path:
    """The `examples` folder of the checkout that this package runs from.

    Raises:
        NotFoundError: installed without the checkout.
    """
    folder = Path(slipway.__file__).resolve().parents[2] / "examples"
    if not folder.is_dir():
        raise NotFoundError(
            "demo.no_examples",
            tr("the example datasets are not beside this installation"),
            tr("run from a checkout, or give your own with `slipway demo --data DIR`"),
        )
    return folder


def default_data(base: str, language: Language | None = None) -> Path:
    """The example dataset for a base model.

    The starter model knows English only, so it gets `support-en` in either language; a Qwen base
    gets the dataset of the reader's language.
    """
    chinese = (language or current_language()) == "zh" and not base.startswith("starter")
    return examples_folder() / ("kefu-zh" if chinese else "support-en")


def model_stem(data: Path) -> str:
    """The model's name for a dataset: what of the folder's name a model name may have.

    Example: `My Shop` gives `my-shop`; a name without such letters gives `assistant`.
    """
    stem = re.sub(r"[^a-z0-9_.-]+", "-", data.name.lower()).strip("-.")
    return stem[:64] or "assistant"
