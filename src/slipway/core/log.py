"""Logs of the services: lines for people, or one JSON object a line for programs."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime

FIELDS = "fields"
"""Key of `extra` under which a record carries a dict of its own fields."""


class JsonFormatter(logging.Formatter):
    """time (UTC), level, logger, message, the record's own fields, and a traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def start_logging() -> None:
    """Log to stderr as SLIPWAY_LOG (level) and SLIPWAY_LOG_FORMAT (`text`, `json`) say."""
    handler = logging.StreamHandler()
    if os.environ.get("SLIPWAY_LOG_FORMAT", "").strip().lower() == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(handlers=[handler])
    level = os.environ.get("SLIPWAY_LOG", "INFO").upper()
    known = level in logging.getLevelNamesMapping()
    logging.getLogger("slipway").setLevel(level if known else logging.INFO)
