"""What of a row is learned, and how much of it is kept."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from slipway.core.errors import UsageError
from slipway.core.i18n import tr

Thinking = Literal["keep", "on", "off"]


@dataclass(frozen=True, slots=True)
class EncodeRule:
    """How samples become tokens and labels.

    Attributes:
        cutoff_len: most tokens of one document.
        train_on_prompt: every token is learned, not the answers alone.
        mask_history: of a conversation only the last answer is learned.
        thinking: what happens to the thoughts of a model that thinks. `keep`: the thoughts of the
            rows are learned; where a row has none, an empty thought that the template writes is
            read but not learned. `on`: such an empty thought is learned too. `off`: thoughts are
            taken out of the rows, and the empty one is part of the prompt.
        system: system turn for conversations that have none.
        pt: plain text is learned (stage pt); otherwise rows of text are refused.
    """

    cutoff_len: int
    train_on_prompt: bool = False
    mask_history: bool = False
    thinking: Thinking = "keep"
    system: str | None = None
    pt: bool = False

    def __post_init__(self) -> None:
        if self.cutoff_len < 1:
            raise UsageError(
                "data.cutoff",
                tr("cutoff_len must be at least 1, not {n}", n=self.cutoff_len),
            )

    def as_json(self) -> dict[str, Any]:
        """All fields, for the key of a token cache."""
        return asdict(self)
