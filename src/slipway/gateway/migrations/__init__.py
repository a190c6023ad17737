"""Alembic's scripts; `slipway.gateway.store` runs them when a database is opened."""
