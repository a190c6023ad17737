"""What the store holds under the names that a ship would create."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from slipway.core.errors import ConflictError, SlipwayError
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.store import resolve_model

if TYPE_CHECKING:
    from slipway.ship.stages import ShipContext

NameState = Literal["new", "same", "taken"]


def name_states(context: ShipContext) -> dict[str, NameState]:
    """Name -> whether it is free, holds what would be made, or something else."""
    return {name: _state(context, name, kind) for name, kind in context.names.items()}


def _state(context: ShipContext, name: str, kind: str) -> NameState:
    from slipway.core.errors import NotFoundError

    try:
        model = resolve_model(name, home=context.home)
        shipped = model.lineage.get("chain", {}).get("ship", {})
    except NotFoundError:
        return "new"
    except SlipwayError:
        return "taken"
    return "same" if shipped.get("identity") == context.identity(kind) else "taken"


def require_free(context: ShipContext) -> None:
    """Refuse to replace models that hold something else, unless that is wanted.

    Raises:
        ConflictError: names are taken; nothing was changed.
    """
    taken = [name for name, state in name_states(context).items() if state == "taken"]
    if taken and not context.options.force:
        raise ConflictError(
            "ship.name_taken",
            tr("{names} exists already and holds another model", names=", ".join(taken)),
            tr("give another name with `--as`, or replace it with `--force`"),
        )


def names_hold(home: Home, names: dict[str, Any]) -> bool:
    """Whether the store still holds these models as they were made, with all their blobs."""
    try:
        return all(
            resolve_model(name, home=home).digest == made["manifest"]
            for name, made in names.items()
        )
    except SlipwayError:
        return False
