"""Which embedding model is meant, and how much it reads at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway.cli.talk.session import Session
from slipway.core.errors import NotFoundError, UsageError
from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.client import DaemonClient

_MOST_TOKENS = 256


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """A model that embeds.

    Attributes:
        digest: of its manifest; vectors of another digest cannot be compared.
        chunk_tokens: tokens that a passage should have at most.
    """

    name: str
    digest: str
    chunk_tokens: int


def embedding_model(daemon: DaemonClient, name: str | None) -> EmbeddingModel:
    """The model of that name; None takes the only embedding model there is.

    Raises:
        NotFoundError: no such model, or none that embeds.
        UsageError: it cannot embed, or there are several.
    """
    rows = {str(row["name"]): row for row in daemon.models()}
    known = [n for n, row in rows.items() if "embedding" in (row.get("capabilities") or ())]
    if name is None:
        if not known:
            raise NotFoundError(
                "embed.no_model",
                tr("the daemon has no embedding model"),
                tr(
                    "get one with `slipway pull starter-embed`, then `slipway convert` and "
                    "`slipway create`"
                ),
            )
        if len(known) > 1:
            raise UsageError(
                "embed.which_model",
                tr("there are several embedding models: {names}", names=", ".join(known)),
                tr("choose with `-m {name}`", name=known[0]),
            )
        name = known[0]
    from slipway.store import ModelName

    session = Session(daemon, name)
    session.begin(name)
    if session.facts.get("capabilities") and not session.can("embedding"):
        raise UsageError(
            "embed.cannot_embed",
            tr("`{name}` makes no embeddings", name=name),
            tr("choose with `-m {name}`", name=known[0]) if known else "",
        )
    info = session.facts.get("model_info") or {}
    context = int(info.get(f"{info.get('general.architecture')}.context_length") or _MOST_TOKENS)
    wanted = ModelName.parse(name).folded
    digests = [str(row["digest"]) for n, row in rows.items() if ModelName.parse(n).folded == wanted]
    digest = digests[0] if digests else ""
    return EmbeddingModel(name, digest, max(16, min(_MOST_TOKENS, context * 3 // 4)))
