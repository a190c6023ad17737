"""The gateway's tables. Money is integer micro-units, time is UTC in milliseconds since 1970."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

# the newest migration; a database at this revision is opened without loading Alembic
SCHEMA_HEAD = "0004"

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# one row: how often users, tokens, channels and prices were changed
revision = Table("revision", metadata, Column("value", BigInteger, nullable=False))

users = Table(
    "users",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("role", String, nullable=False),
    Column("group", String, nullable=False, default="default", server_default="default"),
    Column("enabled", Boolean(name="enabled"), nullable=False, default=True),
    Column("created_at", BigInteger, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("prefix", String, nullable=False),
    Column("hash", String, nullable=False, unique=True),  # SHA-256 of the key, hex
    Column("enabled", Boolean(name="enabled"), nullable=False, default=True),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("last_used_at", BigInteger),
    Column("models", JSON(none_as_null=True)),  # list of names; null: every model
    Column("budget_micro", BigInteger),  # null: no limit, still metered
    Column("used_micro", BigInteger, nullable=False, default=0),
    Column("held_micro", BigInteger, nullable=False, default=0),
    Column("rpm", Integer),
    Column("networks", JSON(none_as_null=True)),  # list of CIDR; null: from anywhere
    Column("capture_share_bp", Integer),  # consent, see feedback/consent.py; null: no capture
    Column("capture_days", Integer),
    Column("capture_bytes", Integer),
    CheckConstraint("held_micro >= 0", name="held"),
)

channels = Table(
    "channels",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("kind", String, nullable=False),
    Column("base_url", String, nullable=False),
    Column("reach", String, nullable=False),  # which addresses it may have: see outbound.py
    Column("sealed_key", LargeBinary),
    Column("models", JSON, nullable=False),  # {name that clients use: name at the upstream}
    Column("priority", Integer, nullable=False, default=0),
    Column("weight", Integer, nullable=False, default=1),
    Column("enabled", Boolean(name="enabled"), nullable=False, default=True),
    Column("created_at", BigInteger, nullable=False),
)

prices = Table(
    "prices",
    metadata,
    Column("model", String, primary_key=True),
    Column("input_micro_per_mtok", BigInteger, nullable=False),
    Column("cached_micro_per_mtok", BigInteger),  # null: as input
    Column("output_micro_per_mtok", BigInteger, nullable=False),
)

# one row per request; its `state` leaves "held" exactly once
holds = Table(
    "holds",
    metadata,
    Column("request_id", String, primary_key=True),
    Column("token_id", ForeignKey("tokens.id"), nullable=False),
    Column("amount_micro", BigInteger, nullable=False),
    Column("state", String, nullable=False),
    Column("owner", String, nullable=False),  # the gateway process that must settle it
    Column("model", String, nullable=False),
    Column("endpoint", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("windows", String),  # JSON: the rows of `spending` in which it is held; null: none
    Index(None, "state"),
)

# what may be used: see limits/rules.py; null: no limit
limits = Table(
    "limits",
    metadata,
    Column("scope", String, primary_key=True),
    Column("subject", String, primary_key=True),  # id of a token or user, name of others
    Column("rpm", Integer),
    Column("tpm", Integer),
    Column("concurrency", Integer),
    Column("day_micro", BigInteger),
    Column("month_micro", BigInteger),
    Column("total_micro", BigInteger),
)

# what was spent in a period that has a budget
spending = Table(
    "spending",
    metadata,
    Column("scope", String, primary_key=True),
    Column("subject", String, primary_key=True),
    Column("period", String, primary_key=True),  # 2026-11-27, 2026-11, total; UTC
    Column("used_micro", BigInteger, nullable=False),
    Column("held_micro", BigInteger, nullable=False),
)

# double entry: the amounts of one (request, phase) add up to zero
entries = Table(
    "entries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("request_id", ForeignKey("holds.request_id"), nullable=False),
    Column("phase", String, nullable=False),
    Column("account", String, nullable=False),
    Column("amount_micro", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("request_id", "phase", "account"),
)

requests = Table(
    "requests",
    metadata,
    Column("request_id", String, primary_key=True),
    Column("client_request_id", String),
    Column("created_at", BigInteger, nullable=False),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("token_id", ForeignKey("tokens.id"), nullable=False),
    Column("channel_id", ForeignKey("channels.id")),
    Column("model", String, nullable=False),
    Column("endpoint", String, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cost_micro", BigInteger, nullable=False),
    Column("priced", Boolean(name="priced"), nullable=False),
    Column("estimated", Boolean(name="estimated"), nullable=False),
    Column("status", Integer, nullable=False),
    Column("error", String),
    Column("stream", Boolean(name="stream"), nullable=False),
    Column("ttft_ms", BigInteger),
    Column("duration_ms", BigInteger, nullable=False),
    Index(None, "created_at"),
)

# what a user thinks of an answer; texts are masked
feedback = Table(
    "feedback",
    metadata,
    Column("request_id", String, primary_key=True),
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("score", Float),
    Column("label", String),
    Column("comment", String),
    Column("correction", String),
    Column("created_at", BigInteger, nullable=False),
    Index(None, "created_at"),
)

# prompts and answers kept with consent; masked JSON
captures = Table(
    "captures",
    metadata,
    Column("request_id", String, primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("model", String, nullable=False),
    Column("prompt", LargeBinary, nullable=False),  # {"messages": [...], "tools": [...]}
    Column("answer", LargeBinary, nullable=False),  # the assistant's turn
    Column("finish", String),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index(None, "expires_at"),
    Index(None, "user_id"),
)
