"""How answers are made: the settings of a generation, the same for every model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from slipway.core.errors import UsageError
from slipway.core.i18n import tr


@dataclass(frozen=True, slots=True)
class Generation:
    """Settings of an answer.

    Attributes:
        max_new_tokens: longest answer.
        temperature: 0 takes the likeliest token each time; otherwise tokens are drawn.
        top_p: drawn among the likeliest tokens that together have this probability.
        seed: the same seed asks for the same draws; each row has its own, made from it.
        stop: texts that end an answer and are not part of it.
        thinking: whether a model that can think first shall; "keep" leaves it to its template.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    thinking: Literal["keep", "on", "off"] = "keep"

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UsageError(
                "eval.generation",
                tr("max_new_tokens >= 1, temperature >= 0 and 0 < top_p <= 1 are needed"),
            )
        if any(not text for text in self.stop):
            raise UsageError("eval.generation", tr("an empty stop text would end every answer"))

    def as_openai(self) -> dict[str, Any]:
        """The settings as fields of a chat request."""
        body: dict[str, Any] = {
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
        }
        if self.temperature:
            body["top_p"] = self.top_p
        if self.thinking != "keep":
            body["chat_template_kwargs"] = {"enable_thinking": self.thinking == "on"}
        if self.stop:
            body["stop"] = list(self.stop)
        return body

    def as_json(self) -> dict[str, Any]:
        """The settings as `results.json` holds them."""
        return {**asdict(self), "stop": list(self.stop)}

    def cut(self, text: str) -> str:
        """The text up to the first stop text."""
        return text[: min((text.find(s) for s in self.stop if s in text), default=len(text))]
