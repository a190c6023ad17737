"""A count of changes, by which running gateways know that their copies are old."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table and its one row."""
    op.create_table("revision", sa.Column("value", sa.BigInteger(), nullable=False))
    op.execute("INSERT INTO revision (value) VALUES (0)")
