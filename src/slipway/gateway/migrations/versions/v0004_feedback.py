"""Feedback on answers, consent to capture, and what was captured."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add tables and columns; nobody has consented."""
    for name in ("capture_share_bp", "capture_days", "capture_bytes"):
        op.add_column("tokens", sa.Column(name, sa.Integer()))
    op.create_table(
        "feedback",
        sa.Column("request_id", sa.String(), primary_key=True),
        sa.Column("user_id", sa.Integer(), sa.ForeignKey("users.id"), primary_key=True),
        sa.Column("score", sa.Float()),
        sa.Column("label", sa.String()),
        sa.Column("comment", sa.String()),
        sa.Column("correction", sa.String()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
    )
    op.create_index("ix_feedback_created_at", "feedback", ["created_at"])
    op.create_table(
        "captures",
        sa.Column("request_id", sa.String(), primary_key=True),
        sa.Column("user_id", sa.Integer(), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("prompt", sa.LargeBinary(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.Column("finish", sa.String()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
    )
    op.create_index("ix_captures_expires_at", "captures", ["expires_at"])
    op.create_index("ix_captures_user_id", "captures", ["user_id"])
