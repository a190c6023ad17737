"""The quality card as a layer of a model: what quantising has cost it, measured."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.store import manifests as media
from slipway.store.catalogue import resolve_model
from slipway.store.manifests import Layer, ManifestStore, ModelManifest

CARD = "quality.json"

logger = logging.getLogger("slipway.store")


def quality_beside(folder: Path, digest: str) -> bytes | None:
    """The card in an artefact's folder; None when there is none, or it is another artefact's."""
    try:
        data = (folder / CARD).read_bytes()
        value = json.loads(data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("no quality card for %s: %s", folder, error)
        return None
    if not isinstance(value, dict) or value.get("artefact") != digest:
        logger.warning("the quality card in %s is of another artefact", folder)
        return None
    return data


def attach_quality(name: str, card: dict[str, Any], *, home: Home) -> ModelManifest:
    """Keep a card with a model of the store, in the place of an older one.

    Args:
        card: as `slipway.evaluation.quality.keep.card_of` makes it; its "artefact" is the digest of
            the file that was measured.

    Raises:
        NotFoundError, ConflictError: no such model, or a blob of it is missing.
        InputError: the card is of another file than the model's.
    """
    store = ManifestStore(home.models)
    with store.blobs.lock(exclusive=False):
        model = resolve_model(name, home=home)
        if card.get("artefact") != model.of_type(media.MODEL)[0].digest:
            raise InputError(
                "store.other_card", tr("the quality card is not of {name}'s file", name=model.name)
            )
        data = json.dumps(card, ensure_ascii=False, separators=(",", ":")).encode()
        blob = store.blobs.put_bytes(data)
        layers = [layer for layer in model.layers if layer.media_type != media.QUALITY]
        layers.append(Layer(media.QUALITY, blob.digest, blob.size))
        return store.write(model.name, model.config, layers)
