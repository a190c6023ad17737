"""The same proof at the other end: what the running daemon makes of texts and chats.

A model of the store is served with its own SYSTEM and MESSAGEs, its TEMPLATE, and the daemon's way
of putting messages together. `Daemon` gives the proof's questions to its HTTP interface, so that
they are answered by what answers the model's users.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.core.errors import NotFoundError, ToolError, UnreachableError
from slipway.core.i18n import tr
from slipway.export.proof import ProofResult, prove_by

if TYPE_CHECKING:
    import httpx


class Daemon:
    """Answers what a llama-server of the proof would answer, for one model of a running daemon.

    Raises:
        UnreachableError: nobody answers.
        NotFoundError: it has no such model.
    """

    def __init__(self, client: httpx.Client, model: str) -> None:
        self._client, self._model = client, model
        shown = self._post("/api/show", {"model": model})
        self._template = str(shown.get("template", ""))
        self._system = str(shown.get("system", ""))
        self._messages = list(shown.get("messages") or [])

    def get(self, path: str) -> Any:
        """`/props`: the template that is used."""
        return {"chat_template": self._template} if path == "/props" else {}

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """`/tokenize` and `/apply-template`, by the daemon's own routes."""
        if path == "/tokenize":
            return self._post("/api/tokenize", {"model": self._model, **body})
        request = {"model": self._model, **body, "_debug_render_only": True, "stream": False}
        answer = self._post("/api/chat", request)
        return {"prompt": answer["_debug_info"]["rendered_template"]}

    def conversation(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """What the daemon is expected to render: the model's own texts put in."""
        rest = list(messages)
        first: list[dict[str, Any]] = []
        if rest and rest[0]["role"] == "system":
            first = [rest.pop(0)]
        elif self._system:
            first = [{"role": "system", "content": self._system}]
        return [*first, *self._messages, *rest]

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        import httpx

        try:
            answer = self._client.post(path, json=body)
        except httpx.HTTPError as error:
            raise UnreachableError(
                "daemon.unreachable",
                tr(
                    "no daemon answers at {url}: {reason}",
                    url=self._client.base_url,
                    reason=error,
                ),
                tr("start it with `slipway serve`"),
            ) from error
        if answer.status_code == 404 and path == "/api/show":
            raise NotFoundError(
                "model.not_found",
                tr("model '{name}' not found", name=self._model),
                tr("see the models with `slipway list`"),
            )
        if answer.status_code != 200:
            raise ToolError(
                "daemon.refused",
                tr("the daemon refused {path}: {reason}", path=path, reason=answer.text[:300]),
            )
        return answer.json()


def prove_daemon(url: str, model: str, model_dir: Path) -> ProofResult:
    """Compare a model that a daemon serves with the folder it was made from.

    Raises:
        ProofError: ids or template differ; the message shows the first difference.
        UnreachableError, NotFoundError, ToolError: the daemon does not answer, or not with the
            model.
    """
    import httpx

    key = os.environ.get("SLIPWAY_SERVE_KEY", "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url, timeout=300.0, headers=headers) as client:
        daemon = Daemon(client, model)
        return prove_by(daemon, model_dir, conversation=daemon.conversation)
