"""Runs the migrations on the connection that `slipway.gateway.store` holds."""

from __future__ import annotations

from alembic import context

from slipway.gateway.tables import metadata

# SQLite cannot alter most things in place, hence batch mode; the caller owns the transaction
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
context.run_migrations()
