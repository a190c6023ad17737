"""A conversation with a model of the daemon, and how the next message is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from slipway.cli.output import note
from slipway.cli.talk.images import read_image, take_images
from slipway.cli.talk.values import Format
from slipway.client import Answer, DaemonClient, Message, Piece
from slipway.core.errors import NotFoundError, SlipwayError, nearest
from slipway.core.i18n import tr


@dataclass
class Session:
    """What has been said, to whom, and with which settings.

    Attributes:
        model: name of the model.
        facts: what /api/show says of it.
        system: takes the place of the model's own system text; empty leaves that.
        options: parameters that go before the model's own.
        format: `json` or a JSON schema that answers must match.
        think: whether, or how hard, the model thinks first; None leaves it to the model.
        keep_alive: how long the model stays loaded after an answer.
        truncate: whether the oldest turns may be left out when they no longer fit.
        turns: messages of both sides.
        images: pictures in base64 that go with the next message.
    """

    daemon: DaemonClient
    model: str
    facts: dict[str, Any] = field(default_factory=dict)
    system: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    format: Format | None = None
    think: bool | str | None = None
    keep_alive: str | None = None
    truncate: bool = False
    turns: list[Message] = field(default_factory=list)
    images: list[str] = field(default_factory=list)

    def begin(self, model: str) -> None:
        """Turn to a model; the conversation begins anew.

        Raises:
            NotFoundError: there is no such model; the session is as before.
        """
        try:
            facts = self.daemon.show(model)
        except NotFoundError as error:
            raise self._missing(model) from error
        self.model, self.facts = model, facts
        self.turns.clear()

    def can(self, ability: str) -> bool:
        """Whether the model can `completion`, `embedding`, `thinking`, ..."""
        return ability in (self.facts.get("capabilities") or ())

    def load(self) -> None:
        """Have the model in memory before the first message."""
        self.daemon.load(self.model, keep_alive=self.keep_alive, options=self.options or None)

    def ask(self, text: str, on_piece: Callable[[Piece], None]) -> Answer:
        """Send a message and hand over the answer piece by piece.

        A model that sees gets the pictures whose paths stand in the message. The turn joins the
        conversation when the answer is complete, or with what had come when it was interrupted
        after its first piece.

        Raises:
            SlipwayError: see `DaemonClient`; the conversation is as before.
            KeyboardInterrupt: the user stopped the answer.
        """
        asked = self._message(text)
        answer = self.daemon.chat(
            self.model,
            [*self._opening(), *self.turns, asked],
            options=self.options,
            format=self.format,
            think=self.think,
            keep_alive=self.keep_alive,
            truncate=self.truncate,
        )
        try:
            for piece in answer:
                on_piece(piece)
        except KeyboardInterrupt:
            if answer.text:
                self._said(asked, answer)
            raise
        finally:
            answer.close()
        self._said(asked, answer)
        return answer

    def _said(self, asked: Message, answer: Answer) -> None:
        self.turns += [asked, {"role": "assistant", "content": answer.text}]
        self.images.clear()

    def _message(self, text: str) -> Message:
        images = [*self.images]
        if self.can("vision"):
            text, paths = take_images(text)
            for path in paths:
                images.append(read_image(path))
                note(tr("added the picture {path}", path=str(path)))
        if images:
            return {"role": "user", "content": text, "images": images}
        return {"role": "user", "content": text}

    def _opening(self) -> list[Message]:
        return [{"role": "system", "content": self.system}] if self.system else []

    def _missing(self, model: str) -> NotFoundError:
        try:
            known = [str(row["name"]).removesuffix(":latest") for row in self.daemon.models()]
        except SlipwayError:
            known = []
        close = nearest(model, known) or [n for n in known if n.partition(":")[0] == model][:3]
        hint = tr("make it with `slipway create` or `slipway pull`; see `slipway list`")
        if close:
            names = ", ".join(f"`{name}`" for name in close)
            hint = tr(
                "did you mean {names}? Else make it with `slipway create` or `slipway pull`",
                names=names,
            )
        return NotFoundError(
            "model.not_found",
            tr("the daemon at {url} has no model `{name}`", url=self.daemon.url, name=model),
            hint,
        )
