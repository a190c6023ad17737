"""Groups of users, limits, budgets of a period, and the networks that a token may be used from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables and columns; everybody is in the group `default`."""
    group = sa.Column("group", sa.String(), nullable=False, server_default="default")
    op.add_column("users", group)
    op.add_column("tokens", sa.Column("networks", sa.JSON(none_as_null=True)))
    op.add_column("holds", sa.Column("windows", sa.String()))
    op.create_table(
        "limits",
        sa.Column("scope", sa.String(), primary_key=True),
        sa.Column("subject", sa.String(), primary_key=True),
        sa.Column("rpm", sa.Integer()),
        sa.Column("tpm", sa.Integer()),
        sa.Column("concurrency", sa.Integer()),
        sa.Column("day_micro", sa.BigInteger()),
        sa.Column("month_micro", sa.BigInteger()),
        sa.Column("total_micro", sa.BigInteger()),
    )
    op.create_table(
        "spending",
        sa.Column("scope", sa.String(), primary_key=True),
        sa.Column("subject", sa.String(), primary_key=True),
        sa.Column("period", sa.String(), primary_key=True),
        sa.Column("used_micro", sa.BigInteger(), nullable=False),
        sa.Column("held_micro", sa.BigInteger(), nullable=False),
    )
