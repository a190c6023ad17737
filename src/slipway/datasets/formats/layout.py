"""Where a row keeps its parts: column names, and the names of roles inside a turn.

Our own layouts know every usual name. A registry's layout knows the names it lists, no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from slipway.datasets.model import Format, Role

TurnRole = Role | Literal["call"]
"""A role of ours, or `call`: an assistant turn whose whole text is a function call as JSON."""


@dataclass(frozen=True, slots=True)
class Tags:
    """The keys of a turn and what its roles are called.

    Attributes:
        roles: name in the file -> what it is here.
    """

    role: str
    content: str
    roles: Mapping[str, TurnRole]


OPENAI_TAGS = Tags(
    "role",
    "content",
    {
        "system": "system",
        "developer": "system",
        "user": "user",
        "assistant": "assistant",
        "tool": "tool",
        "function": "tool",
    },
)
SHAREGPT_TAGS = Tags(
    "from",
    "value",
    {
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "assistant": "assistant",
        "system": "system",
        "observation": "tool",
        "tool": "tool",
        "function_call": "call",
        "tool_call": "call",
    },
)


@dataclass(frozen=True, slots=True)
class Layout:
    """A format and the columns its parts stand in; an empty name is a part that is not there.

    Attributes:
        prompt, query, response, history: of an instruction (Alpaca).
        messages: the list of turns.
        mark: columns that may hold the mark of a feedback; the first that is there counts.
        media: columns of pictures, videos or sounds, which rows may not have filled.
        registry: this is LLaMA Factory's reading: a system turn in the messages goes before the
            system column, tool results need no call before them, rows have no ids, and whether
            they are pairs is said by `ranking`.
        ranking: rows are pairs of a better and a worse answer; None: told by their keys.
        pt: a prompt without a response column is a text (stage `pt`).
    """

    format: Format
    prompt: str = ""
    query: str = ""
    response: str = ""
    history: str = ""
    messages: str = ""
    system: str = ""
    tools: str = ""
    chosen: str = "chosen"
    rejected: str = "rejected"
    mark: tuple[str, ...] = ("kto_tag", "label")
    media: tuple[str, ...] = ("images", "videos", "audios")
    text: str = ""
    tags: Tags = field(default=OPENAI_TAGS)
    registry: bool = False
    ranking: bool | None = None
    pt: bool = False

    def keys(self) -> frozenset[str]:
        """Every column that is read."""
        named = (self.prompt, self.query, self.response, self.history, self.messages, self.text)
        pairs = (self.system, self.tools, self.chosen, self.rejected, *self.mark, *self.media)
        own = () if self.registry else ("id", "topic")
        return frozenset(name for name in (*named, *pairs, *own) if name)


LAYOUTS: dict[Format, Layout] = {
    "openai": Layout("openai", messages="messages", system="system", tools="tools"),
    "sharegpt": Layout(
        "sharegpt",
        messages="conversations",
        system="system",
        tools="tools",
        tags=SHAREGPT_TAGS,
    ),
    "alpaca": Layout(
        "alpaca",
        prompt="instruction",
        query="input",
        response="output",
        history="history",
        system="system",
        tools="tools",
    ),
    "trl": Layout("trl", prompt="prompt", response="completion", system="system", tools="tools"),
    "text": Layout("text", text="text", chosen="", rejected="", mark=()),
}
